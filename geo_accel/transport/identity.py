# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a message is part of, told with it: sites that are not at the same point find out before anything is used.

Pure: no sockets here. Every rank that takes part in a swap tells every other its header; who finds another's unlike
its own knows, as they do, who does what.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

KINDS = {
    "round": "average{s} after step {step} (round {number} there)",
    "flush": "flush{es} after step {step} (to save, evaluate or end)",
    "buffers": "average{s} buffers in a flush after step {step}",
    "beat": "{is_} being measured after step {step}",
    "probe": "probe{s} the link",
    "weights": "hand{s} over the weights to start from",
}
"""What a message can be, and what its sender does, in words."""
_NAMES = tuple(KINDS)

_HEADER = struct.Struct("<HBBIqIIIIqI")
HEADER_BYTES = _HEADER.size
_VERSION = 2
_TAGS = 2**31 - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The same on all who take part, and unlike that of anything else that they could take it for."""

    kind: str
    step: int = 0
    """Steps done when it was begun."""
    number: int = 0
    """Among those of its kind that the step begins."""
    phase: int = 0
    """Among the swaps that it takes."""
    plan: int = 0
    """CRC-32 of the plan's fingerprint; 0 without a plan."""
    plan_number: int = 0
    """How many plans had been adopted."""
    generation: int = 0
    """Of the sites that take part; the transport knows it."""

    def tag(self, nbytes: int) -> int:
        """Where a payload of `nbytes` bytes is sent and expected: payloads of unlike identity or size never meet.

        From 1 to 2^31 - 2; 0 is for headers.
        """
        key = struct.pack("<BBIqIIIq", _NAMES.index(self.kind), *self._numbers(), nbytes)
        return 1 + zlib.crc32(key) % _TAGS

    def _numbers(self) -> tuple[int, ...]:
        return self.phase, self.number, self.step, self.plan, self.plan_number, self.generation

    def said_of(self, several: bool) -> str:
        """What one sender of it does, or several do: "flushes after step 40 ..."."""
        forms = {"s": "", "es": "", "is_": "are"} if several else {"s": "s", "es": "es", "is_": "is"}
        return KINDS[self.kind].format(step=self.step, number=self.number + 1, **forms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What goes with a payload, also where the payload is empty."""

    identity: Identity
    wishes: int = 0
    """Bits; what they stand for is not the transport's business."""
    nbytes: int = 0
    checksum: int = 0
    """CRC-32 of the payload."""

    def to_bytes(self) -> bytes:
        one = self.identity
        return _HEADER.pack(_VERSION, _NAMES.index(one.kind), *one._numbers(), self.wishes, self.nbytes, self.checksum)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header | None":
        """None for bytes that are no header of this version."""
        version, kind, *numbers, wishes, nbytes, checksum = _HEADER.unpack(data)
        if version != _VERSION or kind >= len(_NAMES):
            return None
        phase, number, step, plan, plan_number, generation = numbers
        identity = Identity(
            kind=_NAMES[kind],
            step=step,
            number=number,
            phase=phase,
            plan=plan,
            plan_number=plan_number,
            generation=generation,
        )
        return cls(identity=identity, wishes=wishes, nbytes=nbytes, checksum=checksum)


@dataclass(slots=True)
class Message:
    """One round, probe or the like on its way: what it is, and what is told besides."""

    identity: Identity
    wishes: int = 0
    """Bits that this rank tells; once it is over, those that anybody told."""


def disagreement(told: Mapping[int, Identity], name_of: Callable[[int], str]) -> str | None:
    """Who does what, where the identities by rank are not all the same: one line, the same for the same `told`.

    None where they are.
    """
    if len(set(told.values())) < 2:
        return None
    groups: dict[Identity, list[int]] = {}
    for rank in sorted(told):
        groups.setdefault(told[rank], []).append(rank)
    texts = [one.said_of(len(ranks) > 1) for one, ranks in groups.items()]
    if len({one.said_of(False) for one in groups}) < len(groups):  # the same words for what differs otherwise
        texts = [
            f"{text} [plan {one.plan:08x}, number {one.plan_number} of the run, swap {one.phase + 1}, generation "
            f"{one.generation} of the sites]"
            for text, one in zip(texts, groups, strict=True)
        ]
    parts = [f"{' and '.join(map(name_of, ranks))} {text}" for text, ranks in zip(texts, groups.values(), strict=True)]
    return f"{' while '.join(parts)}: {_advice({one.kind for one in told.values()})}"


def _advice(kinds: set[str]) -> str:
    if "flush" in kinds or "buffers" in kinds:
        return (
            "sites are at unlike steps, or only some of them flush, save or evaluate here (epochs or data of unlike "
            "length?); train by a number of steps (max_steps) and do it at the same step everywhere."
        )
    return "sites have made unlike numbers of steps; call step() equally often everywhere (train by max_steps)."
