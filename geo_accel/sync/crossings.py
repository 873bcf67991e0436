# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The watch over what else crosses between sites in training steps, besides the rounds.

A model, a trainer or a script may talk to all ranks in every step, as it does inside one machine. Nothing forbids
that, but the sites then wait for each other at the WAN's pace: it is named once, its waits are not taken for
computing, and the efficiency that is reported counts them.
"""

import logging
from dataclasses import dataclass

from torch.distributed import ProcessGroup

from geo_accel.profile.link import Link
from geo_accel.sync import collectives_seam as seam
from geo_accel.topology import Topology
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.gloo import OUR_GROUPS

logger = logging.getLogger("geo_accel")

# What is seen is told after so many steps, when it can be said how often it happens.
REPORT_STEPS = 10
UNSEEN = "collectives started in C++ (a model in DDP that has no GeoSync, or a compiled graph)"
BROKEN = ("closed by peer", "timed out", "timeout", "connection", "read error", "broken pipe", "remote", "reset")
"""Of the words in which backends say that a peer is missing."""

_told: set[str] = set()


@dataclass(slots=True)
class _Seen:
    count: int = 0
    seconds: float = 0.0


class Crossings:
    """One engine's view of the process's collectives on groups that span sites."""

    def __init__(self, topology: Topology, *, one_world: bool = True) -> None:
        """Where sites do not share a world (`one_world`), no group spans any."""
        self._topology, self._one_world = topology, one_world
        self._link: Link | None = None
        self._waited_s = 0.0
        self._spans: dict[str, bool] = {}
        self._marks: dict[ProcessGroup, int] | None = None
        self._issued = 0
        self._waited_before = 0.0
        self._now: dict[str, _Seen] = {}
        self._seen: dict[str, _Seen] = {}
        """In this step, which may yet turn out to be none, and in those before it."""
        self._steps = 0
        seam.listen(self)

    def waited(self) -> float:
        """Seconds so far in which this process has stood still in such collectives, in steps or not."""
        return self._waited_s

    def start_step(self) -> None:
        """A training step begins."""
        self._marks = {group: seam.issued(group) for group in seam.groups() if self.minds(group)}
        self._issued, self._waited_before = 0, self._waited_s
        self._now.clear()

    def drop_step(self) -> None:
        """This is no training step, from its beginning: evaluating and saving may gather as they like."""
        self._marks = None
        self._now.clear()

    def end_step(self, link: Link | None) -> float:
        """Seconds of the step that went into collectives over other sites; tells what they were, once.

        Those that C++ started cannot be timed: the latency of two exchanges over `link`, an all-reduce's, is counted
        for each, where it was measured.
        """
        self._link = link or self._link
        if self._marks is None:
            return 0.0
        waited = self._waited_s - self._waited_before
        unseen = sum(seam.issued(group) - mark for group, mark in self._marks.items()) - self._issued
        self._marks = None
        if unseen > 0:
            seconds = 2 * unseen * (self._link.latency_s if self._link is not None else 0.0)
            waited += seconds
            self._note(UNSEEN, unseen, seconds)
        for call, now in self._now.items():
            seen = self._seen.setdefault(call, _Seen())
            seen.count += now.count
            seen.seconds += now.seconds
        self._now.clear()
        self._steps += bool(self._seen)
        if self._steps == REPORT_STEPS:
            self._tell()
        return waited

    def remove(self) -> None:
        """Ends the watch; what it has not told yet is told now."""
        self._tell()
        seam.stop_listening(self)

    def minds(self, group: ProcessGroup) -> bool:
        name = group.group_name
        if name not in self._spans:
            ours = group.group_desc == OUR_GROUPS
            self._spans[name] = self._one_world and not ours and self._topology.crosses(seam.ranks_of(group))
        return self._spans[name]

    def called(self, group: ProcessGroup, call: str, issued: int) -> None:
        if self._marks is not None:
            self._issued += issued
            self._note(call, 1, 0.0)

    def blocked(self, group: ProcessGroup, call: str, seconds: float) -> None:
        self._waited_s += seconds
        if self._marks is not None:
            self._note(call, 0, seconds)

    def failed(self, group: ProcessGroup, call: str, error: RuntimeError) -> RuntimeError:
        """A peer that is missing is a lost site here too, and what this site has is saved as ever."""
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        if isinstance(error, SiteLostError) or not any(word in cause.lower() for word in BROKEN):
            return error
        others = [self._topology.site_of(rank) for rank in seam.ranks_of(group)]
        names = " or ".join(dict.fromkeys(site.name for site in others if site != self._topology.site))
        return SiteLostError(f"site {names} is gone or silent: {call}, over all sites, broke off ({cause}).")

    def _note(self, call: str, count: int, seconds: float) -> None:
        if call not in _told:
            seen = self._now.setdefault(call, _Seen())
            seen.count += count
            seen.seconds += seconds

    def _tell(self) -> None:
        if self._seen and self._topology.rank == 0:
            steps, link = self._steps, self._link
            at = f" at a latency of {link.latency_s * 1e3:.3g} ms" if link is not None else ""
            logger.warning(
                "geo_accel: besides the rounds, training steps wait for other sites in %s: %.3g s per step%s, which "
                "geo/efficiency counts. Start a job per site (GEO_ACCEL_MEET), where nothing of it can cross; or keep "
                "it inside the site, or do it less often.",
                "; ".join(f"{call}, {seen.count / steps:.3g} per step" for call, seen in self._seen.items()),
                sum(seen.seconds for seen in self._seen.values()) / steps,
                at,
            )
        _told.update(self._seen)
        self._seen.clear()
        self._steps = 0
