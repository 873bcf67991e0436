# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""DeepSpeed on two sites of two ranks each: what a site computes stays there, and rounds act on the masters."""

import ast
import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from geo_accel import ConfigError, load_config
from geo_accel.topology import Site, Topology
from geo_accel.transport.identity import HEADER_BYTES
from tests.workers.launch import Finished, run_workers
from tests.workers.models import build_data, build_model

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]
pytest.importorskip("deepspeed")

from deepspeed.comm.torch import TorchBackend  # noqa: E402
from deepspeed.runtime.pipe.engine import PipelineEngine  # noqa: E402
from deepspeed.runtime.pipe.module import PipelineModule  # noqa: E402
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint  # noqa: E402

from geo_accel.integrations import deepspeed_seam as seam  # noqa: E402
from geo_accel.integrations.deepspeed import make_engine  # noqa: E402
from geo_accel.integrations.one_world import deepspeed_backend as backend  # noqa: E402

# Whole units, so that every way of holding the masters sends the same values in the same rounds.
CONFIG = json.dumps(
    {"sync": {"period": 3, "delay": 1, "schedule": "equal", "outer": "mean"}, "compression": {"codec": "fp32"}}
)
EVERY_STEP = json.dumps({"sync": {"mode": "blocking", "period": 1, "outer": "mean"}, "compression": {"codec": "fp32"}})
SEED, STEPS = 0, 15
SGD = ["--optimizer", "SGD", "--steps", "10"]
TWICE = ["--zero", "1", "--accumulate", "2", "--steps", "8"]
BF16 = ["--dtype", "bf16", "--steps", "11"]


def launch(commands: list[str], sites: tuple[int, ...] = (2, 2), jobs: bool = False) -> list[Finished]:
    # DeepSpeed's kernel for shared memory would take all ranks of this machine for one site.
    environ = {"LOCAL_SIZE": str(sites[0]), "DS_ACCELERATOR": "cpu"}
    return run_workers(["tests.workers.deepspeed_worker", *commands], sites, 170, environ, jobs=jobs)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Records and final parameters by run and rank. One launch, because importing DeepSpeed takes longest."""
    folder = tmp_path_factory.mktemp("deepspeed")
    wanted = {
        **{f"zero-{stage}": ["--zero", str(stage), "--steps", str(STEPS)] for stage in range(4)},
        "plain": ["--plain", "geo", "--steps", str(STEPS)],
        "ddp": ["--plain", "ddp", *SGD],
        "every-step": ["--zero", "1", *SGD, "--config", EVERY_STEP],
        "lora": ["--zero", "1", "--model", "llama-lora", "--steps", "12"],
        "bf16-0": [*BF16, "--zero", "0"],
        "bf16-1": [*BF16, "--zero", "1"],
        "bf16-2": [*BF16, "--zero", "2", "--offload", "--save-at", "5"],
        "bf16-3": [*BF16, "--zero", "3", "--early", "--save-at", "5"],
        "overflow": ["--zero", "2", "--dtype", "fp16", "--overflow-at", "5"],
        "twice-1": [*TWICE, "--save-at", "5"],
        "resumed-1": [*TWICE, "--resume", str(folder / "twice-1" / "checkpoint")],
        "resumed-2": [*BF16, "--zero", "2", "--offload", "--resume", str(folder / "bf16-2" / "checkpoint")],
        "resumed-3": [*BF16, "--zero", "3", "--early", "--resume", str(folder / "bf16-3" / "checkpoint")],
    }
    return {"folder": folder} | found(folder, wanted)


def found(folder: Path, wanted: dict[str, list[str]], jobs: bool = False) -> dict[str, tuple[list, list]]:
    """Records and final parameters by run and rank, of one launch for all."""
    commands = [
        word
        for name, how in wanted.items()
        for word in ("--config", CONFIG, *how, "--out", str(folder / name), "--and")
    ]
    finished = launch(commands[:-1], jobs=jobs)
    assert [one.returncode for one in finished] == [0] * 4, "\n".join(one.output[-1500:] for one in finished)
    return {
        name: (
            [json.loads((folder / name / f"rank-{rank}.json").read_text()) for rank in range(4)],
            [load_file(folder / name / f"rank-{rank}.safetensors") for rank in range(4)],
        )
        for name in wanted
    }


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The same with a job per site, which has no backend of ours."""
    folder = tmp_path_factory.mktemp("deepspeed-jobs")
    wanted = {
        **{f"zero-{stage}": ["--zero", str(stage), "--steps", str(STEPS)] for stage in range(4)},
        "every-step": ["--zero", "1", *SGD, "--config", EVERY_STEP],
        "twice-1": [*TWICE, "--save-at", "5"],
        "resumed-1": [*TWICE, "--resume", f"{folder}/twice-1/{{site}}/checkpoint"],
    }
    return found(folder, wanted, jobs=True)


