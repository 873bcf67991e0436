# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites decide together: Trainer's loop as it is, over sites as threads that would notice if one went ahead alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DefaultFlowCallback, TrainerControl, TrainerState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from geo_accel.integrations.trainer_decisions import ATTRIBUTES, Decisions, Epochs
from geo_accel.sync.wishes import Wishes

LATER = 2  # steps after which a wish is known everywhere


class Meeting:
    """All sites' engines: every call is a meeting of them all, and of the same kind."""

    def __init__(self, sites: int) -> None:
        self._barrier = threading.Barrier(sites, timeout=5)
        self._here: dict[int, tuple] = {}
        self.wishes: dict[int, set[str]] = {}

    def meet(self, site: int, kind: str, what: object = None) -> list:
        self._here[site] = (kind, what)
        self._barrier.wait()
        arrived = [self._here[other] for other in sorted(self._here)]
        assert len({kind for kind, _ in arrived}) == 1, f"sites met for unlike things: {arrived}"
        self._barrier.wait()
        return [what for _, what in arrived]


class Site:
    """One site's engine and Trainer's loop, without a model."""

    def __init__(self, number, meeting, *, passes, strategies, max_steps, epochs=None, asks=()):
        """`passes` are the steps of each pass over the data, the last for ever; 0 where there are no more data.

        `asks` are (event, step, flag) of a callback.
        """
        self.number, self.meeting, self.passes, self.asks = number, meeting, passes, asks
        self.args = SimpleNamespace(
            logging_strategy=IntervalStrategy.NO,
            logging_first_step=False,
            eval_delay=0,
            save_strategy=SaveStrategy(strategies.get("save", "no")),
            eval_strategy=IntervalStrategy(strategies.get("evaluate", "no")),
        )
        self.state = TrainerState(max_steps=max_steps, save_steps=strategies.get("every", 4), eval_steps=3)
        self.epochs = 10_000 if epochs is None else epochs
        self.control, self.flow = TrainerControl(), DefaultFlowCallback()
        self.done, self.steps = [], 0
        self.wishes, self._flying = Wishes(), []

    def step(self):
        """As an engine whose rounds take a step: what is wished after a step begins with the next one."""
        self.steps += 1
        while self._flying and self._flying[0][0] < self.steps:
            begun, bits = self._flying.pop(0)
            self.wishes.heard(bits, begun=begun, boundary=self.steps)
        bits = 0
        for told in self.meeting.meet(self.number, "step", self.wishes.told()):
            bits |= told
        self._flying.append((self.steps, bits))

    def flush(self):
        self.meeting.meet(self.number, "flush", self.steps)

    def event(self, name):
        for event, step, what in self.asks:
            if event == name and step == self.state.global_step:
                setattr(self.control, ATTRIBUTES[what], True)
        if hasattr(self.flow, name):
            getattr(self.flow, name)(self.args, self.state, self.control)
        self.decisions.after(name, self.args, self.state, self.control)

    def tail(self):
        """Trainer's _maybe_log_save_evaluate."""
        self.event("on_log")
        if self.control.should_evaluate:
            self.do("evaluate")
            self.control.should_evaluate = False
            self.event("on_evaluate")
        if self.control.should_save:
            self.do("save")
            self.control.should_save = False
            self.event("on_save")

    def do(self, what):
        assert self.decisions.flushed
        self.meeting.meet(self.number, what, self.state.global_step)
        self.done.append((self.state.global_step, what))

    def train(self, lengths, late=lambda: None):
        self.decisions = Decisions(self, lambda why, asked: self.meeting.meet(self.number, why, asked), lengths, late)
        self.event("on_train_begin")
        for epoch in range(self.epochs):
            self.control.should_epoch_stop = False
            self.event("on_epoch_begin")
            length = self.passes[min(epoch, len(self.passes) - 1)]
            for step in range(length):
                self.control._new_step()
                self.event("on_step_begin")
                self.event("on_pre_optimizer_step")
                self.state.global_step += 1
                self.state.epoch = epoch + (step + 1) / length
                self.event("on_step_end")
                self.tail()
                if self.control.should_epoch_stop or self.control.should_training_stop:
                    break
            if length == 0:
                self.control.should_training_stop = True
            self.event("on_epoch_end")
            self.tail()
            if self.control.should_training_stop:
                break
        self.finalize()
        return self.done, self.state.global_step

    def finalize(self):
        if not self.decisions.ending and not self.decisions.stop_here(self.control):
            while not self.decisions.ending:
                self.control._new_step()
                self.event("on_step_begin")
                self.state.global_step += 1
                self.event("on_step_end")
                self.tail()
                if self.control.should_epoch_stop:
                    self.event("on_epoch_end")
                    self.tail()
                    self.control.should_epoch_stop = False
                    self.event("on_epoch_begin")
        if self.decisions.end(self.control):
            self.tail()


def run(passes, *, strategies=None, max_steps=12, asks=None, streams=False, late=None, **how):
    """What was done at which step, alike on all sites, and the step at which all ended."""
    meeting = Meeting(len(passes))
    sites = [
        Site(
            number,
            meeting,
            passes=own,
            strategies=strategies or {},
            max_steps=max_steps,
            asks=(asks or {}).get(number, ()),
            **how,
        )
        for number, own in enumerate(passes)
    ]
    lengths = Epochs.of([None if streams else own[0] for own in passes])
    with ThreadPoolExecutor(len(sites)) as pool:
        futures = [pool.submit(site.train, lengths, (late or {}).get(site.number, lambda: None)) for site in sites]
        results = [future.result(timeout=30) for future in futures]
    assert all(result == results[0] for result in results)
    return results[0]


