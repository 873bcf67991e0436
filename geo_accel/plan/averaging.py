# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What sites tell each other in a round and how the answer is made of it: the part of a plan that acts on values."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from geo_accel.config.names import CODEC_FACTS, CODECS, EXCHANGES, RESIDUALS, SPARSE_CHUNK, Exchange, Residual
from geo_accel.config.parts import Overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """Codec, exchange and average. Agreed in the plan, never decided by a rank.

    Raises ValueError, in one line, for what cannot be.
    """

    codec: str = "fp32"
    exchange: str = Exchange.DIRECT
    """"direct": everyone sends to everyone; "hub": one site averages and answers; "two-shot": all-to-all of shares."""
    hub: int = 0
    """The site, by its place among the plan's, that averages in exchange "hub"."""
    kept: tuple[int, ...] = ()
    """Values of every 4096 that a sparse codec keeps, by site in their order; empty for a dense one."""
    residual: str = Residual.WEIGHTS
    """Where that waits which was not sent: in the weights, in a buffer, or, "none", nowhere: it is lost."""
    overlap: Overlap = field(default_factory=Overlap)
    """What of a sparse codec's values counts more because few sites sent it."""
    coefficients: tuple[float, ...] = ()
    """What each site counts, by site in their order, in all 1; empty: all alike."""

    def __post_init__(self) -> None:
        for key, allowed in (("codec", CODECS), ("exchange", EXCHANGES), ("residual", RESIDUALS)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"plan: {key} {getattr(self, key)!r} was found; allowed: {', '.join(allowed)}.")
        for key, value in (("hub", self.hub), ("threshold", self.overlap.threshold)):
            if not _whole(value, 0):
                raise ValueError(f"plan: {key} is {value!r}; it must be a whole number >= 0.")
        if self.sparse != bool(self.kept):
            need = "must say" if self.sparse else "cannot say"
            raise ValueError(f"plan: with codec {self.codec} it {need} how many values each site keeps (kept).")
        if not all(_whole(one, 1) and one <= SPARSE_CHUNK for one in self.kept):
            raise ValueError(f"plan: kept is {list(self.kept)}; each must be a whole number from 1 to {SPARSE_CHUNK}.")
        if self.sparse and self.exchange == Exchange.TWO_SHOT:
            raise ValueError(f"plan: exchange two-shot is for dense codecs; with {self.codec} use direct or hub.")
        if not is_real(self.overlap.gain) or self.overlap.gain < 1:
            raise ValueError(f"plan: gain is {self.overlap.gain!r}; it must be a finite number >= 1.")
        if any(not is_real(one) or one < 0 for one in self.coefficients):
            raise ValueError(f"plan: coefficients are {list(self.coefficients)}; they must be finite numbers >= 0.")
        if self.coefficients and not math.isclose(sum(self.coefficients), 1, rel_tol=1e-9):
            raise ValueError(f"plan: coefficients add up to {sum(self.coefficients):g}; they must add up to 1.")

    def to_fields(self) -> dict[str, Any]:
        """As a plan's document says it, all side by side; `from_fields` reads it."""
        said: dict[str, Any] = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            said |= value.to_dict() if isinstance(value, Overlap) else {spec.name: value}
        return said

    @classmethod
    def from_fields(cls, found: dict[str, Any]) -> "Averaging":
        """Takes out of `found` what it is made of. Raises KeyError for what is not there, ValueError as it is made."""
        overlap = Overlap(**{spec.name: found.pop(spec.name) for spec in fields(Overlap)})
        said = {spec.name: found.pop(spec.name) for spec in fields(cls) if spec.name != "overlap"}
        said |= {name: tuple(said[name]) for name in ("kept", "coefficients")}
        return cls(overlap=overlap, **said)

    @property
    def lossless(self) -> bool:
        """Whether everything is sent as it is."""
        return CODEC_FACTS[self.codec].lossless

    @property
    def sparse(self) -> bool:
        return CODEC_FACTS[self.codec].sparse

    def __str__(self) -> str:
        """For people: codec and ratios, in a few words."""
        if not self.sparse:
            return self.codec
        shares = sorted({f"{one / SPARSE_CHUNK:.1%}" for one in self.kept}, key=lambda text: float(text[:-1]))
        return f"{self.codec} {shares[0]}" + (f" to {shares[-1]}" if len(shares) > 1 else "")

    def require_sites(self, sites: int) -> None:
        """Raises ValueError where it is not for so many sites."""
        for key, values in (("kept", self.kept), ("coefficients", self.coefficients)):
            if values and len(values) != sites:
                raise ValueError(f"plan: {key} has {len(values)} numbers, but there are {sites} sites.")
        if self.hub >= sites:
            raise ValueError(f"plan: hub is site {self.hub}, but there are {sites} sites, the first of which is 0.")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_real(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
