# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Every transport does what the contract says: memory, faults and links between threads, gloo between processes."""

import json

import pytest

from geo_accel.transport.faulty import FaultyTransport
from tests.transport.conformance import CASES, SITES, names_the_dead, outcome
from tests.transport.links.linked import Linked
from tests.transport.threads import on_all_sites
from tests.workers.launch import run_workers

IN_THREADS = {"memory": lambda transport: transport, "faulty": FaultyTransport}
LISTENING = {"links": (0, 1, 2), "links over a relay": (0,)}
"""By kind, whose ports there are."""


@pytest.fixture(scope="module")
def between_processes(tmp_path_factory):
    """What all cases came to, by rank."""
    out = tmp_path_factory.mktemp("gloo")
    command = ["tests.transport.conformance", str(out)]
    finished = run_workers(command, sites=(1,) * SITES, timeout_s=100)
    assert [one.returncode for one in finished] == [0, 0, 9], finished[0].output[-3000:]
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(SITES)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", IN_THREADS)
def test_between_threads(kind, name):
    case, made = CASES[name], IN_THREADS[kind]
    case.check(on_all_sites(SITES, lambda transport: outcome(case, made(transport)), case.deadline_s))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", LISTENING)
def test_over_links(three_keys, kind, name):
    case = CASES[name]
    with Linked(three_keys, LISTENING[kind]) as linked:
        case.check(linked.on_all(lambda transport: outcome(case, transport), case.deadline_s))


@pytest.mark.parametrize("name", CASES)
def test_between_processes(between_processes, name):
    CASES[name].check([records[name] for records in between_processes])


def test_a_process_that_is_killed_is_named(between_processes):
    assert names_the_dead([records["killed"]["said"] for records in between_processes[:2]])


def test_a_closed_transport_has_no_threads(between_processes):
    for records in between_processes:
        before, *closed, opened = records["threads"]
        assert before > 0 and closed == [before] * len(CASES) and opened > before
