# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What Trainer and its callbacks decide, made so that all sites do it at the same step.

A flush, a save, an evaluation and an end are collective: one site that went ahead alone would wait for the others
for good. So a decision is one of two kinds. What follows from arguments and the step's number alone, as Trainer's
strategies and `max_steps` do, is known everywhere and happens at once. Everything else (a callback that saves on its
own loss, an epoch of private data, a signal to one machine) is one site's wish: it is taken back where it was made,
travels with the rounds, and happens on all sites at the boundary of a step at which all have learnt of it.

Decides only; sends and writes nothing itself.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import DefaultFlowCallback, TrainerControl, TrainerState, TrainingArguments

from geo_accel.sync.wishes import WISHES, Wishes

SAVE, EVALUATE, STOP, STOP_EPOCH, FLUSH = WISHES
"""What can be wished. FLUSH has no flag in Trainer: somebody wants agreed weights, to write them himself."""
ATTRIBUTES = {
    SAVE: "should_save",
    EVALUATE: "should_evaluate",
    STOP: "should_training_stop",
    STOP_EPOCH: "should_epoch_stop",
}
"""Trainer's flags in its `control`."""


class Meeting(Protocol):
    """What an engine offers."""

    wishes: Wishes
    """What sites want, told with the rounds."""

    def step(self) -> None:
        """One boundary of a step."""

    def flush(self) -> None:
        """One exact average. Collective."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """Optimizer steps in one epoch, over all sites."""

    steps: int | None
    """Those of the site with least data, whose epochs are the run's; None where a site's data have no length."""
    alike: bool
    """Whether every site's epochs end at the same steps."""

    @classmethod
    def of(cls, lengths: Sequence[int | None]) -> "Epochs":
        """From every site's own number of steps; None for a stream."""
        known = [length for length in lengths if length is not None]
        if len(known) < len(lengths):
            return cls(steps=None, alike=False)
        return cls(steps=min(known), alike=len(set(known)) == 1)


def flags_of(control: TrainerControl) -> frozenset[str]:
    return frozenset(what for what, name in ATTRIBUTES.items() if getattr(control, name))


