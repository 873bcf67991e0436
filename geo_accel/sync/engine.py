# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The engine: runs the plan, at step boundaries and, in mode "backward", inside backward.

Order on every rank comes from the plan and the step counter alone; timing decides nothing. One thread (`Rounds`)
talks to the other sites, in that order.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from time import perf_counter

import torch
from torch import nn

from geo_accel.config import GeoConfig
from geo_accel.masters import Masters, PlainMasters
from geo_accel.plan.cost import bytes_per_value
from geo_accel.plan.plan import Piece, Plan
from geo_accel.profile.layers import LayerTimer
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile
from geo_accel.profile.trace import Trace
from geo_accel.rounds.rounds import Round, Rounds
from geo_accel.sites.inside import InsideSite
from geo_accel.sync.backward import BackwardHooks, require_backward_fits
from geo_accel.sync.flush import Flush
from geo_accel.sync.handshake import require_same
from geo_accel.sync.planning import Planning
from geo_accel.sync.rest import untrained_checksums
from geo_accel.sync.trained import trained_units
from geo_accel.sync.wishes import Wishes
from geo_accel.topology import Topology
from geo_accel.transport.base import Transport
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.identity import Message
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
        **facts: object,
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
        require_same(control, self.topology, config, self.masters, facts, untrained_checksums(model, self.units))
        self._transport = transport
        self._sent_before = transport.bytes_sent
        self.control = control
        self._trace = Trace.from_environment(self.topology.rank, self.topology.site.name)
        self._rounds = Rounds(self.masters, transport, inside, self._trace)
        self._rounds.reset_anchor()
        self._optimizer = getattr(optimizer, "optimizer", optimizer)
        self._flush = Flush(model, self.masters, self._rounds, transport, inside, control, optimizers)
        self._is_last_micro_batch = is_last_micro_batch
        if config.sync.mode == "backward":
            require_backward_fits(self._optimizer, config, self.topology)
        self._planning = Planning(
            config, control, control.another(), transport, self._rounds, model, self.units, self._optimizer
        )
        self.plan: Plan | None = None
        self.on_plan: list[Callable[[Plan], None]] = []
        """Called with every plan that is adopted."""
        self._plans: list[dict[str, object]] = []
        self.step_count = 0
        self.exposed_s = 0.0
        """Seconds that training has waited for the WAN in its steps, flushes not counted."""
        self.flush_s = 0.0
        self.adopted = 1
        """The step, counted from 1, at which the plan's first step was run."""
        self._flushed_at = 0
        self._in_flight: list[Round] = []
        self._beat: Future | None = None
        self.wishes = Wishes()
        """What sites want to do together; integrations add to it and take from it after `step`."""
        self._hooks: BackwardHooks | None = None
        self._ready: set[int] = set()
        self._started = 0
        self._broken: SiteLostError | None = None
        self._begun = False
        self._boundary: float | None = None
        self._exposed_before = 0.0
        self._planned_since: tuple[float, float] | None = None
        self._traced_layers = (
            LayerTimer(model, self.units, self._optimizer, self._trace.add) if self._trace.wanted else None
        )

    def step(self) -> None:
        """One step boundary: applies what is due, then starts what the plan starts here."""
        self._check()
        with self._losing_sites():
            if self._hooks is not None:
                self._finish_backward()  # nothing is left, unless the optimizer's step was skipped
            self._end_step()
            self.step_count += 1
            if self.plan is None:
                self._hear_beat()
                plan = (self._planning.measured if self._begun else self._planning.begin)(self.step_count)
                self._begun = True
                if plan is not None:
                    self._adopt(plan)
                elif self._planning.probe is None:  # which shows who is there too
                    self._beat = self._rounds.beat(self.step_count, self.wishes.told())
            elif self._at_start_of_period():
                plan = self._planning.next_plan(self.plan)
                if plan is not None:
                    self.exposed_s += self._apply_all()
                    self._adopt(plan)
            if self.plan is not None and self.plan.mode != "backward":
                self._run_boundary()
        self._start_step()

    def _end_step(self) -> None:
        if self._boundary is None:
            return
        now = perf_counter()
        self._trace.add("step", f"step {self.step_count + 1}", self._boundary, now)
        if self._traced_layers is not None:
            self._traced_layers.end_step()
        self.exposed_s += self._planning.crossed()
        if self.plan is not None:
            self._planning.saw_step(now - self._boundary - (self.exposed_s - self._exposed_before))

    def _start_step(self) -> None:
        self._boundary = perf_counter()
        self._exposed_before = self.exposed_s
        self._planning.start_step()
        if self._traced_layers is not None:
            self._traced_layers.start_step()
        if self._hooks is not None:
            self._hooks.begin_step()
            self._ready.clear()
            self._started = 0

    def _drop_step(self) -> None:
        """What follows until the next boundary (evaluation, saving) is no training step and is not timed."""
        self._boundary = None
        self._planning.drop_step()
        if self._traced_layers is not None:
            self._traced_layers.drop_step()

    def _at_start_of_period(self) -> bool:
        """Whether the plan's first step comes next: here, or in mode "backward" in the step that begins here."""
        step = self.step_count + (self.plan.mode == "backward")
        return (step - self.adopted) % self.plan.period == 0

    def _run_boundary(self) -> None:
        plan, step = self.plan, self.step_count
        while self._in_flight and self._in_flight[0].due <= step:
            self.exposed_s += self._apply_next()
        slot = (step - self.adopted) % plan.period
        for pieces in plan.rounds[slot]:
            self._in_flight.append(self._start_round(pieces, step, slot))
        if plan.delay == 0:
            self.exposed_s += self._apply_all()

    def _start_round(self, pieces: tuple[Piece, ...], step: int, slot: int) -> Round:
        plan = self.plan
        return self._rounds.start(
            pieces,
            averaging=plan.averaging,
            outer=plan.outer,
            step=step,
            delay=plan.delay,
            slot=slot,
            wishes=self.wishes.told(),
        )

    def _apply_next(self) -> float:
        """Applies the first round in flight; returns the seconds waited."""
        running = self._in_flight.pop(0)
        waited = self._rounds.apply(running)
        self._heard(running.message)
        return waited

    def _hear_beat(self) -> None:
        if self._beat is not None:
            beat, self._beat = self._beat, None
            self._heard(beat.result())

    def _heard(self, message: Message) -> None:
        begun = message.identity.step
        self.wishes.heard(message.wishes, begun=begun, boundary=max(begun, self.step_count))

    def _apply_all(self) -> float:
        """Finishes and applies what is in flight; returns the seconds waited."""
        self._planning.finish_probing()
        self._hear_beat()
        waited = 0.0
        while self._in_flight:
            waited += self._apply_next()
        return waited

    def _unit_ready(self, unit: int) -> None:
        """Inside backward: starts the rounds whose units are all ready, in the plan's order and no other.

        A round whose units become ready early waits for those before it in the plan, so that every rank's background
        thread meets the same rounds in the same order whatever the order of its hooks.
        """
        self._ready.add(unit)
        if self._broken is None:
            self._start_rounds(lambda pieces: all(piece.unit in self._ready for piece in pieces))

    def _before_update(self) -> None:
        """Inside the optimizer's step, where nobody expects a lost site: it is raised at the boundary that follows."""
        with suppress(SiteLostError):
            if self._broken is None:
                self._finish_backward()

    def _finish_backward(self) -> None:
        """Before the update: starts what no gradient has started, then waits for and applies all of the step's."""
        with self._losing_sites():
            self._start_rounds(lambda pieces: True)
            self.exposed_s += self._apply_all()

    def _start_rounds(self, may_start: Callable[[tuple[Piece, ...]], bool]) -> None:
        step = self.step_count + 1
        slot = (step - self.adopted) % self.plan.period
        rounds = self.plan.rounds[slot]
        while self._started < len(rounds) and may_start(rounds[self._started]):
            self._in_flight.append(self._start_round(rounds[self._started], step, slot))
            self._started += 1

    def flush(self) -> None:
        """Finishes what is in flight, then one exact full average: afterwards all sites hold the same bits.

        An optimizer with an eval mode may be in either. Raises ValueError, on every rank, where sites still differ.
        Does nothing where no step has passed since the last flush.
        """
        self._check()
        if self._flushed_at == self.step_count:
            return
        start = perf_counter()
        with self._losing_sites(), self._flush.in_training_form():
            self._apply_all()
            self._flush.run(self.step_count, self.plan.averaging.coefficients if self.plan else ())
        self._flushed_at = self.step_count
        stop = perf_counter()
        self._trace.add("flush", "flush", start, stop)
        self.flush_s += stop - start
        self._drop_step()

    def settle(self) -> None:
        """Finishes and applies what is in flight."""
        with self._losing_sites():
            self._apply_all()

    def restore(
        self,
        *,
        step: int,
        adopted: int,
        plan: Plan | None,
        profile: Profile | None,
        outer_state: torch.Tensor | None,
    ) -> None:
        """Continues at step boundary `step` with weights that every site has just loaded alike."""
        assert not self._in_flight
        with self._flush.in_training_form():
            self._rounds.reset_anchor()
        self._rounds.outer.velocity = outer_state
        self.step_count = self._flushed_at = step
        self._drop_step()
        if plan is not None:
            self._begun = True
            self._planning.restore(plan, profile)
            self._adopt(plan)
            self.adopted = adopted
        elif self.plan is not None:
            self.adopted = step + 1

    def close(self) -> None:
        """Ends the background thread and writes the trace, if one is wanted. Does not flush."""
        self._rounds.close(
            at_rest=self._broken is None and not any((self._beat, self._planning.probe, self._in_flight))
        )
        for watching in (self._hooks, self._traced_layers, self._planning):
            if watching is not None:
                watching.remove()
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
    def link(self) -> Link | None:
        """The slowest site's link as last seen; None where it was not measured."""
        return self._planning.link

    @property
    def profile(self) -> Profile | None:
        """What the plan was made from; None where nothing was measured."""
        return self._planning.profile

    @property
    def wan_bytes(self) -> int:
        """Payload bytes this rank has sent to other sites, for this model."""
        return self._transport.bytes_sent - self._sent_before

    def metrics(self) -> dict[str, float]:
        """Scalars for the run's tracker."""
        values = {"geo/exposed_s": self.exposed_s, "geo/wan_bytes": float(self.wan_bytes)}
        if self.plan is not None:
            values |= {"geo/period": self.plan.period, "geo/codec_bits": 8 * bytes_per_value(self.plan.averaging)}
            since, exposed = self._planned_since
            elapsed = perf_counter() - since
            values["geo/efficiency"] = 1 - (self.exposed_s - exposed) / elapsed if elapsed > 0 else 1.0
        return values | self._planning.metrics()

    def summary(self) -> dict[str, object]:
        """What was done so far, ready for JSON: plan, bytes, seconds, link."""
        return {
            "plan": json.loads(self.plan.to_json()) if self.plan else None,
            "plans": list(self._plans),
            "steps": self.step_count,
            "wan_bytes": self.wan_bytes,
            "exposed_s": self.exposed_s,
            "flush_s": self.flush_s,
            **self._planning.summary(),
            "sites": [site.name for site in self.topology.sites],
        }

    def _adopt(self, plan: Plan) -> None:
        """Begins `plan`, here or in mode "backward" in the step that begins here."""
        assert not self._in_flight
        if plan.mode == "backward":  # which a plan file may say as well
            require_backward_fits(self._optimizer, self.config, self.topology)
        if self.plan is not None and plan.outer.momentum < self.plan.outer.momentum:
            self._rounds.outer.forget()  # a damped step does not carry on what made it necessary
        self.plan = plan
        self.adopted = self.step_count + (plan.mode == "backward")
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
        self._ready.clear()
        self._started = 0
        if plan.mode == "backward":
            self._hooks = BackwardHooks(
                self.units,
                self._optimizer,
                is_last_micro_batch=self._is_last_micro_batch,
                on_ready=self._unit_ready,
                before_update=self._before_update,
                in_backward=self.config.sync.optimizer_in_backward,
            )
        self._planning.adopted(plan)
        self._rounds.follow(plan, len(self._plans) + 1)
        self._planned_since = (perf_counter(), self.exposed_s)
        self._plans.append(
            {"step": self.adopted, **{key: getattr(plan, key) for key in ("period", "delay", "codec", "reason")}}
        )
        logger.info("plan from step %d: %s", self.adopted, plan.reason)
        for listener in self.on_plan:
            listener(plan)

    def _check(self) -> None:
        """Raises what broke, at the first boundary after it broke."""
        if self._broken is not None:
            raise self._broken
        for future in [self._planning.probe, self._beat, *(running.future for running in self._in_flight)]:
            if future is not None and future.done():
                with self._losing_sites():
                    future.result()

    @contextmanager
    def _losing_sites(self) -> Iterator[None]:
        """Remembers a SiteLostError, so that every later call raises it again instead of waiting for the lost."""
        try:
            yield
        except SiteLostError as error:
            self._broken = error
            self._rounds.close()
            raise
