# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where an engine's plans come from: the config, a file, or measurement; and when a running one is replaced.

Plans are made on rank 0 and told to all as JSON, so that no rank can have another.
"""

import json
from collections.abc import Callable
from concurrent.futures import Future
from statistics import median

import torch
from torch import nn

from geo_accel.config import GeoConfig
from geo_accel.plan.choose import Request, choose_plan
from geo_accel.plan.cost import exchange_for
from geo_accel.plan.plan import Plan, read_plan
from geo_accel.plan.review import Seen, review
from geo_accel.profile.layers import LayerTimer
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile
from geo_accel.sync.measure import assemble, measure_handling, measure_links
from geo_accel.sync.rounds import Rounds
from geo_accel.transport.gloo import GlooTransport
from geo_accel.transport.store import ControlPlane
from geo_accel.units import Unit

# A running plan is reviewed after so many steps, at the end of a period.
REVIEW_STEPS = 20


class Planning:
    """One engine's plans. All methods are collective where not said otherwise."""

    def __init__(
        self,
        config: GeoConfig,
        control: ControlPlane,
        background_control: ControlPlane,
        transport: GlooTransport,
        rounds: Rounds,
        model: nn.Module,
        units: list[Unit],
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        """`background_control` is for the background thread alone: two threads cannot share one's counter."""
        sync = config.sync
        self.request = Request(
            mode=sync.mode,
            period=sync.period,
            schedule=sync.schedule,
            delay=sync.delay,
            codec=config.compression.codec,
        )
        self.profile: Profile | None = None
        """What the current plan was made from; None where nothing was measured."""
        self._config = config
        self._control = control
        self._background_control = background_control
        self._transport = transport
        self._rounds = rounds
        self._sites = transport.topology.sites
        self._layers: LayerTimer | None = None
        self._watch: Callable[[], LayerTimer] = lambda: LayerTimer(model, units, optimizer)
        self._links: tuple[tuple[str, Link], ...] = ()
        self._review: Future | None = None
        self._steps: list[float] = []

    @property
    def link(self) -> Link | None:
        """The slowest link as last seen; None where it was not measured."""
        if self.profile is not None:
            return self.profile.link
        return Link.slowest([link for _, link in self._links]) if self._links else None

    def begin(self) -> Plan | None:
        """At the first boundary: the plan, or None where steps have to be measured first, which begins now.

        Raises ValueError, on every rank alike, for a plan file that is none or is for another model.
        """
        if self.request.schedule == "manual":
            return self._broadcast(self._read)
        if not self.request.needs_measurement:
            return self._broadcast(self._choose)
        self._links = measure_links(self._control, self._rounds, self._transport.topology, self._config.link)
        self._transport.take_swaps()
        self._layers = self._watch()
        return None

    def start_step(self) -> None:
        """Not collective: a boundary has ended."""
        if self._layers is not None:
            self._layers.start_step()

    def drop_step(self) -> None:
        """Not collective: what has begun is no training step."""
        if self._layers is not None:
            self._layers.drop_step()

    def measured(self) -> Plan | None:
        """At a boundary while there is no plan: the plan, once enough steps were seen."""
        layers = self._layers
        layers.end_step()
        if not layers.done:
            return None
        layers.remove()
        self._layers = None
        masters, exchange = self._rounds.masters, exchange_for(len(self._sites))
        computing = layers.result(dict(masters.carried))
        handling = measure_handling(self._control, self._rounds, self._transport.topology, exchange)
        self.profile = assemble(self._control, computing, self._links, handling, masters.device)
        self._transport.take_swaps()
        return self._broadcast(self._choose)

    def adopted(self) -> None:
        """Not collective: a plan begins; what was seen before says nothing about it."""
        self._review = None
        self._steps = []

    def restore(self, profile: Profile | None) -> None:
        """Not collective: a run goes on with a plan that was made from `profile`."""
        self.remove()
        self.profile = profile

    def remove(self) -> None:
        """Not collective: takes the hooks away that measure."""
        if self._layers is not None:
            self._layers.remove()
            self._layers = None

    def saw_step(self, seconds: float) -> None:
        """Not collective: a step took so long, waiting for the WAN not counted."""
        if self._reviews:
            self._steps.append(seconds)

    @property
    def _reviews(self) -> bool:
        """Whether there is anything to compare with: plans that nothing was measured for stay."""
        return self.profile is not None and self.profile.link is not None

    def next_plan(self, plan: Plan) -> Plan | None:
        """At the end of a period: asks for a review in the background, or takes the outcome of the last one.

        Both happen at boundaries that the step counter alone decides. The review runs on the background thread,
        after the rounds that were started before it, so training waits for it only where it waits for those.
        """
        if not self._reviews:
            return None
        if self._review is not None:
            outcome, self._review = self._review.result(), None
            if outcome["profile"]:
                self.profile = Profile.from_json(outcome["profile"])
            return Plan.from_json(outcome["plan"]) if outcome["plan"] else None
        if len(self._steps) >= REVIEW_STEPS:
            step_s, self._steps = median(self._steps), []
            self._review = self._rounds.in_background(lambda: self._hold_review(plan, step_s))
        return None

    def _hold_review(self, plan: Plan, step_s: float) -> dict:
        control = self._background_control
        mine = {"swaps": self._transport.take_swaps(), "step_s": step_s}
        answers = control.gather("reviewing the plan", mine)

        def outcome() -> dict:
            seen = [
                Seen(swaps=tuple((size, taken) for size, taken in answer["swaps"]), step_s=answer["step_s"])
                for answer in answers
            ]
            follow = self._config.link.bandwidth_mbps == "auto"
            better, profile = review(plan, self.request, self.profile, len(self._sites), seen, follow_link=follow)
            news = profile.to_json() if profile != self.profile else None
            return {"plan": better.to_json() if better else None, "profile": news}

        return control.broadcast("reviewing the plan", outcome)

    def _choose(self) -> Plan:
        return choose_plan(self.request, self._rounds.masters.carried, len(self._sites), self.profile)

    def _read(self) -> Plan:
        plan = read_plan(self._config.sync.plan)
        plan.require_units(self._rounds.masters.carried)
        return plan

    def _broadcast(self, make: Callable[[], Plan]) -> Plan:
        plan = Plan.from_json(self._control.broadcast("planning", lambda: make().to_json()))
        fingerprints = set(self._control.gather("comparing plans", plan.fingerprint))
        assert len(fingerprints) == 1, "rank 0 planned for all, so plans cannot differ"
        return plan

    def summary(self) -> dict[str, object]:
        """Not collective: what was measured, ready for JSON."""
        link, profile = self.link, self.profile
        return {
            "step_s": profile.compute_s if profile else None,
            "link_mbps": link.megabits_per_second if link else None,
            "link_latency_ms": link.latency_s * 1e3 if link else None,
            "profile": json.loads(profile.to_json()) if profile else None,
        }
