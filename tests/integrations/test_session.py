# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sessions without a job: ranks are threads, and sites meet in memory."""

import copy
import gc
from types import SimpleNamespace

import pytest
from torch import nn

from geo_accel.config import load_config
from geo_accel.integrations import session
from geo_accel.integrations.session import (
    Presence,
    Session,
    agree_on_sites,
    announce,
    at_rest,
    deadline_of,
    find_sites,
    is_deepspeed,
    remember,
    require_everybody,
)
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.members import Members
from geo_accel.plan.request import Request
from geo_accel.topology import Site, Topology
from geo_accel.transport.memory import Lines, MemoryTransport
from tests.transport.table import on_ranks, same_line
from tests.transport.threads import DEADLINE_S, alone_in_site, topology_of


class Job:
    """What stands for the job's process group."""


def presence(machine="0", site=None, exposed=None, kernel="k"):
    return Presence(machine=machine, site=site, exposed=exposed, kernel=kernel)


def found(*presences, config=None, configs=None, before=None):
    """What every rank finds, of which these things are true; `before` is by rank."""
    given = configs or [config] * len(presences)
    held = before or [None] * len(presences)

    def work(rank, control):
        return agree_on_sites(load_config(given[rank]), rank, control, presences[rank], held[rank])

    return on_ranks(len(presences), work)


def names_of(sites):
    return [(site.name, site.ranks) for site in sites.topology.sites]


# ---- which ranks form sites


def test_machines_are_sites_and_every_rank_finds_the_same():
    everywhere = found(*(presence(machine) for machine in "0011"))
    for rank, sites in enumerate(everywhere):
        assert names_of(sites) == [("site0", (0, 1)), ("site1", (2, 3))]
        assert sites.topology.rank == rank and sites.machines == ("0", "0", "1", "1") and sites.before is None
        assert sites.control.name_of(3) == "site1 (rank 3)"  # as errors call it from now on


def test_names_and_sizes_make_sites_too():
    named = found(*(presence(site=name) for name in ("paris", "oslo", "paris")))
    assert names_of(named[0]) == [("paris", (0, 2)), ("oslo", (1,))]
    sized = found(*[presence()] * 3, config={"sites": [2, 1]})
    assert names_of(sized[2]) == [("site0", (0, 1)), ("site1", (2,))]


def test_one_machine_is_no_reason_to_synchronise_and_one_rank_says_so(capsys):
    assert found(*[presence()] * 3) == [None] * 3
    said = capsys.readouterr().err
    assert said.count("geo_accel is off") == 1 and "all 3 ranks are on one machine" in said
    assert "set GEO_ACCEL_SITE per process, or sites in the config" in said


def test_a_single_process_is_no_reason_either(capsys):
    assert find_sites({}) is None
    assert capsys.readouterr().err.startswith("geo_accel is off: this is a single process.")


# ---- what is refused, on every rank


def test_who_knows_of_no_other_process_is_told_what_to_say_to_it():
    require_everybody("the Accelerator", 2, 2, "cpu=True")
    with pytest.raises(ValueError, match=r"the Accelerator knows of 1 process\(es\), but 2 were .* give cpu=True, or"):
        require_everybody("the Accelerator", 1, 2, "cpu=True")


@pytest.mark.parametrize(
    "presences, configs, line",
    [
        (
            [presence()] * 3,
            [{}, {}, {"sites": [1, 2]}],
            "config sites is auto on rank 0 and [1, 2] on rank 2; they must be equal.",
        ),
        (
            [presence()] * 3,
            [{"sites": [2, 2]}] * 3,
            "sites = [2, 2] makes 4 ranks, but 3 were launched: the sizes must add up to the number of processes.",
        ),
        (
            [presence(site="paris"), presence(), presence()],
            [{}] * 3,
            "GEO_ACCEL_SITE is set on some ranks but not on rank(s) 1, 2: set it on every process or on none.",
        ),
        (
            [presence(site="paris"), presence(site="oslo")],
            [{"sites": [1, 1]}] * 2,
            'sites = [1, 1] contradicts GEO_ACCEL_SITE: keep one (sites: "auto").',
        ),
    ],
    ids=["unlike sites", "sizes", "some without a name", "names and sizes"],
)
def test_sites_that_do_not_fit_the_ranks(presences, configs, line):
    assert same_line(found(*presences, configs=configs)) == line


