# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Where an engine's plans come from: the config, a file, or measurement; and when a running one is replaced.

Plans are made on rank 0 and told to all as JSON, so that no rank can have another.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from statistics import median

import torch
from torch import nn

from geo_accel.config import GeoConfig, OuterConfig
from geo_accel.plan.averaging import Outer
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.damping import Loss, damped, has_risen, pooled
from geo_accel.plan.penalty import penalties
from geo_accel.plan.plan import Plan, read_plan
from geo_accel.plan.request import Request
from geo_accel.plan.review import Seen, review
from geo_accel.profile.layers import LayerTimer
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile
from geo_accel.sync.crossings import Crossings
from geo_accel.sync.losses import LossWatch
from geo_accel.sync.measure import Rehearsal, assemble, measure_handling, measure_links
from geo_accel.sync.rounds import Rounds
from geo_accel.transport.gloo import GlooTransport
from geo_accel.transport.store import ControlPlane
from geo_accel.units import Unit

logger = logging.getLogger("geo_accel")

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
            ratio=config.compression.ratio,
            exchange=sync.exchange,
            residual=config.compression.residual,
            overlap=_overlap(config.compression.overlap_weighting),
            coefficients=config.compression.coefficients,
            outer=_outer(sync.outer),
            ranks=tuple(len(site.ranks) for site in transport.topology.sites),
        )
        self.profile: Profile | None = None
        """What the current plan was made from; None where nothing was measured."""
        self._config = config
        self._control = control
        self._background_control = background_control
        self._transport = transport
        self._rounds = rounds
        self._sites = transport.topology.sites
        self._crossings = Crossings(transport.topology)
        self._layers: LayerTimer | None = None
        self._rehearsal: Rehearsal | None = None
        self._watch: Callable[[], LayerTimer] = lambda: LayerTimer(
            model, units, optimizer, away_s=self._crossings.waited
        )
        self._links: tuple[tuple[str, Link], ...] = ()
        self._review: Future | None = None
        self._steps: deque[float] = deque(maxlen=4 * REVIEW_STEPS)
        self._watch_losses: Callable[[], LossWatch] = lambda: LossWatch(model)
        self._losses: LossWatch | None = None
        self._least_loss: Loss | None = None

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
        self._rehearsal = Rehearsal(self._rounds, self._transport.topology, self.request.codecs)
        return None

    def start_step(self) -> None:
        """Not collective: a boundary has ended."""
        self._crossings.start_step()
        if self._layers is not None:
            self._layers.start_step()

    def drop_step(self) -> None:
        """Not collective: what has begun is no training step."""
        self._crossings.drop_step()
        if self._layers is not None:
            self._layers.drop_step()

    def crossed(self) -> float:
        """Not collective: seconds of the step that ends here in which training waited for others than the rounds."""
        return self._crossings.end_step(self.link)

    def measured(self) -> Plan | None:
        """At a boundary while there is no plan: the plan, once enough steps were seen."""
        layers, rehearsal = self._layers, self._rehearsal
        layers.end_step()
        rehearsal.once()
        if not layers.done:
            return None
        self._stop_measuring()
        masters = self._rounds.masters
        computing = layers.result(dict(masters.carried))
        handling = measure_handling(self._control, self._rounds, self._transport.topology, rehearsal, self.link)
        self.profile = assemble(self._control, computing, self._links, handling, masters.device)
        self._transport.take_swaps()
        return self._broadcast(self._choose)

    def adopted(self, plan: Plan) -> None:
        """Not collective: `plan` begins; what was seen before says nothing about it."""
        self._review = None
        self._steps.clear()
        if plan.outer != Outer() and self._losses is None:
            self._losses = self._watch_losses()

    def restore(self, plan: Plan, profile: Profile | None) -> None:
        """Not collective: a run goes on with `plan`, which was made from `profile`."""
        self._stop_measuring()
        self.profile = profile
        if self.request.outer == "auto" and plan.outer != penalties().best_outer(plan.period, len(self._sites)):
            self.request = replace(self.request, outer=plan.outer)  # it had been damped

    def remove(self) -> None:
        """Not collective: takes all hooks away."""
        self._crossings.remove()
        self._stop_measuring()
        if self._losses is not None:
            self._losses.remove()
            self._losses = None

    def _stop_measuring(self) -> None:
        if self._layers is not None:
            self._layers.remove()
            self._layers = self._rehearsal = None

    def saw_step(self, seconds: float) -> None:
        """Not collective: a step took so long, waiting for the WAN not counted."""
        self._steps.append(seconds)

    def _reviews(self, plan: Plan) -> bool:
        """Whether there is anything to compare with: a measured link, or a loss that the outer step may raise."""
        return plan.outer != Outer() or (self.profile is not None and self.profile.link is not None)

    def next_plan(self, plan: Plan) -> Plan | None:
        """At the end of a period: asks for a review in the background, or takes the outcome of the last one.

        Both happen at boundaries that the step counter alone decides. The review runs on the background thread,
        after the rounds that were started before it, so training waits for it only where it waits for those.
        """
        if self._review is not None:
            outcome, self._review = self._review.result(), None
            if outcome["profile"]:
                self.profile = Profile.from_json(outcome["profile"])
            if outcome["warning"]:
                logger.warning(outcome["warning"])
            return Plan.from_json(outcome["plan"]) if outcome["plan"] else None
        if len(self._steps) >= REVIEW_STEPS and self._reviews(plan):
            step_s = median(self._steps)
            self._steps.clear()
            loss = self._losses.take() if self._losses is not None else (0, 0.0, 0.0)
            self._review = self._rounds.in_background(lambda: self._hold_review(plan, step_s, loss))
        return None

    def _hold_review(self, plan: Plan, step_s: float, loss: tuple[int, float, float]) -> dict:
        control = self._background_control
        mine = {"swaps": self._transport.take_swaps(), "step_s": step_s, "loss": loss}
        answers = control.gather("reviewing the plan", mine)

        def outcome() -> dict:
            better, profile = self._review_course(plan, answers)
            better, warning = self._review_outer(plan, better, pooled([answer["loss"] for answer in answers]))
            news = profile.to_json() if profile is not None and profile != self.profile else None
            return {"plan": better.to_json() if better else None, "profile": news, "warning": warning}

        return control.broadcast("reviewing the plan", outcome)

    def _review_course(self, plan: Plan, answers: list[dict]) -> tuple[Plan | None, Profile | None]:
        """Rank 0: what links and steps ask for."""
        if self.profile is None or self.profile.link is None or plan.schedule == "manual":
            return None, self.profile
        seen = [
            Seen(
                swaps=tuple((size, taken) for size, taken in answer["swaps"]),
                step_s=answer["step_s"],
                slowness=self._slowness(rank),
            )
            for rank, answer in enumerate(answers)
        ]
        follow = self._config.link.bandwidth_mbps == "auto"
        return review(plan, self.request, self.profile, len(self._sites), seen, follow_link=follow)

    def _review_outer(self, plan: Plan, better: Plan | None, loss: Loss | None) -> tuple[Plan | None, str | None]:
        """Rank 0: what the loss says of the outer step. One that we chose is damped; yours is warned about."""
        before = self._least_loss
        if loss is None or before is None or not has_risen(before, loss):
            self._least_loss = min(filter(None, (before, loss)), key=lambda one: one.mean, default=None)
            return better, None
        self._least_loss = None
        what = f"the loss rose from {before.mean:.4g} to {loss.mean:.4g} under the outer step {plan.outer}"
        if self._config.sync.outer != "auto" or plan.schedule == "manual":
            return better, f'{what}; try a smaller momentum, or sync.outer "mean".'
        smaller = damped(plan.outer)
        self.request = replace(self.request, outer=smaller)
        better = better or plan
        return replace(better, outer=smaller, reason=f"{what}, now {smaller}: {better.reason}"), None

    def _slowness(self, rank: int) -> float:
        """Of the rank's uplink, beside the slowest link."""
        site = self._transport.topology.site_of(rank).name
        return dict(self.profile.links)[site].seconds_per_byte / self.profile.link.seconds_per_byte

    def _choose(self) -> Plan:
        return choose_plan(self.request, self._rounds.masters.carried, len(self._sites), self.profile)

    def _read(self) -> Plan:
        plan = read_plan(self._config.sync.plan)
        plan.require_units(self._rounds.masters.carried)
        plan.averaging.require_sites(len(self._sites))
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


def _outer(config: OuterConfig | str) -> Outer | str:
    return Outer(lr=config.lr, momentum=config.momentum) if isinstance(config, OuterConfig) else config


def _overlap(setting: bool | dict | str) -> tuple[int, float] | bool | str:
    return (setting["threshold"], setting["gain"]) if isinstance(setting, dict) else setting