KINDS = ["zero-0", "zero-1", "zero-2", "zero-3", "bf16-0", "bf16-1", "bf16-2", "bf16-3", "overflow"]


@pytest.mark.parametrize("name", KINDS)
def test_what_is_computed_stays_in_the_site_and_sites_agree_in_the_end(runs, name):
    records, weights = runs[name]
    unlike = [record["unlike"] for record in records]
    assert unlike[0] == unlike[1] != unlike[2] == unlike[3]  # between rounds: inside a site, and between sites
    assert all(values.equal(weights[0][name]) for held in weights for name, values in held.items())
    assert [record["copies_agree"] for record in records] == [True] * 4
    assert [record["spanning"] for record in records] == [0] * 4
    assert records[0]["summary"]["wan_bytes"] > 0
    dtype = {"zero": "torch.float32", "bf16": "torch.bfloat16", "overflow": "torch.float16"}[name.split("-")[0]]
    assert {str(values.dtype) for values in weights[0].values()} == {dtype}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_trains_as_without_deepspeed(runs, stage):
    for plain, sharded in zip(runs["plain"][0], runs[f"zero-{stage}"][0], strict=True):
        assert len(sharded["losses"]) == STEPS
        assert sharded["losses"] == pytest.approx(plain["losses"], abs=1e-4)


@pytest.mark.parametrize("name", ["zero-0", "zero-1", "zero-2", "zero-3", "every-step", "twice-1", "resumed-1"])
def test_a_job_per_site_ends_with_the_bits_of_one_job(runs, jobs, name):
    """One that was resumed, each site from its own disk, included."""
    (_, one), (records, apart) = runs[name], jobs[name]
    assert all(values.equal(b[key]) for a, b in zip(one, apart, strict=True) for key, values in a.items())
    assert all(values.equal(apart[0][key]) for held in apart for key, values in held.items())
    assert [record["of_one_world"] for record in records] == [[]] * 4


def test_averaging_every_step_is_data_parallelism_over_all_ranks(runs):
    (ddp, over_all), (records, weights) = runs["ddp"], runs["every-step"]
    assert [record["losses"] for record in records] == [pytest.approx(record["losses"], abs=1e-5) for record in ddp]
    start = starting_weights("gpt2")
    for name, values in weights[0].items():
        assert (values - over_all[0][name]).abs().max() < 1e-5
    assert max((values - start[name]).abs().max() for name, values in weights[0].items()) > 1e-4


