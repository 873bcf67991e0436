# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Whether sites behind NAT and sites whose lines are cut can be reached, or reach others, only as they should."""

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from geo_accel.lab.sites import Site
from geo_accel.lab.verify import Answers, end_probes

# Lost packets are sent again after 1, 3, 7 and 15 s; of those that must not arrive two are enough.
_REACHED_S, _NOT_REACHED_S = 30.0, 1.3
_ANSWER_S = 60.0


def find_fault(
    sites: Sequence[Site], watched: Collection[int], start: Callable[[Site, Sequence[str]], subprocess.Popen]
) -> str | None:
    """None if each of `watched`, by index, and another site dial each other as they should; else one line.

    Takes a second or two where some must not be reached. `start` runs a command inside a site with pipes. Raises
    TimeoutError, naming the site, if one stops answering.
    """
    pairs = dials(sites, watched)
    slack_s = 2 * max(site.latency_ms for site in sites) / 1000
    script = [sys.executable, "-I", "-S", str(Path(__file__).with_name("dial.py"))]
    probes: list[subprocess.Popen] = []
    try:
        for site in sites:
            peers = [
                [to.address, slack_s + (_REACHED_S if may_dial(site, to) else _NOT_REACHED_S)]
                for by, to in pairs
                if by is site
            ]
            probes.append(start(site, [*script, json.dumps({"listen": site.address, "peers": peers})]))
        answers = [Answers(site, probe) for site, probe in zip(sites, probes, strict=True)]
        for one in answers:
            one.next("listening", _ANSWER_S)
        for one in answers:
            one.go_on()
        reached = {
            (site.index, to.index): done
            for site, one in zip(sites, answers, strict=True)
            for (_, to), done in zip(
                [pair for pair in pairs if pair[0] is site], one.next("reached", _ANSWER_S), strict=True
            )
        }
        for one in answers:
            one.go_on()
    finally:
        end_probes(probes)
    for by, to in pairs:
        if reached[by.index, to.index] != may_dial(by, to):
            wall = "that line is cut" if by.cut or to.cut else f"{to.name} is behind NAT"
            return f"{by.name} cannot dial {to.name}" if may_dial(by, to) else f"{by.name} dials {to.name}, but {wall}"
    return None


def may_dial(by: Site, to: Site) -> bool:
    """Whether one site can open a connection to another."""
    return not (by.cut or to.cut or to.nat)


def dials(sites: Sequence[Site], watched: Collection[int]) -> list[tuple[Site, Site]]:
    """Who is to dial whom: each of `watched` and another site, one that can be dialled if there is one, each other."""
    pairs: list[tuple[Site, Site]] = []
    for index in sorted(watched):
        others = [site for site in sites if site.index != index]
        other = next((site for site in others if not site.nat), others[0])
        pairs += [pair for pair in ((sites[index], other), (other, sites[index])) if pair not in pairs]
    return pairs
