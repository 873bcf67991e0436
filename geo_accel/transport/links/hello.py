# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The first words on a line: who dials whom in which run. Pure."""

import json
from dataclasses import asdict, dataclass, fields

from geo_accel.transport.links.frames import FrameError

PROTOCOL = 1
"""Of frames, hellos and transfers; ends of unlike protocol refuse each other."""
MOST_LINES = 64
"""Between two ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the end that dials says of itself and of the line."""

    run: str
    """The run's own name, which its meeting point has drawn."""
    generation: int
    """Of the sites that the sender knows to be in."""
    sender: int
    """Its rank in the run."""
    receiver: int
    line: int
    """0 is for control, the rest for payload."""
    protocol: int = PROTOCOL

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Hello":
        """Raises FrameError for what is none."""
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FrameError("the hello is no JSON") from error
        wanted = {spec.name: str if spec.name == "run" else int for spec in fields(cls)}
        if not isinstance(content, dict) or content.keys() != wanted.keys():
            raise FrameError("the hello is not of this version of geo_accel")
        for name, kind in wanted.items():
            if type(content[name]) is not kind:
                raise FrameError(f"the hello's {name} is no {kind.__name__}")
        return cls(**content)

    def problem_for(self, mine: "Hello", ranks: range | frozenset[int]) -> str | None:
        """Why an end of which `mine` is true, and which expects `ranks`, cannot take the line; None where it can.

        `mine.sender` is its own rank.
        """
        if self.protocol != mine.protocol:
            return f"it speaks protocol {self.protocol}, this end {mine.protocol}: install the same version everywhere"
        if self.run != mine.run:
            runs = f"it is of run {self.run[:8]!a}, this end of run {mine.run[:8]!a}"
            return f"{runs}: is a process of an earlier run left?"
        if self.generation != mine.generation:
            return f"it is of generation {self.generation}, this end of {mine.generation}"
        if self.receiver != mine.sender:
            return f"it is for rank {self.receiver}, this end is rank {mine.sender}"
        if self.sender not in ranks:
            return f"rank {self.sender} has no line to rank {mine.sender}"
        if not 0 <= self.line < MOST_LINES:
            return f"there is no line {self.line}"
        return None
