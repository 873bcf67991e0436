# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Does a running plan still fit? Asked of all ranks by a thread of its own, so that training and rounds go on."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace

from geo_accel.config.names import Schedule
from geo_accel.plan.damping import Loss, damped, has_risen, pooled
from geo_accel.plan.members import Members
from geo_accel.plan.plan import Plan
from geo_accel.plan.request import Request
from geo_accel.plan.review import Seen, review
from geo_accel.plan.slowing import Slowing, Steps
from geo_accel.profile.profile import Profile
from geo_accel.topology import Topology
from geo_accel.transport.store import ControlPlane

# A review takes two round trips, and rank 0 a moment for a new plan.
_LATENCIES, _MOMENT_S = 4, 0.1


def steps_of_review(profile: Profile | None) -> int:
    """How many steps after it was asked for a review's outcome is taken, the same on every rank."""
    if profile is None or profile.link is None:
        return 1
    return math.ceil((_LATENCIES * profile.link.latency_s + _MOMENT_S) / profile.compute_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of a review, the same on every rank."""

    plan: Plan | None
    """A better one."""
    profile: Profile | None
    """Where it has changed."""
    warning: str | None


class Reviewer:
    """Holds reviews, one at a time. What rank 0 remembers between them is on rank 0 only."""

    def __init__(
        self,
        control: ControlPlane,
        topology: Topology,
        request: Request,
        *,
        follow_link: bool,
        shares_processors: bool,
    ) -> None:
        """`control` is for this reviewer's thread alone: two threads cannot share one. With `follow_link` False the
        link is what the user stated; with `shares_processors` rounds take from computing."""
        self.request = request
        """What is asked for, as it is now: an outer step of ours that has raised the loss is damped."""
        self._damps = request.outer == "auto"
        self._control, self._topology, self._follow_link = control, topology, follow_link
        self._slowing = Slowing() if shares_processors else None
        self._least_loss: Loss | None = None
        self._thread: threading.Thread | None = None

    def begin(
        self,
        plan: Plan,
        profile: Profile | None,
        swaps: Callable[[], list[tuple[int, float]]],
        steps: Steps,
        loss: tuple[int, float, float],
        *,
        rough_step: bool,
    ) -> Future:
        """Collective: asks all ranks what they have seen; the future is of an Outcome.

        `swaps()` waits for what this rank has seen of its transfers; with `rough_step` the profile's step was measured
        beside a probe. The thread is a daemon: a process that ends because a site was lost does not wait for that
        site's answer.
        """
        future: Future = Future()
        before = self._thread

        def hold() -> None:
            try:
                if before is not None:
                    before.join()  # of a plan that was given up, with whose messages ours must not be mixed
                mine = {"swaps": swaps(), "steps": asdict(steps), "loss": loss}
                told = self._control.consult(
                    "reviewing the plan", mine, lambda answers: self._decide(plan, profile, answers, rough_step)
                )
                future.set_result(
                    Outcome(
                        plan=Plan.from_json(told["plan"]) if told["plan"] else None,
                        profile=Profile.from_json(told["profile"]) if told["profile"] else None,
                        warning=told["warning"],
                    )
                )
            except BaseException as error:
                future.set_exception(error)

        self._thread = threading.Thread(target=hold, name="geo_accel review", daemon=True)
        self._thread.start()
        return future

    def _decide(self, plan: Plan, before: Profile | None, answers: list[dict], rough_step: bool) -> dict:
        """Rank 0."""
        better, profile = self._review_course(plan, before, answers, rough_step)
        better, warning = self._review_outer(plan, better, pooled([answer["loss"] for answer in answers]))
        news = profile.to_json() if profile is not None and profile != before else None
        return {"plan": better.to_json() if better else None, "profile": news, "warning": warning}

    def _review_course(
        self, plan: Plan, profile: Profile | None, answers: list[dict], rough_step: bool
    ) -> tuple[Plan | None, Profile | None]:
        """What links and steps ask for."""
        if profile is None or profile.link is None or plan.schedule == Schedule.MANUAL:
            return None, profile
        slowness = {site: link.seconds_per_byte / profile.link.seconds_per_byte for site, link in profile.links}
        seen = [
            Seen(
                swaps=tuple((size, taken) for size, taken in answer["swaps"]),
                steps=Steps(**answer["steps"]),
                slowness=slowness[self._topology.site_of(rank).name],
            )
            for rank, answer in enumerate(answers)
        ]
        slowing = self._slowing
        return review(
            plan,
            self.request,
            profile,
            Members.of(self._topology),
            seen,
            follow_link=self._follow_link,
            rough_step=rough_step,
            handling=None if slowing is None else slowing.handling(plan, profile, [one.steps for one in seen]),
        )

    def _review_outer(self, plan: Plan, better: Plan | None, loss: Loss | None) -> tuple[Plan | None, str | None]:
        """What the loss says of the outer step. One that we chose is damped; yours is warned about."""
        before = self._least_loss
        if loss is None or before is None or not has_risen(before, loss):
            self._least_loss = min(filter(None, (before, loss)), key=lambda one: one.mean, default=None)
            return better, None
        self._least_loss = None
        what = f"the loss rose from {before.mean:.4g} to {loss.mean:.4g} under the outer step {plan.outer}"
        if not self._damps or plan.schedule == Schedule.MANUAL:
            return better, f'{what}; try a smaller momentum, or sync.outer "mean".'
        smaller = damped(plan.outer)
        self.request = replace(self.request, outer=smaller)
        better = better or plan
        return replace(better, outer=smaller, reason=f"{what}, now {smaller}: {better.reason}"), None
