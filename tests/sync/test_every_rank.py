# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What one rank cannot do is one line, and the same kind of error, on all of them."""

import pytest

from geo_accel.sync.every_rank import on_every_rank
from geo_accel.transport.errors import SiteLostError


class Control:
    """One rank's control plane, whose peers answer what is given, gather by gather."""

    def __init__(self, *peers: dict) -> None:
        self.peers = list(peers)
        self.sent: list[dict] = []
        self.asked: list[str] = []
        self.name_of = lambda rank: f"rank {rank}"

    def gather(self, what: str, message: dict) -> list[dict]:
        self.sent.append(message)
        self.asked.append(what)
        return [message, self.peers.pop(0)]


def failing(error: BaseException):
    def action():
        raise error

    return action


FULL = {"kind": "OSError", "problem": "no space left"}
WRONG = {"kind": "ValueError", "problem": "another step"}


def test_what_all_ranks_return_comes_by_rank():
    assert on_every_rank(Control({"done": 5}), "saving", lambda: 4) == [4, 5]


@pytest.mark.parametrize(
    "action, peer, kind, line",
    [
        (lambda: 1, FULL, OSError, "saving: rank 1: no space left"),
        (lambda: 1, WRONG, ValueError, "saving: rank 1: another step"),
        (failing(ValueError("another step")), WRONG, ValueError, "saving: rank 0, rank 1: another step"),
        (failing(ValueError("a\n b")), FULL, OSError, "saving: rank 0: a b; rank 1: no space left"),
        (failing(KeyError("x")), {"done": 1}, RuntimeError, "saving: rank 0: KeyError: 'x'"),
        (failing(AssertionError()), {"done": 1}, RuntimeError, "saving: rank 0: AssertionError"),
    ],
)
def test_one_line_says_who_and_why(action, peer, kind, line):
    with pytest.raises(kind) as raised:
        on_every_rank(Control(peer), "saving", action)
    assert str(raised.value) == line


def test_sites_may_have_their_folders_in_other_places():
    """What is told must be the same everywhere, or sites are taken to do unlike things."""
    control = Control({"done": 1}, FULL)
    on_every_rank(control, "saving /data/run", lambda: 1)
    with pytest.raises(OSError, match=r"^saving /data/run: rank 1: no space left$"):
        on_every_rank(control, "saving /data/run", lambda: 1)
    assert control.asked == ["saving"] * 2


def test_a_lost_site_is_no_answer():
    control = Control()
    with pytest.raises(SiteLostError):
        on_every_rank(control, "saving", failing(SiteLostError("gone")))
    assert control.sent == []


def test_what_was_told_inside_is_not_told_again():
    """The peer failed before it came to the inner one: its answer to the outer is what the inner hears."""
    control = Control(FULL)
    with pytest.raises(OSError, match=r"^inner: rank 1: no space left$"):
        on_every_rank(control, "outer", lambda: on_every_rank(control, "inner", lambda: 1))
    assert len(control.sent) == 1