def starting_weights(kind: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(SEED)
    return dict(build_model(kind).named_parameters())


def test_of_lora_only_adapters_cross_the_wan(runs):
    records, weights = runs["lora"]
    adapters = sum(values.numel() for name, values in weights[0].items() if "lora_" in name)
    exchanges = 12 // 3 + 1  # one per period, and the flush
    sent = sum(record["summary"]["wan_bytes"] for record in records[:2])
    # Beside the values themselves a header with every message: one at most for each rank, step and flush.
    assert 0 <= sent - exchanges * 4 * adapters <= 2 * HEADER_BYTES * (12 + 1)
    start = starting_weights("llama-lora")
    changed = {name for name, values in weights[0].items() if not values.equal(start[name])}
    assert changed == {name for name in start if "lora_" in name}


def test_adapters_merge_into_a_model_that_says_the_same(runs):
    model = build_model("llama-lora")
    model.load_state_dict(runs["lora"][1][0], strict=False)
    batch = {name: row.unsqueeze(0) for name, row in build_data("llama", 1)[0].items()}
    with torch.no_grad():
        apart = model(**batch)
        merged = model.merge_and_unload()(**batch)
    assert torch.allclose(apart.logits, merged.logits, atol=1e-5) and merged.loss.isfinite()


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeeds_own_tool_makes_fp32_weights_of_a_checkpoint(runs, stage):
    folder = Path(runs["folder"], f"bf16-{stage}", "checkpoint")
    sites = [
        get_fp32_state_dict_from_zero_checkpoint(str(place)) for place in (folder, folder / "geo_accel" / "site1")
    ]
    for name in starting_weights("gpt2"):
        one, other = (found[name] for found in sites)
        assert one.dtype == torch.float32 and one.equal(other)  # it was flushed before it was saved


def test_an_overflow_on_one_site_skips_no_round(runs):
    skipped = [record["skipped"] for record in runs["overflow"][0]]
    assert skipped[0] == skipped[1] > skipped[2] == skipped[3]


@pytest.mark.parametrize("kind, stage, batches", [("bf16", 2, 5), ("bf16", 3, 5), ("twice", 1, 10)])
def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(runs, kind, stage, batches):
    (whole, weights), (resumed, again) = runs[f"{kind}-{stage}"], runs[f"resumed-{stage}"]
    for before, after in zip(whole, resumed, strict=True):
        assert after["losses"] == before["losses"][batches:]
        assert after["summary"]["steps"] == before["summary"]["steps"]
    assert all(values.equal(weights[0][name]) for held in again for name, values in held.items())


def refused(folder: Path, *arguments: str, sites: tuple[int, ...] = (2, 2)) -> str:
    finished = launch([*arguments, "--out", str(folder)], sites)
    lines = {line for one in finished for line in one.output.splitlines() if line.startswith("error: ")}
    assert {one.returncode for one in finished} == {2} and len(lines) == 1, finished[0].output[-2000:]
    return lines.pop()


def test_a_model_prepared_over_all_sites_is_refused(tmp_path):
    assert "the model was prepared over all sites: call geo_accel.keep_deepspeed_in_site(config) before" in refused(
        tmp_path, "--zero", "1", "--late", sites=(1, 1)
    )


def test_a_block_inside_zero_optimization_is_refused():
    told = {"zero_optimization": {"stage": 1, "geo_accel": {}}, "geo_accel": {}}
    with pytest.raises(ConfigError, match=r"zero_optimization\.geo_accel: the block is read at the top level only"):
        load_config(told)


class Prepared:
    """As far as it is asked for, a DeepSpeed engine that is given this and that."""

    has_moe_layers, mp_world_size, sequence_parallel_size, tensor_parallel_size, stage = False, 1, 1, 1, 1

    def autotp_size(self) -> int:
        return self.tensor_parallel_size

    def zero_optimization_stage(self) -> int:
        return self.stage


@pytest.mark.parametrize(
    "given, complaint",
    [
        ({"has_moe_layers": True}, "mixture-of-experts layers are not supported"),
        ({"mp_world_size": 2}, "tensor and sequence parallelism are not supported"),
        ({"tensor_parallel_size": 2}, "tensor and sequence parallelism are not supported"),
        ({"sequence_parallel_size": 2}, "tensor and sequence parallelism are not supported"),
        ({"stage": 2}, "ZeRO 2 needs sites of equal size, because ranks exchange their own partitions: a has 2 ranks"),
    ],
)
def test_what_cannot_be_kept_in_sites_is_refused(given, complaint):
    model = Prepared()
    vars(model).update(given)
    topology = Topology(sites=(Site(name="a", ranks=(0, 1)), Site(name="b", ranks=(2,))), rank=0)
    with pytest.raises(ValueError, match=complaint):
        make_engine(model, SimpleNamespace(topology=topology))


def test_pipelines_are_refused(monkeypatch):
    monkeypatch.setattr(PipelineModule, "__init__", PipelineModule.__init__)
    seam.refuse_pipelines()
    with pytest.raises(ValueError, match="pipeline parallelism is not supported"):
        PipelineModule(layers=[torch.nn.Linear(2, 2)], num_stages=1)
    with pytest.raises(ValueError, match="pipeline parallelism is not supported"):
        make_engine(object.__new__(PipelineEngine), SimpleNamespace())


def test_every_call_of_deepspeeds_backend_that_takes_a_group_is_known():
    """One that a new DeepSpeed adds, or whose arguments it moves, would reach over all sites unnoticed."""
    # From the source, because DeepSpeed's decorator hides signatures.
    (written,) = ast.parse(inspect.getsource(TorchBackend)).body
    methods = {node.name: [arg.arg for arg in node.args.args][1:] for node in written.body if hasattr(node, "args")}
    found = {name: arguments for name, arguments in methods.items() if "group" in arguments}
    asking = {"get_rank", "get_world_size", "get_backend", "get_global_rank", "destroy_process_group"}
    assert set(found) - asking == {*backend.GROUP_AT, *backend.PEER_AT, "inference_all_reduce"}
    assert {name: found[name].index("group") for name in backend.GROUP_AT} == backend.GROUP_AT
    for name, (root, place) in backend.ROOT_AT.items():
        assert found[name].index(root) == place
    rooted = {name for name in backend.GROUP_AT if {"src", "dst"} & set(found[name])}
    assert rooted == set(backend.ROOT_AT)
    assert all(found[name].index(peer) == 1 for name, peer in backend.PEER_AT.items())


@pytest.mark.parametrize("version", ["0.19.7", "0.20.0", "1.0"])
def test_other_versions_are_refused(monkeypatch, version):
    import deepspeed

    seam.require_version()
    monkeypatch.setattr(deepspeed, "__version__", version)
    with pytest.raises(ValueError, match=f"DeepSpeed {version} is not supported"):
        seam.require_version()
