# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What every transport has to do, between three sites of one rank each.

A case is what all ranks do, each with a transport of its own, and what is expected of that. `test_conformance.py` runs
all of them on every kind; between processes this module does: `python -m tests.transport.conformance OUT`.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from geo_accel.transport.base import Transport
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.faulty import FaultyTransport
from geo_accel.transport.identity import HEADER_BYTES, Identity, Message
from geo_accel.transport.opening import open_transport
from tests.transport.threads import DEADLINE_S, topology_of

SITES = 3
SHORT_S = 1.0
LARGE = 3_000_000
LINE_SEALS = "the line lets nothing through that was changed"


@dataclass(frozen=True, slots=True)
class Case:
    """`work(transport)` runs on every rank and returns what JSON can hold; `check(outcomes)` gets that by rank.

    An error is an outcome too: {"error": its type, "said": its text, "retryable": ..., "after_s": ...}.
    """

    work: Callable[[Transport], object]
    check: Callable[[list], None]
    deadline_s: float = DEADLINE_S


def outcome(case: Case, transport: Transport) -> object:
    """What the case's work comes to on one rank, whose transport is closed then."""
    start = time.monotonic()
    try:
        return case.work(transport)
    except Exception as error:
        about = {"error": type(error).__name__, "said": str(error), "retryable": getattr(error, "retryable", None)}
        return about | {"after_s": time.monotonic() - start}
    finally:
        transport.close()
        transport.close()


def _others(transport: Transport) -> list[int]:
    return [peer for peer in transport.peers if peer != transport.topology.rank]


def _message(step: int = 0, wishes: int = 0) -> Message:
    return Message(Identity(kind="round", step=step), wishes)


def _said(sender: int, receiver: int, numel: int, number: int = 0) -> torch.Tensor:
    """What only this sender says to this receiver."""
    noise = torch.Generator().manual_seed(1000 * number + 10 * sender + receiver)
    return torch.randint(256, (numel,), dtype=torch.uint8, generator=noise)


def _swap_all(transport: Transport, message: Message, numel: int = 100) -> bool:
    """One swap with all others; whether what they said has arrived."""
    me, others = transport.topology.rank, _others(transport)
    rooms = {peer: torch.zeros(numel, dtype=torch.uint8) for peer in others}
    transport.swap({peer: _said(me, peer, numel) for peer in others}, rooms, message)
    return all(torch.equal(room, _said(peer, me, numel)) for peer, room in rooms.items())


def _alike(transport: Transport) -> bool:
    return _swap_all(transport, _message())


def _all_true(outcomes: list) -> None:
    assert outcomes == [True] * SITES, outcomes


# ---- what arrives


def _unlike_sizes(transport: Transport) -> dict:
    """Sizes by sender and receiver, nothing among them, in one message's three swaps; the last is large fp32."""
    me, message, told, sent = transport.topology.rank, _message(), [], 0
    for sizes in (lambda a, b: 1000 * (3 * a + b), lambda a, b: 7 * (a < b)):
        sends = {peer: _said(me, peer, sizes(me, peer)) for peer in _others(transport)}
        rooms = {peer: torch.zeros(sizes(peer, me), dtype=torch.uint8) for peer in sends}
        transport.swap(sends, rooms, message)
        sent += sum(tensor.nbytes for tensor in sends.values())
        told.append(all(torch.equal(room, _said(peer, me, len(room))) for peer, room in rooms.items()))
    values = torch.full((LARGE,), me + 0.5)
    rooms = {peer: torch.zeros(LARGE) for peer in sends}
    transport.swap(dict.fromkeys(rooms, values), rooms, message)
    told.append(all((room == peer + 0.5).all().item() for peer, room in rooms.items()))
    sent += 2 * values.nbytes
    swaps, again = transport.take_swaps(), transport.take_swaps()
    return {
        "told": told,
        "phase": message.identity.phase,
        "sent": transport.bytes_sent - sent,
        "swaps": [transport.bytes_sent - sum(nbytes for nbytes, _ in swaps), len(swaps), len(again)],
        "seconds": [seconds for _, seconds in swaps],
        "peers": list(transport.peers),
    }


def _what_arrives_is_what_was_sent(outcomes: list) -> None:
    for one in outcomes:
        assert one["told"] == [True] * 3 and one["phase"] == 3 and one["peers"] == [0, 1, 2], one
        assert one["sent"] == 3 * 2 * HEADER_BYTES, "each swap counts its headers"
        assert one["swaps"] == [0, 3, 0] and min(one["seconds"]) > 0 and max(one["seconds"]) < DEADLINE_S, one


