# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""DeepSpeed with a job per site: what one job over all sites comes to, without a backend of ours in the way."""

import pytest
from safetensors.torch import load_file

from tests.workers.launch import run_workers

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]
pytest.importorskip("deepspeed")

from tests.integrations.test_deepspeed import CONFIG, EVERY_STEP, SGD  # noqa: E402

SITES = (2, 2)
STEPS = ["--steps", "6", "--config", CONFIG]
RUNS = {
    **{f"zero-{stage}": ["--zero", str(stage), *STEPS] for stage in range(4)},
    "every-step": ["--zero", "1", *SGD, "--config", EVERY_STEP],
    "bf16-3": ["--zero", "3", "--early", "--dtype", "bf16", *STEPS],
}
SAVED = ["--zero", "1", "--accumulate", "2", "--save-at", "4", "--steps", "7", "--config", CONFIG]


def train(folder, runs, jobs):
    words = [word for name, how in runs.items() for word in (*how, "--out", str(folder / name), "--and")]
    environ = {"LOCAL_SIZE": str(SITES[0]), "DS_ACCELERATOR": "cpu"}
    finished = run_workers(["tests.workers.deepspeed_worker", *words[:-1]], SITES, 170, environ, jobs=jobs)
    assert [one.returncode for one in finished] == [0] * 4, "\n".join(one.output[-1500:] for one in finished)
    return {name: [load_file(folder / name / f"rank-{rank}.safetensors") for rank in range(4)] for name in runs}


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Final parameters by run and rank: of one job, and of a job per site."""
    folder = tmp_path_factory.mktemp("ways")
    jobs = train(folder / "jobs", RUNS | {"saved": SAVED}, jobs=True)
    resumed = {"resumed": [*SAVED, "--resume", f"{folder}/jobs/saved/{{site}}/checkpoint"]}
    return train(folder / "one", RUNS, jobs=False), jobs | train(folder / "jobs", resumed, jobs=True)


def same(one, other):
    return all(values.equal(b[name]) for a, b in zip(one, other, strict=True) for name, values in a.items())


@pytest.mark.parametrize("name", RUNS)
def test_a_job_per_site_ends_with_the_bits_of_one_job(ways, name):
    one, jobs = ways
    assert same(one[name], jobs[name])
    assert all(same(jobs[name][:1], [held]) for held in jobs[name])


def test_each_site_resumes_from_its_own_disk(ways):
    assert same(ways[1]["saved"], ways[1]["resumed"])
