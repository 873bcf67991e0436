# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where an engine's plans come from: the config, a file, or measurement; and when a running one is replaced.

Plans are made on rank 0 and told to all as JSON, so that no rank can have another.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import nn

from geo_accel.config import GeoConfig
from geo_accel.config.names import AUTO, Schedule
from geo_accel.config.parts import Outer
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.members import Members
from geo_accel.plan.penalty import penalties
from geo_accel.plan.plan import Plan, read_plan
from geo_accel.plan.request import Request
from geo_accel.plan.review import Sounding, sounding
from geo_accel.plan.slowing import Step, Steps
from geo_accel.profile.layers import LayerTimer
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile
from geo_accel.rounds.rounds import Rounds
from geo_accel.sync.contention import Contention, measure_contention
from geo_accel.sync.crossings import Crossings
from geo_accel.sync.losses import LossWatch
from geo_accel.sync.measure import Rehearsal, as_message, assemble, from_message, measure_handling
from geo_accel.sync.probing import Probing
from geo_accel.sync.remembering import Known, keep, recall
from geo_accel.sync.reviewing import Reviewer, steps_of_review
from geo_accel.transport.base import Transport
from geo_accel.transport.store import ControlPlane
from geo_accel.units import Unit

logger = logging.getLogger("geo_accel")

# So long sites go on without each other for a probe that takes longer than the steps that are measured.
_MOST_BOUNDARIES = 32
# A running plan is reviewed after so many steps, at the end of a period.
REVIEW_STEPS = 20


@dataclass(frozen=True, slots=True)
class _Measuring:
    """What watches the steps while there is no plan."""

    probing: Probing
    layers: LayerTimer
    rehearsal: Rehearsal


