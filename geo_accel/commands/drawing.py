# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""One steady period of a plan, as blocks for any kind of drawing and as lines for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10

from rich.text import Text

from geo_accel.plan.timeline import Timeline

COMPUTE = ("forward", "backward", "update")
_EPSILON = 1e-9
"""The share of a period below which a block is rounding, not time."""
_LABEL = 9
_NARROW = 6
"""Columns below which a step's parts cannot be told apart."""
_LEVELS = " ▁▂▃▄▅▆▇█"
_PLAIN_LEVELS = " ..::==##"
_SIGNS = {"forward": "▒", "backward": "█", "update": "▓"}
_PLAIN_SIGNS = {"forward": "-", "backward": "=", "update": "+"}
_STYLES = {
    "forward": "cyan",
    "backward": "blue",
    "update": "magenta",
    "step": "blue",
    "transfer": "green",
    "wait": "red",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Time that one thing takes inside the period. `kind` is a track of the timeline."""

    kind: str
    step: int
    """Of the period, from 0; a transfer's is the one in which it became due to start."""
    start: float
    """Seconds from the period's beginning."""
    stop: float


def length(course: Timeline) -> float:
    """Seconds of a steady period."""
    return course.step_s * course.period


def blocks(course: Timeline) -> list[Block]:
    """What happens in a steady period, by step: a step's units are one block, and so are transfers without a gap."""
    end = length(course)
    found: list[Block] = []
    last: dict[str, int] = {}  # where the last block of a kind is
    for span in course.steady():
        block = Block(
            kind=span.track, step=span.step % course.period, start=max(0.0, span.start), stop=min(end, span.stop)
        )
        if block.stop - block.start <= _EPSILON * end:
            continue
        before = found[last[block.kind]] if block.kind in last else None
        if before and before.step == block.step and block.start - before.stop <= _EPSILON * end:
            found[last[block.kind]] = replace(before, stop=block.stop)
        else:
            last[block.kind] = len(found)
            found.append(block)
    return found


def draw(course: Timeline, width: int, plain: bool = False) -> Text:
    """A steady period in lines of at most `width` columns; `plain` where the terminal knows ASCII only.

    The lane "compute" shows what fills most of a column; in the lanes "link" and "waits" a column's height is the
    share of it that is filled.
    """
    columns = max(20, width - _LABEL)
    end, every = length(course), blocks(course)
    scale = columns / end
    signs = _PLAIN_SIGNS if plain else _SIGNS
    kinds = [kind for kind in COMPUTE if any(block.kind == kind for block in every)]
    in_turn = columns / course.period < _NARROW or len(kinds) == 1
    lanes = {
        "step": _numbers(every, scale, columns),
        "compute": _compute(every, scale, columns, in_turn, signs),
        "link": _shares(every, "transfer", scale, columns, plain),
        "waits": _shares(every, "wait", scale, columns, plain),
        "seconds": _axis(end, columns),
    }
    lines = [Text(f"{name:<{_LABEL}}").append_text(lane) for name, lane in lanes.items()]
    key = "steps in turn dark and light" if in_turn else ", ".join(f"{signs[kind]} {kind}" for kind in kinds)
    lines.append(Text(f"compute: {key}; link, waits: a column's height is the share of it that is filled"))
    return Text("\n").join(lines)


def _coverage(every: Sequence[Block], kinds: Sequence[str], scale: float, columns: int) -> list[dict[Block, float]]:
    """By column, which share of it the blocks of these kinds fill."""
    found: list[dict[Block, float]] = [{} for _ in range(columns)]
    for block in every:
        if block.kind in kinds:
            start, stop = block.start * scale, block.stop * scale
            for column in range(int(start), min(columns, ceil(stop))):
                found[column][block] = min(stop, column + 1) - max(start, column)
    return found


def _compute(every: Sequence[Block], scale: float, columns: int, in_turn: bool, signs: dict[str, str]) -> Text:
    lane = Text()
    for shares in _coverage(every, COMPUTE, scale, columns):
        if sum(shares.values()) < 0.5:
            lane.append(" ")
            continue
        most = max(shares, key=shares.__getitem__)
        if in_turn:
            lane.append(signs[("backward", "forward")[most.step % 2]], style=_STYLES["step"])
        else:
            lane.append(signs[most.kind], style=_STYLES[most.kind])
    return lane


def _shares(every: Sequence[Block], kind: str, scale: float, columns: int, plain: bool) -> Text:
    levels = _PLAIN_LEVELS if plain else _LEVELS
    lane = Text()
    for shares in _coverage(every, [kind], scale, columns):
        share = min(1.0, sum(shares.values()))
        most = max(shares, key=shares.__getitem__, default=None)
        shade = "bold " if most is not None and most.step % 2 else ""
        lane.append(levels[ceil(share * 8 - 0.01)], style=shade + _STYLES[kind])
    return lane


def _numbers(every: Sequence[Block], scale: float, columns: int) -> Text:
    """The steps' numbers, from 1, each where its step begins and as far as there is room."""
    row, free = [" "] * columns, 0
    for block in every:
        at, word = floor(block.start * scale + 0.5), str(block.step + 1)
        if block.kind == "step" and at >= free and at + len(word) <= columns:
            row[at : at + len(word)] = word
            free = at + len(word) + 1
    return Text("".join(row), style="dim")


def _axis(end: float, columns: int) -> Text:
    """Times at round figures, each where it lies."""
    wanted = end / max(1, columns // 12)
    power = 10.0 ** floor(log10(wanted))
    tick = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wanted * (1 - 1e-9))
    row, number = [" "] * columns, 0
    while (at := floor(number * tick / end * columns + 0.5)) < columns:
        word = f"{number * tick:.6g}"
        if at + len(word) <= columns:
            row[at : at + len(word)] = word
        number += 1
    return Text("".join(row), style="dim")
