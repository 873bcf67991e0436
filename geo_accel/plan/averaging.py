# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What sites tell each other in a round and how the answer is made of it: the part of a plan that acts on values."""

import math
from dataclasses import dataclass

from geo_accel.config.names import CODEC_FACTS, CODECS, EXCHANGES, RESIDUALS, SPARSE_CHUNK, Exchange, Residual


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """Codec, exchange and average. Agreed in the plan, never decided by a rank.

    Raises ValueError, in one line, for what cannot be.
    """

    codec: str = "fp32"
    exchange: str = Exchange.DIRECT
    """"direct": everyone sends to everyone; "hub": one site averages and answers; "two-shot": all-to-all of shares."""
    hub: int = 0
    """The site, by number, that averages in exchange "hub"."""
    kept: tuple[int, ...] = ()
    """Values of every 4096 that a sparse codec keeps, by site; empty for a dense one."""
    residual: str = Residual.WEIGHTS
    """Where that waits which was not sent (DESIGN 3): in the weights, in a buffer, or, "none", nowhere: it is lost."""
    threshold: int = 0
    """Overlap weighting: what at most so many sites sent is weighed; 0 weighs nothing."""
    gain: float = 1.0
    """Overlap weighting: by how much, at most N / senders; N and more makes the mean over those that sent."""
    coefficients: tuple[float, ...] = ()
    """What each site counts, by site, in all 1; empty: all alike."""

    def __post_init__(self) -> None:
        for key, allowed in (("codec", CODECS), ("exchange", EXCHANGES), ("residual", RESIDUALS)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"plan: {key} {getattr(self, key)!r} was found; allowed: {', '.join(allowed)}.")
        for key, value in (("hub", self.hub), ("threshold", self.threshold)):
            if not _whole(value, 0):
                raise ValueError(f"plan: {key} is {value!r}; it must be a whole number >= 0.")
        if self.sparse != bool(self.kept):
            need = "must say" if self.sparse else "cannot say"
            raise ValueError(f"plan: with codec {self.codec} it {need} how many values each site keeps (kept).")
        if not all(_whole(one, 1) and one <= SPARSE_CHUNK for one in self.kept):
            raise ValueError(f"plan: kept is {list(self.kept)}; each must be a whole number from 1 to {SPARSE_CHUNK}.")
        if self.sparse and self.exchange == Exchange.TWO_SHOT:
            raise ValueError(f"plan: exchange two-shot is for dense codecs; with {self.codec} use direct or hub.")
        if not _real(self.gain) or self.gain < 1:
            raise ValueError(f"plan: gain is {self.gain!r}; it must be a finite number >= 1.")
        if any(not _real(one) or one < 0 for one in self.coefficients):
            raise ValueError(f"plan: coefficients are {list(self.coefficients)}; they must be finite numbers >= 0.")
        if self.coefficients and not math.isclose(sum(self.coefficients), 1, rel_tol=1e-9):
            raise ValueError(f"plan: coefficients add up to {sum(self.coefficients):g}; they must add up to 1.")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """The outer step: SGD with Nesterov momentum on the agreed change; lr 1 without momentum is plain averaging.

    Raises ValueError, in one line, for what cannot be.
    """

    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not _real(self.lr) or self.lr <= 0:
            raise ValueError(f"plan: the outer lr is {self.lr!r}; it must be a finite number > 0.")
        if not _real(self.momentum) or not 0 <= self.momentum < 1:
            raise ValueError(f"plan: the outer momentum is {self.momentum!r}; it must be >= 0 and < 1.")

    def __str__(self) -> str:
        if self == Outer():
            return "mean"
        return f"Nesterov, lr {self.lr:g}, momentum {self.momentum:g}"


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