def test_what_arguments_decide_happens_at_the_very_step():
    done, end = run([[100], [100]], strategies={"save": "steps", "evaluate": "steps"}, max_steps=10)
    assert done == [(s, "evaluate") for s in (3,)] + [
        (4, "save"),
        (6, "evaluate"),
        (8, "save"),
        (9, "evaluate"),
        (10, "evaluate"),
        (10, "save"),
    ]
    assert end == 10


def test_epochs_that_are_alike_are_saved_when_they_end():
    assert run([[5], [5]], strategies={"save": "epoch", "evaluate": "epoch"}, max_steps=10)[0] == [
        (5, "evaluate"),
        (5, "save"),
        (10, "evaluate"),
        (10, "save"),
    ]


def test_the_shortest_sites_epochs_are_the_runs():
    done, end = run([[3], [7]], strategies={"save": "epoch", "evaluate": "epoch"}, max_steps=9)
    assert done == [(step, what) for step in (3, 6, 9) for what in ("evaluate", "save")] and end == 9


def test_streams_are_saved_soon_after_a_pass_of_any_site():
    done, _ = run([[5], [20]], strategies={"save": "epoch"}, max_steps=12, streams=True)
    # Site 0's pass ends after step 5; the second pass's save is left when all end.
    assert done == [(5 + 1 + LATER, "save"), (12, "save")] or [step for step, _ in done][-1] == 12


@pytest.mark.parametrize(
    "event", ["on_log", "on_step_end", "on_step_begin", "on_pre_optimizer_step", "on_epoch_begin"]
)
@pytest.mark.parametrize("what", ["save", "evaluate"])
def test_one_sites_wish_is_fulfilled_on_all(event, what):
    step = 0 if event == "on_epoch_begin" else 4
    done, end = run([[50], [50]], asks={1: [(event, step, what)]}, max_steps=12)
    assert [kind for _, kind in done] == [what] and step <= done[0][0] <= step + LATER + 1 and end == 12


def test_one_site_stops_all():
    assert run([[50], [50], [50]], asks={2: [("on_log", 4, "stop")]}, max_steps=30)[1] == 4 + LATER


def test_a_wish_that_training_leaves_open_is_fulfilled_at_the_end():
    assert run([[50], [50]], asks={0: [("on_log", 11, "save")]}, max_steps=12) == ([(12, "save")], 12)
    assert run([[6], [6]], asks={0: [("on_epoch_end", 12, "save")]}, max_steps=12) == ([(12, "save")], 12)


def test_what_is_decided_after_an_evaluation_happens_at_once():
    asks = {1: [("on_evaluate", 6, "stop"), ("on_evaluate", 3, "save")]}
    done, end = run([[50], [50]], strategies={"evaluate": "steps"}, asks=asks, max_steps=12)
    assert done == [(3, "evaluate"), (3, "save"), (6, "evaluate")] and end == 6


def test_an_evaluation_that_is_asked_for_during_one_is_that_one():
    asks = {1: [("on_step_begin", 1, "evaluate"), ("on_evaluate", 3, "evaluate")]}
    done, end = run([[1], [2]], asks=asks, max_steps=14)
    assert done == [(3, "evaluate")] and end == 14


def test_a_site_without_data_goes_along_until_all_stop():
    done, end = run([[4, 0], [50]], strategies={"save": "steps"}, max_steps=30, streams=True)
    assert end == 4 + LATER and done == [(4, "save")]  # step 8 is not reached


def test_a_site_whose_epochs_are_over_goes_along_too():
    asks = {0: [("on_log", 2, "stop_epoch")]}
    assert run([[3], [7]], asks=asks, max_steps=100, epochs=2)[1] < 20
    assert run([[5], [5]], asks=asks, max_steps=100, epochs=2)[1] == 2 + LATER + 5


def test_a_site_whose_data_are_over_ends_an_epoch_with_the_others():
    asks = {1: [("on_step_begin", 3, "stop_epoch")]}
    done, end = run([[4, 0], [5, 0]], strategies={"save": "epoch"}, asks=asks, max_steps=14, streams=True)
    assert (3 + LATER, "save") in done and end > 3 + LATER


def test_agreed_weights_are_there_where_they_are_waited_for():
    written = []
    site: list = []

    class Waiting(Site):
        def tail(self):
            if self.number == 0 and self.state.global_step == 3 and not site:
                site.append(self)
                self.decisions.wish("flush")
            super().tail()

    meeting = Meeting(2)
    sites = [Waiting(n, meeting, passes=[50], strategies={}, max_steps=9) for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(s.train, Epochs.of([50, 50]), lambda s=s: written.append((s.number, s.steps))) for s in sites
        ]
        assert [future.result(timeout=30) for future in futures] == [([], 9)] * 2
    assert {(0, 3 + LATER), (1, 3 + LATER)} <= set(written)


EVENTS = ("on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log", "on_evaluate", "on_save", "on_epoch_end")
ASK = st.tuples(st.sampled_from(EVENTS), st.integers(1, 14), st.sampled_from(sorted(ATTRIBUTES)))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.lists(ASK, max_size=4)), min_size=2, max_size=3),
    st.sampled_from([{}, {"save": "epoch"}, {"save": "steps", "evaluate": "epoch"}, {"evaluate": "steps"}]),
    st.booleans(),
    st.integers(0, 3),
)
def test_whatever_callbacks_ask_for_sites_do_the_same(sites, strategies, streams, passes):
    """Any epochs, any callbacks; streams that begin again, or end after some passes: nobody waits for nobody."""
    lengths = [[length] * passes + [0] if streams and passes else [length] for length, _ in sites]
    asks = dict(enumerate(own for _, own in sites))
    done, end = run(lengths, strategies=strategies, asks=asks, streams=streams, max_steps=14)
    assert end <= 14 and all(step <= end for step, _ in done)
