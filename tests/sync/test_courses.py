# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What begins and is applied where, by mode, without any network."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch

from geo_accel.config.parts import Outer
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.plan import Piece, Plan
from geo_accel.sync.courses import AtBoundaries, InBackward, NoPlan
from geo_accel.sync.in_flight import InFlight
from geo_accel.sync.life import Life
from geo_accel.sync.wishes import Wishes
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.identity import Identity, Message
from geo_accel.units import find_units

UNITS = (("1", 6), ("0", 6))


def plan(mode, delay, rounds):
    return Plan(
        mode=mode,
        schedule="manual",
        period=len(rounds),
        delay=delay,
        averaging=Averaging(codec="int8"),
        outer=Outer(),
        units=UNITS,
        rounds=tuple(tuple((Piece(unit),) for unit in step) for step in rounds),
        reason="",
    )


class Rounds:
    """Keeps a diary; applying a round takes a second."""

    def __init__(self, lost_at=None):
        self.diary, self._lost_at = [], lost_at

    def start(self, pieces, *, averaging, outer, step, delay, slot, wishes):
        self.diary.append(("begins", step, slot, pieces[0].unit))
        message = Message(Identity(kind="round", step=step), wishes)
        return SimpleNamespace(due=step + delay, message=message, future=Future(), unit=pieces[0].unit)

    def apply(self, running):
        if running.message.identity.step == self._lost_at:
            raise SiteLostError("site1 is gone")
        self.diary.append(("applied", running.message.identity.step, running.unit))
        return 1.0

    def close(self):
        self.diary.append("closed")


def at_boundaries(one, steps):
    rounds = Rounds()
    course = AtBoundaries(one, InFlight(rounds, Wishes()), 3)
    waited = {boundary: course.at_boundary(boundary) for boundary in range(3, 3 + steps)}
    return rounds.diary, waited, course


def test_a_stream_applies_what_is_due_before_it_begins_the_next():
    diary, waited, course = at_boundaries(plan("stream", 2, [[0], [1], []]), 4)
    assert diary == [
        *[("begins", 3, 0, 0), ("begins", 4, 1, 1)],
        *[("applied", 3, 0)],  # at boundary 5
        *[("applied", 4, 1), ("begins", 6, 0, 0)],
    ]
    assert waited == {3: 0.0, 4: 0.0, 5: 1.0, 6: 1.0}
    assert [boundary for boundary in range(3, 10) if course.begins_anew(boundary)] == [3, 6, 9]


def test_blocking_applies_at_once():
    diary, waited, _ = at_boundaries(plan("blocking", 0, [[], [0, 1]]), 2)
    assert diary == [("begins", 4, 1, 0), ("begins", 4, 1, 1), ("applied", 4, 0), ("applied", 4, 1)]
    assert waited == {3: 0.0, 4: 2.0}


def test_without_a_plan_nothing_happens():
    course = NoPlan()
    course.start_step(1)
    course.end_step()
    assert course.at_boundary(1) == 0.0 and not course.begins_anew(1) and course.begins == 1
    course.remove()


def in_backward(rounds):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    life, waited = Life(on_lost=rounds.close), []
    course = InBackward(
        plan("backward", 0, [[0, 1], [1]]),
        InFlight(rounds, Wishes()),
        5,
        units=find_units(model),
        optimizer=optimizer,
        is_last_micro_batch=lambda: True,
        optimizer_in_backward=False,
        life=life,
        waited=waited.append,
    )
    return course, model, optimizer, life, waited


def test_backward_begins_rounds_in_the_plans_order_and_applies_them_before_the_update():
    rounds = Rounds()
    course, model, optimizer, _, waited = in_backward(rounds)
    assert course.begins_anew(4) and not course.begins_anew(5) and course.begins_anew(6)
    for step in (5, 6):
        course.start_step(step)
        model(torch.ones(2)).sum().backward()
        assert [entry[0] for entry in rounds.diary[-1:]] == ["begins"]
        optimizer.step()
        course.end_step()
    assert rounds.diary == [
        *[("begins", 5, 0, 0), ("begins", 5, 0, 1), ("applied", 5, 0), ("applied", 5, 1)],
        *[("begins", 6, 1, 1), ("applied", 6, 1)],
    ]
    assert sum(waited) == 3.0
    course.remove()


def test_a_skipped_update_still_sends_what_the_step_sends():
    rounds = Rounds()
    course, *_ = in_backward(rounds)
    course.start_step(5)
    course.end_step()
    assert [entry[0] for entry in rounds.diary] == ["begins", "begins", "applied", "applied"]
    course.remove()


def test_a_site_lost_inside_the_optimizers_step_is_raised_at_the_boundary():
    rounds = Rounds(lost_at=5)
    course, model, optimizer, life, _ = in_backward(rounds)
    course.start_step(5)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    assert isinstance(life.lost, SiteLostError) and rounds.diary[-1] == "closed"
    with pytest.raises(SiteLostError):
        life.require()
    course.remove()
