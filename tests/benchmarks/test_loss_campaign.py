# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A tiny campaign from end to end: real processes, DDP, LocalSGD and geo_accel, results that are found again."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.kit.texts import Text
from benchmarks.loss import campaign as campaign_module
from benchmarks.loss import material as material_module
from benchmarks.loss.campaign import Campaign
from benchmarks.loss.cases import Group, ddp, geo, local_sgd
from benchmarks.loss.figures import curve, make_rows
from benchmarks.loss.material import Material, make_material
from benchmarks.loss.results import save_result
from benchmarks.loss.setting import RATES, Setting
from benchmarks.loss.store import Store

TINY = Setting(
    layers=1,
    width=32,
    heads=2,
    batch=2,
    steps=8,
    warmup=2,
    pretraining_steps=4,
    pretraining_batch=2,
    evaluation_blocks=8,
)


def test_no_batch_is_started_that_would_end_after_the_time(tmp_path, monkeypatch):
    store, seconds = Store(tmp_path, TINY, {"texts": "t", "start": "s"}), [0.0]

    def run_workers(command, **_):
        seconds[0] += 100
        for key in json.loads(Path(command[-1]).read_text())["runs"]:
            save_result(tmp_path, key, {"loss": 2.0, "diverged": False})
        return []

    monkeypatch.setattr(campaign_module, "run_workers", run_workers)
    monkeypatch.setattr(campaign_module.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(campaign_module, "BATCH", 2)
    monkeypatch.setattr(campaign_module.os, "sched_getaffinity", lambda _: {0, 1})
    group = Group(task="finetune", sites=2, split="iid")
    # More runs than two batches hold, each of which takes 100 s.
    campaign = Campaign(store, tmp_path, Console(quiet=True), seeds=1, minutes=4.5, device="cpu")
    campaign.run({"part": [ddp(group), *(geo(group, period) for period in (1, 2, 4, 8, 16, 32, 64, 128))]})
    assert seconds[0] == 200 and not campaign.complete


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_tiny_campaign(tmp_path, monkeypatch):
    few = [f"The quick brown fox jumps over the lazy dog; number {number} of them is slow." for number in range(99)]
    monkeypatch.setattr(material_module, "load", lambda kind: Text(train=few, held_out=few[:9], earlier=few))
    group = Group(task="finetune", sites=2, split="own")
    refused = geo(group, 2, "int9")
    parts = {"tiny": [ddp(group), local_sgd(group, 2), geo(group, 2), refused]}
    material = make_material(TINY, tmp_path)
    digests = Material.read(material).digests
    assert make_material(TINY, tmp_path) == material and Material.read(material).digests == digests

    def campaign(minutes=None):
        store = Store(tmp_path / "runs", TINY, digests)
        return store, Campaign(store, material, Console(quiet=True), seeds=2, minutes=minutes, device="cpu")

    _, late = campaign(minutes=0)
    late.run(parts)
    assert not late.complete and not list((tmp_path / "runs").iterdir())

    store, made = campaign()
    made.run(parts)
    assert made.complete and list(made.left_out) == [refused.label] and "int9" in made.left_out[refused.label]
    reference, local, geo_row, left_out = make_rows(parts, store, 2, made.left_out)
    for row in (reference, local, geo_row):
        assert row.rates >= len(RATES["finetune"]) and len(row.losses) == 2
        # Bytes as good as guessed: the model has hardly learned, and is not broken.
        assert 3.0 < row.loss < 6.0 and len(curve(row.case, store, 2, width=2)) == TINY.steps - 4
    assert reference.bytes_per_step == 2 * local.bytes_per_step > 4 * geo_row.bytes_per_step > 0
    assert left_out.remark and not left_out.losses

    monkeypatch.setattr(campaign_module, "run_workers", lambda *_, **__: pytest.fail("a finished run was made again"))
    del parts["tiny"][-1]
    campaign()[1].run(parts)
