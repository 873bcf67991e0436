# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Layers whose times are known, because they sleep."""

import time

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from geo_accel.profile.layers import STEPS, LayerTimer, as_profile
from geo_accel.units import find_units

pytestmark = pytest.mark.alone

FORWARD, BACKWARD, BETWEEN = 0.004, 0.012, 0.03
UPDATE = 0.008
SLACK = 0.006  # a sleep may last longer on a busy machine


class Sleep(torch.autograd.Function):
    @staticmethod
    def forward(context, values, forward_s, backward_s):
        context.backward_s = backward_s
        time.sleep(forward_s)
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        time.sleep(context.backward_s)
        return gradient, None, None


class Slow(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.factor = factor

    def forward(self, values):
        # Backward's sleep comes after the weight, and so before the weight's gradient; forward's comes before it, or
        # recomputation would stop without it.
        values = self.linear(Sleep.apply(values, FORWARD * self.factor, 0.0))
        return Sleep.apply(values, 0.0, BACKWARD * self.factor)


class Model(nn.Module):
    def __init__(self, recomputes=False):
        super().__init__()
        self.layers = nn.ModuleList([Slow(1), Slow(2), Slow(3)])
        self.unused = nn.Linear(2, 2)
        self.recomputes = recomputes

    def forward(self, values):
        for layer in self.layers:
            values = checkpoint(layer, values, use_reentrant=False) if self.recomputes else layer(values)
        return {"loss": values.square().mean(), "more": [values]}


class SlowSgd(torch.optim.SGD):
    def step(self, closure=None):
        time.sleep(UPDATE)
        return super().step(closure)


def measure(model, micro_batches=1, disturb=None, **how):
    units = find_units(model)
    optimizer = SlowSgd(model.parameters(), lr=0.0)
    timer = LayerTimer(model, units, optimizer, **how)
    step = 0
    while not timer.done and step < STEPS + 5:
        timer.start_step()
        for _ in range(micro_batches):
            loss = model(torch.randn(2, 4))["loss"]
            time.sleep(BETWEEN)  # what lies between forward and backward belongs to no layer
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if disturb is not None:
            disturb(timer, step)
        timer.end_step()
        step += 1
    timer.remove()
    return timer, {unit.name: unit.numel for unit in units}, step


def test_every_layer_gets_its_own_time_in_the_order_of_the_gradients():
    timer, carried, _ = measure(Model())
    computing = timer.result(carried)
    assert [unit.name for unit in computing.units] == ["layers.2", "layers.1", "layers.0", "unused"]
    for unit, factor in zip(computing.units, (3, 2, 1), strict=False):
        assert unit.forward_s == pytest.approx(FORWARD * factor, abs=SLACK)
        assert unit.backward_s == pytest.approx(BACKWARD * factor, abs=SLACK)
    assert computing.units[-1].forward_s == computing.units[-1].backward_s == 0
    assert sum(unit.update_s for unit in computing.units) == pytest.approx(UPDATE, abs=SLACK)
    assert UPDATE <= computing.after_s < UPDATE + 2 * SLACK
    parts = sum(unit.forward_s + unit.backward_s for unit in computing.units) + computing.after_s + BETWEEN
    assert computing.step_s == pytest.approx(parts, rel=0.15)
    assert computing.batch_shape == (2, 4) and computing.micro_batches == 1


def test_recomputation_is_backward():
    timer, carried, _ = measure(Model(recomputes=True))
    for unit, factor in zip(timer.result(carried).units, (3, 2, 1), strict=False):
        assert unit.backward_s == pytest.approx((FORWARD + BACKWARD) * factor, abs=SLACK)
        assert unit.forward_s == pytest.approx(FORWARD * factor, abs=SLACK)


def test_of_several_micro_batches_times_are_those_of_one():
    timer, carried, _ = measure(Model(), micro_batches=2)
    computing = timer.result(carried)
    assert computing.micro_batches == 2
    assert computing.units[0].backward_s == pytest.approx(3 * BACKWARD, abs=SLACK)
    assert computing.step_s > 2 * (6 * (FORWARD + BACKWARD) + BETWEEN)


def test_evaluation_and_dropped_steps_do_not_count():
    def disturb(timer, step):
        if step in (4, 5):
            timer.drop_step()

    timer, _, steps = measure(Model(), disturb=disturb)
    assert timer.done and steps == STEPS + 2


def test_the_clock_stands_still_while_others_are_waited_for():
    away = [0.0]

    def disturb(timer, step):
        away[0] += 0.1
        time.sleep(0.1)

    timer, carried, _ = measure(Model(), disturb=disturb, away_s=lambda: away[0])
    computing = timer.result(carried)
    assert computing.after_s < UPDATE + 2 * SLACK and computing.step_s < 6 * (FORWARD + BACKWARD) + BETWEEN + 0.06


def test_hooks_are_gone_afterwards_and_a_profile_says_where_it_was_made():
    model = Model()
    timer, carried, _ = measure(model)
    assert not model._forward_hooks and not model._forward_pre_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    made = as_profile(timer.result(carried), torch.device("cpu"), ranks=1)
    assert made.compute_s > made.backward_s > 0
    assert {"device", "torch", "date", "batch_shape", "ranks"} <= made.provenance.keys()


def test_spans_for_traces_come_in_order_and_fill_the_step():
    spans = []
    measure_model = Model()
    units = find_units(measure_model)
    timer = LayerTimer(measure_model, units, on_span=lambda *span: spans.append(span))
    timer.start_step()
    begin = time.perf_counter()
    measure_model(torch.randn(2, 4))["loss"].backward()
    timer.end_step()
    timer.remove()
    tracks = [track for track, *_ in spans]
    assert tracks == ["forward"] * 3 + ["backward"] * 3
    assert [name for _, name, *_ in spans] == [f"layers.{i}" for i in (0, 1, 2, 2, 1, 0)]
    assert all(begin - 0.01 <= start <= stop <= time.perf_counter() for *_, start, stop in spans)