def test_who_is_exposed_is_named_by_all():
    wide = presence("1", exposed="MASTER_ADDR x is the public address 8.8.8.8", kernel="another")
    line = same_line(found(presence("0"), wide))
    assert line.startswith("site1 (rank 1): MASTER_ADDR x is the public address 8.8.8.8, and traffic between sites is")
    # On one machine nothing leaves it, whatever its addresses are.
    near = presence("1", exposed=wide.exposed)
    assert all(names_of(sites) for sites in found(presence("0"), near))


@pytest.mark.parametrize(
    "wanted, seconds", [("auto", 1800), (5, 5), (0.5, 0.5), (10**12, 7 * 86400)], ids=["auto", "5", "0.5", "forever"]
)
def test_how_long_a_rank_is_waited_for(wanted, seconds):
    assert deadline_of(load_config({"resilience": {"patience_s": wanted}})) == seconds


# ---- a session at rest is gone on with


def connected(rank, control, lines, config=None):
    """A session of two sites of one rank each."""
    transport = MemoryTransport(topology_of(rank, sites=2), DEADLINE_S, lines)
    return Session(
        config=load_config(config),
        topology=transport.topology,
        control=control,
        transport=transport,
        inside=alone_in_site(transport),
        site_group=None,
        machines=("0", "1"),
    )


def test_engines_of_one_config_share_a_session_one_after_the_other():
    lines, config, model = Lines(), load_config(None), nn.Linear(2, 2)
    models = [model, copy.deepcopy(model)]

    def work(rank, control):
        job, one = Job(), connected(rank, control, lines)
        remember(job, one)
        assert at_rest(job, config) is one
        engine = one.engine(models[rank])
        assert at_rest(job, config) is None  # something may be on its way
        engine.close()
        assert at_rest(job, config) is one
        assert at_rest(job, load_config({"sync": {"period": 4}})) is None
        assert at_rest(Job(), config) is None
        return True

    assert on_ranks(2, work) == [True, True]


def test_an_engine_of_sites_that_differ_is_refused_on_both():
    lines, models = Lines(), [nn.Linear(2, 2), nn.Linear(2, 2)]
    line = same_line(on_ranks(2, lambda rank, control: connected(rank, control, lines).engine(models[rank])))
    assert "site0 (rank 0) and site1 (rank 1) differ before the first step: initial weights of Linear." in line


def test_a_session_ends_with_the_job_s_process_group():
    job, one = Job(), connected(0, None, Lines())
    remember(job, one)
    assert list(session._LAST.values()) == [one]
    del job
    gc.collect()
    assert not session._LAST


def test_it_takes_all_ranks_to_go_on_with_the_session_before():
    held = [connected(rank, None, Lines()) for rank in range(2)]
    apart = [presence("0"), presence("1")]
    assert [sites.before for sites in found(*apart, before=held)] == held
    assert [sites.before for sites in found(*apart, before=[held[0], None])] == [None, None]
    # As many ranks as before, and other sites.
    together = found(presence("0", site="paris"), presence("1", site="oslo"), before=held)
    assert [sites.before for sites in together] == [None, None]


# ---- what a run says when it has its plan


@pytest.mark.parametrize("rank, one_world, speaks", [(0, True, 1), (1, True, 0), (1, False, 1), (2, False, 0)])
def test_the_plan_is_printed_once_per_job(capsys, rank, one_world, speaks):
    plan = choose_plan(
        Request(mode="stream", period=4, delay=1, schedule="equal", codec="bf16"), [("a", 8), ("b", 8)], Members(2)
    )
    topology = Topology(sites=(Site("paris", (0,)), Site("oslo", (1, 2))), rank=rank)
    took = {"geo/measuring_s": 1.25, "geo/start_to_plan_s": 9.0}
    planning = SimpleNamespace(profile=object())
    announce(SimpleNamespace(topology=topology, metrics=lambda: took, planning=planning), plan, one_world)
    said = capsys.readouterr().err
    assert bool(said) == speaks
    if speaks:
        for words in ("paris (1), oslo (2)", "stream", "4 steps", "equal", "bf16", "1.2 s of waiting; 9.0 s from"):
            assert words in said


def test_deepspeed_engines_are_known_by_name():
    class DeepSpeedEngine(nn.Module):
        pass

    class Mine(DeepSpeedEngine):
        pass

    assert is_deepspeed(Mine()) and not is_deepspeed(nn.Linear(1, 1)) and not is_deepspeed(None)
