# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Turns the output of several sites into whole lines, with progress bars thinned to a bearable number of updates."""

import codecs
import re
from dataclasses import dataclass, field

UPDATE_INTERVAL_S = 0.5
"""At most one update of a progress bar per site and interval is shown."""

_LINE_END = re.compile(r"\r\n|\n|\r")
_CURSOR_MOVE = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhlsu]")


@dataclass(slots=True)
class LineSplitter:
    """Splits one site's bytes into lines. A text that ends in a carriage return is an update, not a line.

    Of the updates that follow each other within `UPDATE_INTERVAL_S` only the last is returned, late; an update that a
    line overwrites is not returned at all.
    """

    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )
    _rest: str = ""
    _update: str | None = None
    _shown_at: float = float("-inf")

    def feed(self, piece: bytes, now: float) -> list[str]:
        """Lines that `piece` completes; an empty piece is the end of the output. `now` is in seconds."""
        text = self._rest + self._decoder.decode(piece, final=not piece)
        if not piece:
            return self._finish(text)
        # "\r" at the very end may be half of "\r\n".
        held = "\r" if text.endswith("\r") else ""
        text = text[: len(text) - len(held)]
        lines, start = [], 0
        for end in _LINE_END.finditer(text):
            segment = _CURSOR_MOVE.sub("", text[start : end.start()])
            start = end.end()
            if end.group() != "\r":
                self._update = None
                lines.append(segment)
            elif segment.strip():
                self._update = segment
        self._rest = text[start:] + held
        return lines + self.tick(now)

    def tick(self, now: float) -> list[str]:
        """The waiting update, if its time has come."""
        if self._update is None or now < self._shown_at + UPDATE_INTERVAL_S:
            return []
        update, self._update, self._shown_at = self._update, None, now
        return [update]

    def _finish(self, text: str) -> list[str]:
        last = _CURSOR_MOVE.sub("", text).rstrip("\r")
        lines = [last] if last.strip() else [self._update] if self._update else []
        self._rest, self._update = "", None
        return lines
