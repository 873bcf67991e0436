# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Lines that change while the sites run: what changes when, and the watch for the lines of output that trigger it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from geo_accel.lab.sites import Site, bandwidth_per_site

LATEST_CHANGE_S = 604_800
"""Changes by time may come up to a week after the start."""

State = float | str
"""A site's line from a change on: whole at so many 10**6 bits per second; "up", whole at the rate that it has; "cut";
or "cut 10s", for so many seconds."""

_CUT = re.compile(r"cut(?: ([0-9]+(?:\.[0-9]+)?)s)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class RateChange:
    """From a moment on, sites send at another rate, or their lines are cut.

    Exactly one of `after_s` and `after_text` is set.
    """

    after_s: float | None
    """Seconds after the start of the commands."""
    after_text: str | None
    """Text that a line of any site's output contains; the first such line counts."""
    mbps: tuple[State, ...]
    """What each site may send from then on, in 10**6 bits per second, or "up", "cut", "cut 10s"."""

    @property
    def moment(self) -> str:
        """In words, when the change is to happen."""
        when = self.after_s if self.after_text is None else self.after_text
        assert when is not None  # one of the two says it
        return _moment(when)

    @property
    def rates(self) -> str:
        """In words, the rates it sets: one number if all sites have the same."""
        values = self.mbps[:1] if len(set(self.mbps)) == 1 else self.mbps
        if any(isinstance(value, str) for value in values):
            return ", ".join(value if isinstance(value, str) else f"{value:g} Mbit/s" for value in values)
        return ", ".join(f"{value:g}" for value in values) + " Mbit/s"

    @property
    def cuts(self) -> dict[int, float | None]:
        """For how many seconds it cuts which sites' lines, by index; None: until another change restores them."""
        found = {index: _CUT.fullmatch(str(value)) for index, value in enumerate(self.mbps)}
        return {index: float(cut[1]) if cut[1] else None for index, cut in found.items() if cut}

    def applied_to(self, sites: Sequence[Site]) -> list[Site]:
        """The sites as they are from then on."""
        return [
            replace(
                site,
                bandwidth_mbps=site.bandwidth_mbps if isinstance(value, str) else value,
                cut=site.index in self.cuts,
            )
            for site, value in zip(sites, self.mbps, strict=True)
        ]


def make_rate_changes(
    changes: Sequence[tuple[float | str, State | Sequence[State]]], sites: Sequence[Site]
) -> list[RateChange]:
    """Describes changes given as (when, Mbit/s): a number is seconds after the start, a text one to wait for.

    The rate, or what else a line's state is to be, is one for all sites or one per site. Raises ValueError, naming the
    change and what is allowed, for values that cannot work.
    """
    if changes and sites[0].bandwidth_mbps is None:
        raise ValueError("rate changes need shaping: leave out --no-shaping or --change")
    made = []
    for when, given in changes:
        by_text = isinstance(when, str)
        if by_text and (not when or "\n" in when or "\r" in when):
            raise ValueError(f"rate change: text {when!r} given; it must be part of one line of output")
        if not by_text and not (math.isfinite(when) and 0 <= when <= LATEST_CHANGE_S):
            raise ValueError(f"rate change after {when:g} s: allowed are 0 to {LATEST_CHANGE_S} seconds")
        made.append(
            RateChange(
                after_s=None if by_text else float(when),
                after_text=when if by_text else None,
                mbps=_state_per_site(f"rate change {_moment(when)}", given, sites),
            )
        )
    return made


def _state_per_site(name: str, given: State | Sequence[State], sites: Sequence[Site]) -> tuple[State, ...]:
    states = [given] if isinstance(given, (int, float, str)) else list(given)
    for state in states:
        if isinstance(state, str) and state != "up" and not _CUT.fullmatch(state):
            raise ValueError(f"{name}: {state!r} given; write Mbit/s, up, cut, or cut 10s")
    # What is no rate is checked as if it were one that can be made.
    rates = bandwidth_per_site(name, [1.0 if isinstance(state, str) else state for state in states], len(sites))
    states = states * len(sites) if len(states) == 1 else states
    return tuple(state if isinstance(state, str) else rate for state, rate in zip(states, rates, strict=True))


class TextWatch:
    """Finds the texts that changes wait for in the sites' output."""

    def __init__(self, changes: Sequence[RateChange], sites: int) -> None:
        self._waiting = {
            # Arguments that are no UTF-8 reach Python as surrogates; this gives their bytes back.
            index: change.after_text.encode(errors="surrogateescape")
            for index, change in enumerate(changes)
            if change.after_text is not None
        }
        self._longest = max(map(len, self._waiting.values()), default=0)
        self._tails = [b""] * sites

    def feed(self, site: int, piece: bytes) -> list[int]:
        """Takes the next piece of a site's output; returns the indices of the changes whose text has now come."""
        # No text spans lines, so the end of a line need not be waited for: it would only make the change late.
        seen = self._tails[site] + piece
        found = [index for index, text in self._waiting.items() if text in seen]
        for index in found:
            del self._waiting[index]
        self._tails[site] = seen[max(0, len(seen) - self._longest) :]
        return found


def _moment(when: float | str) -> str:
    return f"at a line with {when!r}" if isinstance(when, str) else f"after {when:g} s"
