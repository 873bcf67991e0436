# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What DeepSpeed saves and loads is each site's own, of one tag everywhere, or refused in one line on all ranks."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.sync.ranks import SITES, on_ranks

pytestmark = pytest.mark.deepspeed
pytest.importorskip("deepspeed")

from geo_accel.integrations.deepspeed import DeepSpeedTraining, join_checkpoints  # noqa: E402


class Saver:
    """A DeepSpeed engine that saves and loads one number."""

    def __init__(self, number: int) -> None:
        self.global_steps, self.number = 5, number

    def save_checkpoint(self, save_dir, tag=None, client_state=None, save_latest=True):
        Path(save_dir, tag).mkdir(parents=True, exist_ok=True)
        Path(save_dir, tag, "state").write_text(json.dumps([self.number, client_state]))
        if save_latest:
            Path(save_dir, "latest").write_text(tag)

    def load_checkpoint(self, load_dir, tag=None):
        latest = Path(load_dir, "latest")
        if tag is None and not latest.exists():
            return None, None
        path = Path(load_dir, tag or latest.read_text(), "state")
        self.number, client_state = json.loads(path.read_text())
        return str(path), client_state


def with_savers(work, sites=SITES):
    """`work(model)` on every rank; what came of it, the models and the engines."""
    models = {}

    def on_rank(engine):
        topology = engine.topology
        session = SimpleNamespace(
            topology=topology, control=engine.control, writes_site=topology.local_index == 0, one_world=True
        )
        model = models[topology.rank] = Saver(topology.site_index + 5)
        engine.settle = lambda: None
        join_checkpoints(model, session, engine, lambda: None)
        return work(model)

    results, engines = on_ranks(on_rank, sites, step=5)
    return results, [models[rank] for rank in sorted(models)], engines


@pytest.fixture
def checkpoints(tmp_path):
    """Two checkpoints in one folder, the later one the latest."""

    def save(model):
        model.save_checkpoint(str(tmp_path), "early")
        model.number += 10
        model.save_checkpoint(str(tmp_path), client_state={"mine": 1})

    assert with_savers(save)[0] == [None] * 3
    return tmp_path


@pytest.mark.parametrize("tag, numbers", [(None, [15, 15, 16]), ("early", [5, 5, 6])])
def test_each_site_loads_its_own_of_any_tag(checkpoints, tag, numbers):
    results, models, engines = with_savers(lambda model: model.load_checkpoint(str(checkpoints), tag))
    assert [model.number for model in models] == numbers
    assert [client_state for _, client_state in results] == [{"mine": 1} if tag is None else {}] * 3
    assert all(engine.restored["step"] == 5 for engine in engines)


def told(results: list) -> str:
    assert all(isinstance(result, ValueError) for result in results) and len({str(one) for one in results}) == 1
    return str(results[0])


def test_another_sites_folder_is_refused(checkpoints):
    """Its weights are the same; its optimizer's state is not."""
    shutil.rmtree(checkpoints / "geo_accel" / "right")
    line = told(with_savers(lambda model: model.load_checkpoint(str(checkpoints)))[0])
    assert "right (rank 2): " in line and "'s, and right's belongs into" in line


def test_a_checkpoint_that_one_site_does_not_find_is_refused(checkpoints):
    (checkpoints / "geo_accel" / "right" / "latest").unlink()
    line = told(with_savers(lambda model: model.load_checkpoint(str(checkpoints)))[0])
    assert "not the same on all ranks" in line and "right (rank 2): None" in line


def test_a_checkpoint_of_deepspeed_alone_is_loaded_by_all_sites(tmp_path):
    Saver(3).save_checkpoint(str(tmp_path), "plain")
    _, models, engines = with_savers(lambda model: model.load_checkpoint(str(tmp_path)))
    assert [model.number for model in models] == [3] * 3
    assert all(engine.restored["plan"] is None for engine in engines)


def test_where_there_is_no_checkpoint_nothing_is_restored(tmp_path):
    results, _, engines = with_savers(lambda model: model.load_checkpoint(str(tmp_path)))
    assert results == [(None, None)] * 3 and [engine.restored for engine in engines] == [None] * 3


def test_loading_before_there_is_a_geosync_is_refused():
    model = Saver(3)
    model.loaded_checkpoint_dp_world_size = 1
    with pytest.raises(ValueError, match="construct GeoSync first, then load"):
        DeepSpeedTraining(model, SimpleNamespace())
