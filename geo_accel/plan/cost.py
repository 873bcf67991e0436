# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What one round costs: bytes that a site sends, seconds on the link, seconds of computing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from geo_accel.plan.plan import Piece, Plan
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Handling, Profile

# What the codecs of wire/ need, known here without torch.
BYTES_PER_VALUE = {"fp32": 4, "bf16": 2}


def exchange_for(sites: int) -> str:
    """Two sites swap payloads; from three on, averaging by chunks sends fewer bytes: 2(N-1)/N against N-1 payloads."""
    return "direct" if sites <= 2 else "two-shot"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of rounds of one codec over one exchange between `sites` sites."""

    profile: Profile
    codec: str
    exchange: str
    sites: int

    @classmethod
    def of(cls, plan: Plan, profile: Profile, sites: int) -> "Cost":
        """The costs of a plan's rounds."""
        return cls(profile=profile, codec=plan.codec, exchange=plan.exchange, sites=sites)

    @property
    def messages(self) -> int:
        """Exchanges, one after the other, that a round consists of."""
        return 1 if self.exchange == "direct" else 2

    @cached_property
    def _link(self) -> Link | None:
        return self.profile.link

    @cached_property
    def _measured(self) -> dict[str, float | None]:
        return {unit.name: unit.transfer_s for unit in self.profile.units}

    @property
    def handling(self) -> Handling:
        return self.profile.handling.get(self.codec, Handling())

    def nbytes(self, values: float) -> float:
        """Bytes that a rank sends for `values` values."""
        share = self.sites - 1 if self.exchange == "direct" else 2 * (self.sites - 1) / self.sites
        return share * values * BYTES_PER_VALUE[self.codec]

    def seconds(self, values: float) -> float:
        """Seconds that a round of `values` values occupies the link, by the link's model."""
        if self._link is None:
            raise ValueError(
                "the profile knows neither its links nor the transfer times of its units: state bandwidth and latency."
            )
        return self._link.seconds(self.messages, self.nbytes(values)) + self.handling.background_s * values

    def round_s(self, pieces: Sequence[Piece], units: Sequence[tuple[str, int]]) -> float:
        """Seconds of a round of `pieces` of `units`; measured transfers of units count as they are, scaled by bits."""
        measured = [self._measured.get(units[piece.unit][0]) for piece in pieces]
        if None not in measured:
            share = BYTES_PER_VALUE[self.codec] / BYTES_PER_VALUE["fp32"]
            return share * sum(s / piece.parts for s, piece in zip(measured, pieces, strict=True))
        return self.seconds(values_of(pieces, units))


def values_of(pieces: Sequence[Piece], units: Sequence[tuple[str, int]]) -> float:
    """Elements of `pieces` that a rank carries."""
    return sum(units[piece.unit][1] / piece.parts for piece in pieces)
