# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The engine: runs the plan, at step boundaries and, in mode "backward", inside backward.

Order on every rank comes from the plan and the step counter alone; timing decides nothing. One thread (`Rounds`)
talks to the other sites, in that order.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter

import torch
from torch import nn

from geo_accel.config import GeoConfig
from geo_accel.config.names import Mode
from geo_accel.masters import Masters, PlainMasters
from geo_accel.plan.plan import Plan
from geo_accel.profile.profile import Profile
from geo_accel.profile.trace import Trace
from geo_accel.report.figures import Figures
from geo_accel.rounds.rounds import Rounds
from geo_accel.sites.inside import InsideSite
from geo_accel.sync.backward import require_backward_fits
from geo_accel.sync.courses import AtBoundaries, Course, InBackward, NoPlan
from geo_accel.sync.flush import Flush
from geo_accel.sync.handshake import require_same
from geo_accel.sync.in_flight import InFlight
from geo_accel.sync.life import Life
from geo_accel.sync.planning import Planning
from geo_accel.sync.rest import untrained_checksums
from geo_accel.sync.step_clock import StepClock
from geo_accel.sync.trained import trained_units
from geo_accel.sync.wishes import Wishes
from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.store import ControlPlane
from geo_accel.units import Unit

logger = logging.getLogger("geo_accel")


