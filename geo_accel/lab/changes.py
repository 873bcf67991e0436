# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Links whose rate changes while the sites run: what changes when, and the watch for the lines that trigger it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from geo_accel.lab.sites import Site, bandwidth_per_site

LATEST_CHANGE_S = 604_800
"""Changes by time may come up to a week after the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateChange:
    """From a moment on, every site sends at another rate. Exactly one of `after_s` and `after_text` is set."""

    after_s: float | None
    """Seconds after the start of the commands."""
    after_text: str | None
    """Text that a line of any site's output contains; the first such line counts."""
    mbps: tuple[float, ...]
    """What each site may send from then on, in 10**6 bits per second."""

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
        return ", ".join(f"{value:g}" for value in values) + " Mbit/s"


def make_rate_changes(
    changes: Sequence[tuple[float | str, float | Sequence[float]]], sites: Sequence[Site]
) -> list[RateChange]:
    """Describes changes given as (when, Mbit/s): a number is seconds after the start, a text one to wait for.

    The rate is one for all sites or one per site. Raises ValueError, naming the change and what is allowed, for values
    that cannot work.
    """
    if changes and sites[0].bandwidth_mbps is None:
        raise ValueError("rate changes need shaping: leave out --no-shaping or --change")
    made = []
    for when, mbps in changes:
        by_text = isinstance(when, str)
        if by_text and (not when or "\n" in when or "\r" in when):
            raise ValueError(f"rate change: text {when!r} given; it must be part of one line of output")
        if not by_text and not (math.isfinite(when) and 0 <= when <= LATEST_CHANGE_S):
            raise ValueError(f"rate change after {when:g} s: allowed are 0 to {LATEST_CHANGE_S} seconds")
        made.append(
            RateChange(
                after_s=None if by_text else float(when),
                after_text=when if by_text else None,
                mbps=tuple(bandwidth_per_site(f"rate change {_moment(when)}", mbps, len(sites))),
            )
        )
    return made


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