class Planning:
    """One engine's plans. All methods are collective where not said otherwise."""

    def __init__(
        self,
        config: GeoConfig,
        control: ControlPlane,
        background_control: ControlPlane,
        transport: Transport,
        rounds: Rounds,
        model: nn.Module,
        units: list[Unit],
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        """`background_control` is for the thread of reviews alone: two threads cannot share one."""
        self._members = Members.of(transport.topology)
        self.reviewer = Reviewer(
            background_control,
            transport.topology,
            Request.of(config),
            follow_link=config.link.bandwidth_mbps == AUTO,
            shares_processors=rounds.masters.device.type == "cpu",
        )
        self.profile: Profile | None = None
        """What the current plan was made from; None where nothing was measured."""
        self.held_up_s = 0.0
        """Seconds that measuring and planning took from training before there was a plan."""
        self.start_to_plan_s: float | None = None
        """Seconds from the first boundary to the plan, the steps between included; None before."""
        self._began = 0.0
        """When the first boundary came."""
        self._config = config
        self._control = control
        self._transport = transport
        self._rounds = rounds
        self._crossings = Crossings(transport.topology, one_world=transport.one_world)
        self._measuring: _Measuring | None = None
        self._watch: Callable[[], LayerTimer] = lambda: LayerTimer(
            model, units, optimizer, away_s=self._crossings.waited
        )
        self._probing: Probing | None = None
        self._contention: Contention | None = None
        self._boundaries = 0
        """Passed while there was no plan yet."""
        self._rough_step = False
        """Whether the profile's step was measured beside a probe, and no review has looked at it since."""
        self._review: Future | None = None
        self._count = self._due = self._sound_at = 0
        """Steps since the plan was adopted, when the review's outcome is taken, and when the link is sounded next."""
        self._sounding: Sounding | None = None
        self._steps: deque[Step] = deque(maxlen=4 * REVIEW_STEPS)
        self._watch_losses: Callable[[], LossWatch] = lambda: LossWatch(model)
        self._losses: LossWatch | None = None

    @property
    def request(self) -> Request:
        """What plans are asked for."""
        return self.reviewer.request

    @property
    def link(self) -> Link | None:
        """The slowest link as last seen; None where it was not measured."""
        if self.profile is not None:
            return self.profile.link
        links = self._probing.links if self._probing is not None else None
        return Link.slowest([link for _, link in links]) if links else None

    def begin(self, boundary: int) -> Plan | None:
        """At the first boundary: the plan, or None where steps have to be measured first, which begins now.

        Raises ValueError, on every rank alike, for a plan file that is none or is for another model.
        """
        self._began = perf_counter()
        plan = self._begin(boundary)
        self._has_planned(plan, self._began)
        return plan

    def _begin(self, boundary: int) -> Plan | None:
        if self.request.schedule == Schedule.MANUAL:
            return self._broadcast(self._read)
        if not self.request.needs_measurement:
            return self._broadcast(self._choose)
        known = recall(self._transport, self._key, self._control)
        if known is not None:
            self.restore(known.plan, known.profile)
            return known.plan
        topology = self._transport.topology
        self._probing = Probing(self._rounds, topology, self._config.link)
        self._measuring = _Measuring(
            self._probing, self._watch(), Rehearsal(self._rounds.masters, topology, self.request.codecs)
        )
        self._contention_beside(self._probing, boundary)
        return None

    def _contention_beside(self, probing: Probing, boundary: int) -> Contention | None:
        """What using the links takes from computing, once they are known, on all ranks alike; else None."""
        self._boundaries += 1
        if not probing.is_over(boundary) and self._boundaries < _MOST_BOUNDARIES:
            return None
        links = probing.finish()
        if self._contention is None:
            self._contention = self._measure_contention(Link.slowest([link for _, link in links]))
        return self._contention

    def _measure_contention(self, link: Link) -> Contention:
        rounds = self._rounds
        if rounds.masters.device.type != "cpu":
            return Contention()  # where an accelerator computes, nothing is lost
        return measure_contention(rounds.transfers, rounds.in_background, link, len(self._members) - 1)

    @property
    def probe(self) -> Future | None:
        """Not collective: of what is measured in the background, None where nothing is."""
        return self._probing.future if self._probing is not None else None

    def finish_probing(self) -> None:
        """At the same boundary everywhere: what is measured in the background comes to its end."""
        if self._probing is not None:
            self._probing.finish()

    @property
    def _key(self) -> Hashable:
        """Of what a plan is made for."""
        masters = self._rounds.masters
        return (self._config.fingerprint(), tuple(masters.carried), str(masters.device))

    def _has_planned(self, plan: Plan | None, since: float) -> None:
        now = perf_counter()
        self.held_up_s += now - since
        if plan is not None:
            self.start_to_plan_s = now - self._began

    def start_step(self) -> None:
        """Not collective: a boundary has ended."""
        self._crossings.start_step()
        if self._measuring is not None:
            self._measuring.layers.start_step()

    def drop_step(self) -> None:
        """Not collective: what has begun is no training step."""
        self._crossings.drop_step()
        if self._measuring is not None:
            self._measuring.layers.drop_step()

    def crossed(self) -> float:
        """Not collective: seconds of the step that ends here in which training waited for others than the rounds."""
        return self._crossings.end_step(self.link)

    def measured(self, boundary: int) -> Plan | None:
        """At a boundary while there is no plan: the plan, once enough steps were seen and the links are known."""
        start = perf_counter()
        measuring = self._measuring
        assert measuring is not None  # `begin` made no plan
        measuring.layers.end_step()
        if not measuring.layers.done:
            measuring.rehearsal.once()
        plan = None
        contention = self._contention_beside(measuring.probing, boundary)
        if contention is not None and measuring.layers.done:
            plan = self._plan_what_was_measured(measuring, contention)
        self._has_planned(plan, start)
        return plan

    def _plan_what_was_measured(self, measuring: _Measuring, contention: Contention) -> Plan:
        self._stop_measuring()
        masters = self._rounds.masters
        computing = measuring.layers.result(dict(masters.carried))
        mine = as_message(computing, measure_handling(measuring.rehearsal, contention))
        links = measuring.probing.finish()
        self._rough_step = measuring.probing.beside_training

        def make(ranks: list[dict]) -> dict:
            self.profile = assemble([from_message(rank) for rank in ranks], links, masters.device)
            return {"profile": self.profile.to_json(), "plan": self._choose().to_json()}

        told = self._control.consult("planning", mine, make)
        self.profile = Profile.from_json(told["profile"])
        self._transport.take_swaps()
        return Plan.from_json(told["plan"])

    def adopted(self, plan: Plan) -> None:
        """Not collective: `plan` begins; what was seen before says nothing about it."""
        assert plan.sites == self._members.names, f"a plan for {plan.sites}"
        if self.profile is not None and plan.schedule != Schedule.MANUAL:
            keep(self._transport, self._key, Known(plan=plan, profile=self.profile))
        self._review = None
        self._steps.clear()
        self._count = self._sound_at = 0
        self._sounding = None
        if self.profile is not None and plan.schedule != Schedule.MANUAL and self._config.link.bandwidth_mbps == AUTO:
            self._sounding = sounding(plan, self.profile, self._members)
        if plan.outer != Outer() and self._losses is None:
            self._losses = self._watch_losses()

    def restore(self, plan: Plan, profile: Profile | None) -> None:
        """A run goes on with `plan`, which was made from `profile`."""
        self.finish_probing()
        self._stop_measuring()
        self.profile = profile
        if self.request.outer == AUTO and plan.outer != penalties().best_outer(plan.period, len(self._members)):
            self.reviewer.request = replace(self.request, outer=plan.outer)  # it had been damped

    def remove(self) -> None:
        """Not collective: takes all hooks away."""
        self._crossings.remove()
        self._stop_measuring()
        if self._losses is not None:
            self._losses.remove()
            self._losses = None

    def _stop_measuring(self) -> None:
        if self._measuring is not None:
            self._measuring.layers.remove()
            self._measuring = None

    def saw_step(self, step: Step) -> None:
        """Not collective: a step has ended under a plan."""
        self._steps.append(step)
        self._count += 1

    def _reviews(self, plan: Plan) -> bool:
        """Whether there is anything to compare with: a measured link, or a loss that the outer step may raise."""
        return plan.outer != Outer() or (self.profile is not None and self.profile.link is not None)

    def next_plan(self, plan: Plan) -> Plan | None:
        """At the end of a period: asks for a review in the background, or takes the outcome of the last one.

        Both happen at boundaries that the step counter alone decides: the outcome is taken so much later that it is
        there, and is waited for where it is not.
        """
        if self._review is not None:
            if self._count < self._due:
                return None
            outcome, self._review = self._review.result(), None
            self.profile = outcome.profile or self.profile
            if outcome.warning:
                logger.warning(outcome.warning)
            return outcome.plan
        if len(self._steps) >= REVIEW_STEPS and self._reviews(plan):
            steps = Steps.of(self._steps)
            self._steps.clear()
            loss = self._losses.take() if self._losses is not None else (0, 0.0, 0.0)
            due: Sounding | None = None
            if self._sounding is not None and self._count >= self._sound_at:
                self._sound_at = self._count + self._sounding.every_steps
                due = self._sounding
            # After the rounds that were started before it: of the same ones on every rank.
            swaps = self._rounds.in_background(self._take_swaps, due)
            self._review = self.reviewer.begin(
                plan, self.profile, swaps.result, steps, loss, rough_step=self._rough_step
            )
            self._rough_step = False
            self._due = self._count + steps_of_review(self.profile)
        return None

    def _take_swaps(self, sounding: Sounding | None) -> list[tuple[int, float]]:
        """On the background thread: what was seen of transfers, with those that are made for it."""
        if sounding is not None:
            self._rounds.transfers.sound(sounding.nbytes, sounding.times)
        return self._transport.take_swaps()

    def _choose(self) -> Plan:
        return choose_plan(self.request, self._rounds.masters.carried, self._members, self.profile)

    def _read(self) -> Plan:
        plan = read_plan(self._config.sync.plan)
        plan.require_units(self._rounds.masters.carried)
        return plan.for_members(self._members)

    def _broadcast(self, make: Callable[[], Plan]) -> Plan:
        return Plan.from_json(self._control.broadcast("planning", lambda: make().to_json()))

    def metrics(self) -> dict[str, float]:
        """Not collective: scalars for the run's tracker."""
        values = {}
        if self.link is not None:
            values |= {
                "geo/link_mbps": self.link.megabits_per_second,
                "geo/link_latency_ms": self.link.latency_s * 1e3,
            }
        if self.profile is not None:
            values |= {f"geo/link_mbps/{site}": link.megabits_per_second for site, link in self.profile.links}
        if self.start_to_plan_s is not None:
            values |= {"geo/start_to_plan_s": self.start_to_plan_s, "geo/measuring_s": self.held_up_s}
        return values

    def summary(self) -> dict[str, object]:
        """Not collective: what was measured, ready for JSON."""
        link, profile = self.link, self.profile
        return {
            "step_s": profile.compute_s if profile else None,
            "link_mbps": link.megabits_per_second if link else None,
            "link_latency_ms": link.latency_s * 1e3 if link else None,
            "profile": json.loads(profile.to_json()) if profile else None,
            "start_to_plan_s": self.start_to_plan_s,
            "measuring_s": self.held_up_s,
        }
