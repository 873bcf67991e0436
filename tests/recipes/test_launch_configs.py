# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The files for `accelerate launch --config_file`."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

FOLDER = Path(__file__).parents[2] / "recipes" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_is_one_for_each_kind_of_site_and_for_one_job():
    kinds = ["cpu_site", "gpu_site"]
    assert [path.stem for path in FILES] == sorted([*kinds, *(f"{kind}_deepspeed" for kind in kinds), "one_job_gpu"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    values = yaml.safe_load(path.read_text())
    assert values["num_processes"] % values["num_machines"] == 0
    parser = launch_command_parser()
    arguments, _, _ = _validate_launch_command(parser.parse_args(["--config_file", str(path), "script.py"]))
    keys = {"num_machines", "machine_rank", "num_processes", "use_cpu"}
    # A site's file is the same at every site: it knows of no other.
    assert ("main_process_ip" in values) == (values["num_machines"] > 1) == path.stem.startswith("one_job")
    # Accelerate refuses it beside a DeepSpeed JSON, which has its own.
    keys |= set() if "deepspeed_config" in values else {"mixed_precision"}
    for key in keys:
        assert getattr(arguments, key) == values[key], key


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_explained(path):
    lines = path.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if line and not line.lstrip().startswith("#")]
    assert keys and all(lines[i - 1].lstrip().startswith("# ") for i in keys)
