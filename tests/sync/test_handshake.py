# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from geo_accel.config import load_config
from geo_accel.masters import PlainMasters
from geo_accel.sync.handshake import require_same
from geo_accel.sync.rest import untrained_checksums
from geo_accel.topology import build_topology
from geo_accel.units import find_units
from tests.workers.models import build_model


class Answers:
    """A control plane on which another rank has said `theirs`."""

    def __init__(self, theirs):
        self.theirs, self.mine = theirs, None

    def gather(self, what, message):
        self.mine = message
        return [message, self.theirs or message]


def test_unlike_base_models_under_like_adapters_are_named():
    topology = build_topology(0, ["a", "b"], [None, None])

    def said(model, theirs):
        units = find_units(model)
        control = Answers(theirs)
        masters = PlainMasters(units, topology)
        require_same(control, topology, load_config(None), masters, {}, untrained_checksums(model, units))
        return control.mine

    model = build_model("lora")
    theirs = said(model, None)
    said(model, theirs)
    model.base_model.model.transformer.wte.weight.data.mul_(1.01)
    with pytest.raises(
        ValueError, match=r"weights that are not trained, base_model.model.transformer.wte.weight. Load"
    ):
        said(model, theirs)