class Engine:
    """Keeps one model's replicas together across sites.

    Call `step()` after every optimizer update (a skipped fp16 step counts) and `flush()` before evaluation, saving and
    the end. All methods are collective: every rank calls them at the same point. When a site is lost, `step` and
    `flush` raise SiteLostError naming it; the weights then hold this site's own progress.
    """

    def __init__(
        self,
        model: nn.Module,
        config: GeoConfig,
        transport: Transport,
        inside: InsideSite,
        control: ControlPlane,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        other_optimizers: Sequence[torch.optim.Optimizer] = (),
        is_last_micro_batch: Callable[[], bool] = lambda: True,
        masters: Callable[[Sequence[Unit], Topology], Masters] = PlainMasters,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """`model` is the bare model, not its DDP wrapper. `facts` must be the same everywhere, like the config.

        `masters` makes what rounds act on; by default the model's own parameters.
        `optimizer` (torch's own or a wrapper with it as `optimizer`) is needed for mode "backward", and where it has
        an eval mode. What neither it nor `other_optimizers` train is not sent, and named in a warning.
        `is_last_micro_batch` says during backward whether the optimizer's step follows it.

        Raises ValueError, on every rank alike, where sites disagree on config, model or initial weights, or the mode
        does not go with the optimizer or the sites.
        """
        self.topology = transport.topology
        self.config = config
        optimizers = (optimizer, *other_optimizers)
        self.units = trained_units(model, optimizers, says=self.topology.rank == 0)
        self.masters = masters(self.units, self.topology)
        require_same(control, self.topology, config, self.masters, facts or {}, untrained_checksums(model, self.units))
        self.control = control
        self._trace = Trace.from_environment(self.topology.rank, self.topology.own_name)
        self._rounds = Rounds(self.masters, transport, inside, self._trace)
        self._rounds.reset_anchor()
        self._optimizer = getattr(optimizer, "optimizer", optimizer)
        self._flush = Flush(model, self.masters, self._rounds, transport, inside, control, optimizers)
        if config.sync.mode == Mode.BACKWARD:
            require_backward_fits(self._optimizer, config, self.topology)
        self.planning = Planning(
            config, control, control.another(), transport, self._rounds, model, self.units, self._optimizer
        )
        self.plan: Plan | None = None
        self.on_plan: list[Callable[[Plan], None]] = []
        """Called with every plan that is adopted."""
        self.step_count = 0
        self.figures = Figures(lambda: transport.bytes_sent)
        self.wishes = Wishes()
        """What sites want to do together; integrations add to it and take from it after `step`."""
        self._life = Life(on_lost=self._rounds.close)
        self._in_flight = InFlight(self._rounds, self.wishes)
        self._course: Course = NoPlan()
        self._in_backward = partial(
            InBackward,
            units=self.units,
            optimizer=self._optimizer,
            is_last_micro_batch=is_last_micro_batch,
            optimizer_in_backward=config.sync.optimizer_in_backward,
            life=self._life,
            waited=self.figures.waited,
        )
        self._flushed_at = 0
        self._clock = StepClock(model, self.units, self._optimizer, self._trace, self.planning, self.figures)

    def step(self) -> None:
        """One step boundary: applies what is due, then starts what the plan starts here."""
        self._check()
        with self._life.losing_sites():
            self._course.end_step()
            self._clock.end(self.step_count + 1, planned=self.plan is not None)
            self.step_count += 1
            if self.plan is None:
                self._plan_first()
            elif self._course.begins_anew(self.step_count):
                plan = self.planning.next_plan(self.plan)
                if plan is not None:
                    self.figures.waited(self._apply_all())
                    self._adopt(plan)
            self._clock.between(self._course, self.step_count)
        self._clock.start()
        self._course.start_step(self.step_count + 1)

    def _plan_first(self) -> None:
        self._in_flight.hear_beat(self.step_count)
        begins = self._life.state == "new"
        plan = (self.planning.begin if begins else self.planning.measured)(self.step_count)
        self._life.comes("boundary")
        if plan is not None:
            self._adopt(plan)
        elif self.planning.probe is None:  # which shows who is there too
            self._in_flight.beat(self.step_count)

    def _apply_all(self) -> float:
        """Finishes and applies what is in flight; returns the seconds waited."""
        self.planning.finish_probing()
        return self._in_flight.apply_all(self.step_count)

    def flush(self) -> None:
        """Finishes what is in flight, then one exact full average: afterwards all sites hold the same bits.

        An optimizer with an eval mode may be in either. Raises ValueError, on every rank, where sites still differ.
        Does nothing where no step has passed since the last flush.
        """
        self._check()
        if self._flushed_at == self.step_count:
            return
        start = perf_counter()
        with self._life.losing_sites(), self._flush.in_training_form():
            self._apply_all()
            self._flush.run(self.step_count, self.plan.averaging.coefficients if self.plan else ())
        self._flushed_at = self.step_count
        self._clock.flushed(start)

    def settle(self) -> None:
        """Finishes and applies what is in flight."""
        with self._life.losing_sites():
            self._apply_all()

    def restore(
        self, *, step: int, adopted: int, plan: Plan | None, profile: Profile | None, outer_state: torch.Tensor | None
    ) -> None:
        """Continues at step boundary `step` with weights that every site has just loaded alike."""
        assert not self._in_flight
        with self._flush.in_training_form():
            self._rounds.reset_anchor()
        self._rounds.outer.velocity = outer_state
        self.step_count = self._flushed_at = step
        self._clock.drop()
        if plan is not None:
            self.planning.restore(plan, profile)
            self._adopt(plan)
            self._course.begins = adopted
        elif self.plan is not None:
            self._course.begins = step + 1
            self._course.start_step(step + 1)

    def close(self) -> None:
        """Ends the background thread and writes the trace, if one is wanted. Does not flush."""
        self._rounds.close(at_rest=self._life.lost is None and not self._in_flight and self.planning.probe is None)
        for watching in (self._course, self._clock, self.planning):
            watching.remove()
        self._life.comes("close")
        self._trace.save()

    @property
    def outer_state(self) -> torch.Tensor | None:
        """The outer optimizer's velocity, flat fp32 like the anchor; None where there never was one."""
        return self._rounds.outer.velocity

    @property
    def anchor(self) -> torch.Tensor:
        """The last agreed weights, flat fp32 over this rank's carried vector; steady while nothing is in flight."""
        return self._rounds.anchor

    @property
    def adopted(self) -> int:
        """The step, counted from 1, at which the plan's first step was run."""
        return self._course.begins

    def metrics(self) -> dict[str, float]:
        """Scalars for the run's tracker."""
        return self.figures.metrics() | self.planning.metrics()

    def summary(self) -> dict[str, object]:
        """What was done so far, ready for JSON: plan, bytes, seconds, link."""
        done = self.figures.summary(self.step_count)
        return done | self.planning.summary() | {"sites": [site.name for site in self.topology.sites]}

    def _adopt(self, plan: Plan) -> None:
        """Begins `plan`, here or in mode "backward" in the step that begins here."""
        assert not self._in_flight
        if plan.mode == Mode.BACKWARD:  # which a plan file may say as well
            require_backward_fits(self._optimizer, self.config, self.topology)
        if self.plan is not None and plan.outer.momentum < self.plan.outer.momentum:
            self._rounds.outer.forget()  # a damped step does not carry on what made it necessary
        self._course.remove()
        course, begins = AtBoundaries, self.step_count
        if plan.mode == Mode.BACKWARD:
            course, begins = self._in_backward, self.step_count + 1
        self.plan, self._course = plan, course(plan, self._in_flight, begins)
        self._course.start_step(self.step_count + 1)
        self._life.comes("plan")
        self.planning.adopted(plan)
        self.figures.adopted(plan, self.adopted)
        self._rounds.follow(plan, len(self.figures.plans))
        logger.info("plan from step %d: %s", self.adopted, plan.reason)
        for listener in self.on_plan:
            listener(plan)

    def _check(self) -> None:
        """Raises what broke, at the first boundary after it broke."""
        self._life.require()
        for future in (self.planning.probe, *self._in_flight.futures):
            if future is not None and future.done():
                with self._life.losing_sites():
                    future.result()