def _wishing(transport: Transport) -> int:
    message = _message(wishes=1 << transport.topology.rank)
    _swap_all(transport, message, numel=0)
    return message.wishes


def _wishes_are_everybodys(outcomes: list) -> None:
    assert outcomes == [0b111] * SITES


def _many(transport: Transport) -> bool:
    """Forty messages, at another pace on every rank, among them such as only two take part in."""
    me, right = transport.topology.rank, True
    for number in range(40):
        pair = {number % SITES, (number + 1) % SITES} if number % 4 == 3 else set(range(SITES))
        others = pair - {me}
        if me not in pair:
            continue
        numel = 1 + 97 * (number % 5)
        rooms = {peer: torch.zeros(numel, dtype=torch.uint8) for peer in others}
        transport.swap({peer: _said(me, peer, numel, number) for peer in others}, rooms, _message(number))
        right &= all(torch.equal(room, _said(peer, me, numel, number)) for peer, room in rooms.items())
        time.sleep(0.002 * me * (number % 3))
    return right


# ---- who is elsewhere, and what is no payload


def _elsewhere(transport: Transport) -> dict:
    """Rank 1 flushes where the others average: nothing of it arrives, also where lengths agree."""
    me, others = transport.topology.rank, _others(transport)
    message = Message(Identity(kind="flush", step=4)) if me == 1 else _message(5)
    rooms = {peer: torch.zeros(100, dtype=torch.uint8) for peer in others}
    try:
        transport.swap({peer: _said(me, peer, 100) for peer in others}, rooms, message)
    except SiteLostError as error:
        if me == 1:
            assert not any(room.any() for room in rooms.values())
        return {"said": f"{type(error).__name__}: {error}", "retryable": error.retryable}
    return {}


def _who_is_elsewhere_is_named_by_all(outcomes: list) -> None:
    assert all(one == outcomes[0] for one in outcomes), outcomes
    wanted = "OutOfStepError: site0 (rank 0) and site2 (rank 2) average after step 5 (round 1 there) while site1 (rank"
    assert outcomes[0]["said"].startswith(wanted) and outcomes[0]["retryable"] is False, outcomes


def _cut_off(transport: Transport) -> bool:
    """Rank 1 sends less than is expected of it. Whether it learns of that depends on the transport."""
    me, others = transport.topology.rank, _others(transport)
    rooms = {peer: torch.zeros(100, dtype=torch.uint8) for peer in others}
    try:
        transport.swap({peer: _said(me, peer, 60 if me == 1 else 100) for peer in others}, rooms, _message())
    except SiteLostError:
        if me != 1:
            raise
    return True


def _what_was_cut_off_is_named(outcomes: list) -> None:
    for one in (outcomes[0], outcomes[2]):
        assert one["error"] == "DamagedPayloadError" and one["retryable"], one
        assert one["said"].startswith("site site1 (rank 1): what it sent arrived damaged: 60 bytes were sent"), one


def _changed(transport: Transport) -> bool | str:
    if not transport.seals:
        assert _swap_all(transport, _message())
        return LINE_SEALS
    faulty = FaultyTransport(transport)
    if transport.topology.rank == 1:
        faulty.damaged_from = {0}
    return _alike(faulty)


def _what_has_changed_is_named(outcomes: list) -> None:
    if outcomes == [LINE_SEALS] * SITES:  # what a line does with what was changed on it is tested with the line
        return
    assert outcomes[0] is True and outcomes[2] is True, outcomes
    assert outcomes[1]["error"] == "DamagedPayloadError" and outcomes[1]["retryable"], outcomes
    assert "site0 (rank 0): what it sent arrived damaged: the checksum of its 100 bytes" in outcomes[1]["said"]


# ---- who does not answer


def _silent(transport: Transport) -> bool:
    faulty = FaultyTransport(transport)
    if transport.topology.rank == 2:
        faulty.silent_s = 1.5 * SHORT_S
    try:
        return _alike(faulty)
    except SiteLostError:  # who has been silent may find what the others have said, or nobody
        if transport.topology.rank == 2:
            return True
        raise