class Decisions:
    """One training's decisions, event by event."""

    def __init__(
        self,
        meeting: Meeting,
        gather: Callable[[str, list[str]], Sequence[Iterable[str]]],
        epochs: Epochs,
        agreed_weights: Callable[[], None] = lambda: None,
    ) -> None:
        """`gather` tells all ranks a list and returns everybody's, by rank. Collective, at boundaries of steps only.

        `agreed_weights` is called whenever all sites hold the same weights, after a flush.
        """
        self._meeting, self._gather, self._epochs, self._agreed_weights = meeting, gather, epochs, agreed_weights
        self._flow = DefaultFlowCallback()
        self._granted: set[str] = set()
        self._open: set[str] = set()
        """Own wishes that have not happened."""
        self._done: set[str] = set()
        """What has happened since the last step, on all sites."""
        self._had_data = False
        self.flushed = True
        """Whether the weights are those that all sites agreed on: since a flush no update has changed them."""

    @property
    def ending(self) -> bool:
        """Whether all sites have agreed to stop."""
        return STOP in self._granted

    @property
    def may_save(self) -> bool:
        """Whether all sites save now."""
        return SAVE in self._granted

    def allow_save(self) -> None:
        """All sites have just found the same model the best, and save it."""
        self._granted.add(SAVE)

    def wish(self, what: str) -> None:
        """Wants `what` on all sites, a few steps from now; before the end at the latest."""
        if what not in self._open:
            self._open.add(what)
            if not self.ending:
                self._meeting.wishes.wish(what)

    def after(self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """To be called after all callbacks of `event`, in whatever order they stand. Changes `control`."""
        if event == "on_epoch_begin":
            self._granted.discard(STOP_EPOCH)
            self._had_data = False
        elif event == "on_step_begin":
            self._granted -= {SAVE, EVALUATE}
            self._done.clear()
            self._had_data = True
        elif event == "on_pre_optimizer_step":
            self.flushed = False
        elif event == "on_save":
            self._granted.discard(SAVE)
            self._done.add(SAVE)
        elif event == "on_evaluate":
            self._granted.discard(EVALUATE)
            self._done.add(EVALUATE)
        if event == "on_step_end":
            self._end_step(args, state, control)
        elif event == "on_epoch_end":
            self._end_epoch(args, state, control)
        elif event == "on_evaluate":
            # Evaluating is collective, so every site is here. Another evaluation would be of the same weights, and
            # only a site whose epoch ends here would make it.
            self._grant(self._any(self._take(control)) - {EVALUATE}, control)
        else:
            self._wish_all(self._take(control))

    def end(self, control: TrainerControl) -> frozenset[str]:
        """What is left to do once all sites have stopped: nobody's wish is lost. Collective."""
        assert self.ending
        self._open |= self._take(control)
        left = self._any(self._open)
        self._open.clear()
        self._flush()
        left = (left & {SAVE, EVALUATE}) - self._done
        self._grant(left, control)
        return left

    def stop_here(self, control: TrainerControl) -> bool:
        """The loop is over on this site though nobody stopped it. Returns whether it is on all others too."""
        if self._epochs.alike:
            self._grant({STOP}, control)
            return True
        self.wish(STOP)
        return False

    def _end_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        asked = self._take(control)
        due = self._due_in_unlike_epochs(args, state)
        together = bool(due or flags_of(self._flow.on_step_end(args, state, TrainerControl())))
        if not together:
            self._wish_all(asked)
        self._meeting.step()
        self.flushed = False
        agreed = set(self._meeting.wishes.take())
        self._open -= agreed
        if together:
            agreed |= due | self._any(asked)
        if agreed & {SAVE, EVALUATE, STOP, FLUSH}:
            self._flush()
        self._grant(agreed, control)

    def _end_epoch(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        asked = self._take(control)
        if self.ending:
            self._open |= asked
            return
        if STOP in asked and not self._had_data:
            # Trainer itself says so: this site's data have come to their end, it cannot go on.
            control.should_training_stop = True
            self._wish_all(asked)
            return
        own = flags_of(self._flow.on_epoch_end(args, state, TrainerControl()))
        if own and (self._epochs.alike or STOP_EPOCH in self._granted):
            agreed = self._any(asked)
            if agreed & {SAVE, EVALUATE, STOP}:
                self._flush()
            self._grant(agreed, control)
        elif self._epochs.steps is not None and not self._epochs.alike:
            self._wish_all(asked - own)  # they happen with the shortest site's epochs
        else:
            self._wish_all(asked)

    def _due_in_unlike_epochs(self, args: TrainingArguments, state: TrainerState) -> frozenset[str]:
        """What Trainer's strategies per epoch ask for here, where epochs are counted by the shortest site's."""
        steps = self._epochs.steps
        if self._epochs.alike or steps is None or state.global_step % steps:
            return frozenset()
        there = copy.copy(state)
        there.epoch = state.global_step / steps
        return flags_of(self._flow.on_epoch_end(args, there, TrainerControl()))

    def _take(self, control: TrainerControl) -> frozenset[str]:
        """Takes out of `control` what is asked for and was not granted."""
        asked = flags_of(control) - self._granted
        for what in asked:
            setattr(control, ATTRIBUTES[what], False)
        return asked

    def _grant(self, agreed: Collection[str], control: TrainerControl) -> None:
        self._granted |= set(agreed)
        for what in agreed:
            if what in ATTRIBUTES:
                setattr(control, ATTRIBUTES[what], True)

    def _any(self, asked: Iterable[str]) -> frozenset[str]:
        """What some site asks for, all being here."""
        return frozenset(what for theirs in self._gather("deciding together", sorted(asked)) for what in theirs)

    def _wish_all(self, asked: Iterable[str]) -> None:
        for what in sorted(asked):
            self.wish(what)

    def _flush(self) -> None:
        self._meeting.flush()
        self.flushed = True
        self._agreed_weights()
