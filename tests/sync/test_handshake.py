# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites that do not mean the same run hear it before the first step: what differs, and between whom, on every rank."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from geo_accel.config import load_config
from geo_accel.masters import PlainMasters
from geo_accel.sync.handshake import require_same
from geo_accel.sync.rest import untrained_checksums
from geo_accel.topology import Site, Topology
from geo_accel.units import find_units
from geo_accel.version import __version__
from tests.sync.ranks import SITES
from tests.transport.table import on_ranks, same_line
from tests.workers.models import build_model

PAIRS = (Site("left", (0, 1)), Site("right", (2, 3)))


@dataclass(frozen=True, kw_only=True)
class Means:
    """What one rank is about to train."""

    config: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=lambda: {"head": 6, "body": 12, "wte": 8})
    """By unit, its elements."""
    weights: dict = field(default_factory=lambda: {"head": 1, "body": 2, "wte": 3})
    """By unit, its checksum."""
    untrained: dict = field(default_factory=lambda: {"base.a": 4, "base.b": 5})
    facts: dict = field(default_factory=lambda: {"the number of steps": 100})
    version: str = __version__

    def masters(self, replicated):
        units = [SimpleNamespace(name=name, numel=numel) for name, numel in self.sizes.items()]
        return SimpleNamespace(units=units, checksums=lambda: self.weights, replicated=replicated)


SAME = Means()


def shake(others, sites=SITES, replicated=True):
    """What comes of it on every rank, where the ranks in `others` mean that and all the rest mean the same."""

    def work(rank, control):
        mine, gather = others.get(rank, SAME), control.gather
        # What another version would say: its number comes first, whatever else it has to tell.
        control.gather = lambda what, message: gather(what, message | {"geo_accel version": mine.version})
        topology, masters = Topology(sites=sites, rank=rank), mine.masters(replicated)
        return require_same(control, topology, load_config(mine.config), masters, mine.facts, mine.untrained)

    return on_ranks(sum(len(site.ranks) for site in sites), work)


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


CASES = {
    "version": (
        {"version": "0.0.1"},
        f"geo_accel {__version__} and 0.0.1; install the same version everywhere.",
    ),
    "config": (
        {"config": {"sync": {"period": 4, "delay": 2}}},
        'config sync.period: "auto" against 4; sync.delay: "auto" against 2. Use the same config on every site.',
    ),
    "fact": ({"facts": {"the number of steps": 90}}, "the number of steps is 100 and 90; they must be equal."),
    "no fact": ({"facts": {}}, "the number of steps is 100 and None; they must be equal."),
    "another fact": (
        {"facts": {"the number of steps": 100, "zero stage": 2}},
        "zero stage is None and 2; they must be equal.",
    ),
    "size": ({"sizes": SAME.sizes | {"body": 13}}, "the models are not the same (first at body)."),
    "lacking unit": ({"sizes": without(SAME.sizes, "wte")}, "the models are not the same (first at wte)."),
    "one more unit": ({"sizes": SAME.sizes | {"adapter": 1}}, "the models are not the same (first at adapter)."),
    "order": (
        {"sizes": dict(reversed(SAME.sizes.items()))},
        "the models are not the same (first at the order of layers).",
    ),
    "weights": (
        {"weights": SAME.weights | {"body": 9}},
        "initial weights of body. Load the same checkpoint on every site, or set the same seed before building the "
        "model.",
    ),
    "all weights": (
        # The input side is named, which all others follow from.
        {"weights": {"head": 7, "body": 8, "wte": 9}},
        "initial weights of wte and 2 more units. Load the same checkpoint on every site, or set the same seed before "
        "building the model.",
    ),
    "untrained": (
        {"untrained": SAME.untrained | {"base.b": 9}},
        "weights that are not trained, base.b. Load the same checkpoint on every site.",
    ),
    "untrained of one": (
        {"untrained": {"base.a": 9, "base.b": 5, "base.c": 6}},
        "weights that are not trained, base.a and 1 more. Load the same checkpoint on every site.",
    ),
}


def test_ranks_that_mean_the_same_go_on():
    assert shake({}) == [None] * 3


@pytest.mark.parametrize("change, problem", CASES.values(), ids=CASES)
def test_what_differs_is_one_line_on_every_rank(change, problem):
    told = same_line(shake({2: replace(SAME, **change)}))
    assert told == f"left (rank 0) and right (rank 2) differ before the first step: {problem}"


def test_ranks_of_one_site_are_compared_as_well():
    assert same_line(shake({1: replace(SAME, config={"sync": {"period": 4}})})).startswith(
        "left (rank 0) and left (rank 1) differ before the first step: config sync.period: "
    )


def test_the_first_difference_is_told_and_what_explains_the_others_before_them():
    other = replace(SAME, config={"sync": {"period": 4}}, weights={"head": 7, "body": 8, "wte": 9}, facts={})
    assert "config sync.period" in same_line(shake({2: other}))
    assert "the number of steps" in same_line(shake({2: replace(other, config={})}))
    assert "geo_accel 0.0.1" not in same_line(shake({1: other, 2: replace(other, version="0.0.1")}))


def test_what_may_differ_between_sites_is_not_compared():
    assert shake({2: replace(SAME, config={"link": {"interface": "wg0"}})}) == [None] * 3


def test_ranks_that_hold_a_share_each_are_like_their_peers():
    """Under ZeRO the second rank of a site holds other weights than the first, and the same as the other second."""
    second = replace(SAME, weights={"head": 7, "body": 8, "wte": 9})
    assert shake({1: second, 3: second}, PAIRS, replicated=False) == [None] * 4
    odd = replace(second, weights=second.weights | {"body": 0})
    told = same_line(shake({1: second, 3: odd}, PAIRS, replicated=False))
    assert told.startswith("left (rank 1) and right (rank 3) differ before the first step: initial weights of body.")
    assert "left (rank 0) and left (rank 1)" in same_line(shake({1: second, 3: second}, PAIRS))


def test_unlike_base_models_under_like_adapters_are_named():
    model, changed = build_model("lora"), build_model("lora")
    changed.load_state_dict(model.state_dict())

    def shaken(models):
        def work(rank, control):
            topology, units = Topology(sites=SITES, rank=rank), find_units(models[rank])
            untrained = untrained_checksums(models[rank], units)
            require_same(control, topology, load_config(None), PlainMasters(units, topology), {}, untrained)

        return on_ranks(3, work)

    assert shaken([model, model, changed]) == [None] * 3
    changed.base_model.model.transformer.wte.weight.data.mul_(1.01)
    told = same_line(shaken([model, model, changed]))
    assert "weights that are not trained, base_model.model.transformer.wte.weight. Load" in told