def _who_is_silent_is_named_in_time(outcomes: list) -> None:
    for one in outcomes[:2]:
        assert one["error"] == "SiteLostError" and one["retryable"] and one["after_s"] < 2 * SHORT_S, one
        wanted = "site site2 (rank 2) has been silent for 1 s (resilience.patience_s = 1): its process hangs"
        assert one["said"].startswith(wanted), one


def _line_cut(transport: Transport) -> bool:
    faulty = FaultyTransport(transport)
    if transport.topology.rank == 0:
        faulty.cut_from = {1}
    try:
        return _alike(faulty)
    finally:
        time.sleep(SHORT_S / 2)  # who is done first ends nobody's wait


def _a_line_that_is_cut_is_named_at_both_ends(outcomes: list) -> None:
    assert outcomes[2] is True, outcomes
    for rank in (0, 1):
        assert f"site{1 - rank} (rank {1 - rank}) has been silent for 1 s" in outcomes[rank]["said"], outcomes


def _slow(transport: Transport) -> list:
    faulty = FaultyTransport(transport)
    faulty.delay = lambda sent, received: 0.2 if (sent, received) == (200, 200) else 9.0
    return [_alike(faulty), faulty.take_swaps()[0][1]]


def _a_delay_is_in_the_times(outcomes: list) -> None:
    for right, seconds in outcomes:
        assert right and 0.2 <= seconds < 5


def _dying(transport: Transport) -> bool:
    faulty = FaultyTransport(transport)
    assert _swap_all(faulty, _message(1))
    faulty.dies = transport.topology.rank == 2
    return _swap_all(faulty, _message(2))


def _who_has_died_is_named_at_once(outcomes: list) -> None:
    for one in outcomes[:2]:
        assert one["error"] == "SiteLostError" and one["retryable"] and one["after_s"] < DEADLINE_S / 4, one
        assert "is gone: the connection broke after " in one["said"], one
    assert names_the_dead([one["said"] for one in outcomes[:2]]), outcomes
    assert "has died" in outcomes[2]["said"] and not outcomes[2]["retryable"], outcomes


def names_the_dead(said: list[str]) -> bool:
    """Whether it is rank 2 whom the first to learn of it names.

    That one may leave before the other has learnt of it, who then names it: its connection broke as well.
    """
    return any(line.startswith("site site2 (rank 2) is gone: the connection broke after ") for line in said)


def _closed(transport: Transport) -> bool:
    assert _alike(transport)
    transport.close()
    try:
        _alike(transport)
    except AssertionError:
        return True
    return False


CASES = {
    "what arrives is what was sent": Case(_unlike_sizes, _what_arrives_is_what_was_sent),
    "wishes are everybody's": Case(_wishing, _wishes_are_everybodys),
    "order": Case(_many, _all_true),
    "who is elsewhere is named by all": Case(_elsewhere, _who_is_elsewhere_is_named_by_all),
    "what was cut off is named": Case(_cut_off, _what_was_cut_off_is_named),
    "what has changed is named": Case(_changed, _what_has_changed_is_named),
    "who is silent is named in time": Case(_silent, _who_is_silent_is_named_in_time, SHORT_S),
    "a line that is cut is named at both ends": Case(_line_cut, _a_line_that_is_cut_is_named_at_both_ends, SHORT_S),
    "a delay is in the times": Case(_slow, _a_delay_is_in_the_times),
    "who has died is named at once": Case(_dying, _who_has_died_is_named_at_once),
    "nothing follows a close": Case(_closed, _all_true),
}


def gloo_threads() -> int:
    """Of this process: every group of gloo's has its own."""
    names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return sum("gloo" in name for name in names)


def main() -> None:
    """One of three processes: all cases on what a run gets, then rank 2 is killed in the midst of a swap."""
    dist.init_process_group("gloo")
    rank, out = dist.get_rank(), Path(sys.argv[1])
    found: dict[str, object] = {}
    dist.barrier()
    threads = [gloo_threads()]
    for name, case in CASES.items():
        found[name] = outcome(case, open_transport(topology_of(rank, SITES), case.deadline_s))
        threads.append(gloo_threads())
        dist.barrier()

    transport = open_transport(topology_of(rank, SITES), DEADLINE_S)
    threads.append(gloo_threads())
    found |= {"threads": threads, "killed": outcome(Case(_alike, _all_true), transport) if rank != 2 else None}
    (out / f"rank-{rank}.json").write_text(json.dumps(found))
    os._exit(9 if rank == 2 else 0)  # no barrier with the dead


if __name__ == "__main__":
    main()
