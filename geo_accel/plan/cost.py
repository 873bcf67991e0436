# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What one round costs: bytes that a site sends, seconds on the links, seconds of computing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log2

from geo_accel.config.names import CODEC_FACTS, DENSE_CODECS, HUB_ANSWER, SPARSE_CHUNK, Exchange
from geo_accel.plan.averaging import Averaging
from geo_accel.plan.members import Members
from geo_accel.plan.plan import Piece, Plan
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Handling, Profile

BYTES_PER_VALUE = {name: CODEC_FACTS[name].bytes_per_value for name in DENSE_CODECS}
"""Of dense codecs."""

# On shorter lines a window is open again before anybody has noticed.
_LONG_LATENCY_S = 0.01
# What a new connection may send before it has heard anything.
_NEW_WINDOW_BYTES = 14_480


def sparse_bytes(codec: str, kept: int) -> float:
    """What one chunk of 4096 values takes with a sparse codec, as one of many: values, then their places if it says
    them."""
    facts = CODEC_FACTS[codec]
    places = min(SPARSE_CHUNK / 8, 1.5 * kept) if facts.says_places else 0.0
    return kept * facts.bytes_per_value + places


def bytes_per_value(averaging: Averaging, site: int | None = None) -> float:
    """Bytes that one value takes on the wire from `site`, or on average over sites."""
    if not averaging.sparse:
        return BYTES_PER_VALUE[averaging.codec]
    kept = averaging.kept if site is None else (averaging.kept[site],)
    total = sum(count * sparse_bytes(averaging.codec, one) for one, count in Counter(kept).items())
    return total / len(kept) / SPARSE_CHUNK


def answer_bytes_per_value(averaging: Averaging) -> float:
    """The same of a hub's answer: room for all that any site kept, or for every value."""
    if not averaging.sparse:
        return BYTES_PER_VALUE[averaging.codec]
    if not CODEC_FACTS[averaging.codec].says_places:  # all drew the same: those of the site that kept most
        return sparse_bytes(averaging.codec, max(averaging.kept)) / SPARSE_CHUNK
    everything = min(SPARSE_CHUNK, sum(averaging.kept))
    return min(BYTES_PER_VALUE[HUB_ANSWER], sparse_bytes(averaging.codec, everything) / SPARSE_CHUNK)


def exchange_for(sites: int) -> str:
    """What to do where links are not known. Two sites swap payloads; from three on, averaging by shares sends fewer
    bytes: 2(N-1)/N against N-1 payloads."""
    return Exchange.DIRECT if sites <= 2 else Exchange.TWO_SHOT


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of rounds of one averaging between `members`."""

    profile: Profile
    averaging: Averaging
    members: Members

    @classmethod
    def of(cls, plan: Plan, profile: Profile, members: Members) -> "Cost":
        """The costs of a plan's rounds."""
        return cls(profile=profile, averaging=plan.averaging, members=members)

    @property
    def sites(self) -> int:
        """How many there are."""
        return len(self.members)

    @property
    def messages(self) -> int:
        """Exchanges, one after the other, that a round consists of."""
        return 1 if self.averaging.exchange == Exchange.DIRECT else 2

    @cached_property
    def _links(self) -> list[Link]:
        """By site; one where all are alike, as in simulations of thousands."""
        links = self.members.in_order(self.profile.links)
        unlike = len(links) == self.sites and (len(set(links)) > 1 or len(set(self.averaging.kept)) > 1)
        return links if unlike else [Link.slowest(links)]

    @property
    def _others(self) -> list[int]:
        """The sites that are not the hub, or where all are alike one of them."""
        return [site for site in range(len(self._links)) if len(self._links) == 1 or site != self.averaging.hub]

    @cached_property
    def _measured(self) -> dict[str, float | None]:
        return {unit.name: unit.transfer_s for unit in self.profile.units}

    @property
    def handling(self) -> Handling:
        return self.profile.handling.get(self.averaging.codec, Handling())

    def nbytes(self, values: float) -> float:
        """Bytes that a rank sends for `values` values, mean over sites."""
        rule, others = self.averaging, self.sites - 1
        said = bytes_per_value(rule)
        if rule.exchange == Exchange.HUB:
            spoken = said * self.sites - (bytes_per_value(rule, rule.hub))
            return values * (spoken + others * answer_bytes_per_value(rule)) / self.sites
        return values * said * (others if rule.exchange == Exchange.DIRECT else 2 * others / self.sites)

    @cached_property
    def _seconds_per_value(self) -> float:
        """Of the exchange, latencies not counted: all sites wait for whoever takes longest, in either direction."""
        rule, links, others = self.averaging, self._links, self.sites - 1
        said = [bytes_per_value(rule, site) for site in range(len(links))]
        if rule.exchange == Exchange.TWO_SHOT:
            return 2 * others / self.sites * said[0] * max(max(link.seconds_per_byte, link.down) for link in links)
        everything = bytes_per_value(rule) * self.sites
        if rule.exchange == Exchange.DIRECT:
            return max(
                max(others * one * link.seconds_per_byte, (everything - one) * link.down)
                for one, link in zip(said, links, strict=True)
            )
        center, rest = links[rule.hub if len(links) > 1 else 0], self._others
        heard = everything - bytes_per_value(rule, rule.hub)
        answer = answer_bytes_per_value(rule)
        uploads = max(heard * center.down, *(said[site] * links[site].seconds_per_byte for site in rest))
        answers = max(others * answer * center.seconds_per_byte, *(answer * links[site].down for site in rest))
        return uploads + answers

    def seconds(self, values: float) -> float:
        """Seconds that a round of `values` values occupies the links, by the links' model."""
        link = self.profile.link
        if link is None:
            raise ValueError(
                "the profile knows neither its links nor the transfer times of its units: state bandwidth and latency."
            )
        return self.messages * link.latency_s + values * (self._seconds_per_value + self.handling.background_s)

    def reopening_s(self, values: float, rested_s: float) -> float:
        """Seconds that a round of `values` values takes longer after the links have rested for `rested_s` seconds.

        TCP halves a window that is not used in every timeout, down to that of a new connection, and doubles it in
        every round trip that it is used.
        """
        link = self.profile.link
        if link is None or link.latency_s < _LONG_LATENCY_S or values <= 0:
            return 0.0
        payload = self.nbytes(values) / self.messages / max(1, self.sites - 1)
        filled = min(payload, link.latency_s / link.seconds_per_byte)
        lost = int(rested_s / link.timeout_s)
        return self.messages * link.latency_s * min(lost, max(0.0, log2(filled / _NEW_WINDOW_BYTES) - 1))

    def round_s(self, pieces: Sequence[Piece], units: Sequence[tuple[str, int]]) -> float:
        """Seconds of a round of `pieces` of `units`; measured transfers of units count as they are, scaled by bits."""
        measured = [self._measured.get(units[piece.unit][0]) for piece in pieces]
        known = [seconds for seconds in measured if seconds is not None]
        if len(known) == len(pieces):
            share = bytes_per_value(self.averaging) / BYTES_PER_VALUE["fp32"]
            return share * sum(s / piece.parts for s, piece in zip(known, pieces, strict=True))
        return self.seconds(values_of(pieces, units))


def values_of(pieces: Sequence[Piece], units: Sequence[tuple[str, int]]) -> float:
    """Elements of `pieces` that a rank carries."""
    return sum(units[piece.unit][1] / piece.parts for piece in pieces)
