# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Makes a plan from a profile, or checks one, and shows what it would cost.

A profile is what geo_accel measured (a JSON file), or a folder with DreamDDP's published bp.json and comm.json.
Examples:

  geo-accel plan --profile profile.json --output plan.json
  geo-accel plan --profile profile.json --bandwidth-mbps 100 --latency-ms 20 --show
  geo-accel plan --plan plan.json --profile profile.json --png plan.png
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from geo_accel.commands import drawing, picture
from geo_accel.commands.arguments import count, pair, positive, positive_or_0, share
from geo_accel.config.names import AUTO, CODECS, MODES, SCHEDULES, SPARSE_CODECS, Mode, Schedule
from geo_accel.config.parts import Outer
from geo_accel.plan.choose import choose_plan
from geo_accel.plan.cost import Cost, values_of
from geo_accel.plan.members import Members
from geo_accel.plan.plan import Plan, read_plan
from geo_accel.plan.request import Request
from geo_accel.plan.timeline import Timeline, timeline
from geo_accel.profile.document import write_whole
from geo_accel.profile.link import Link
from geo_accel.profile.profile import Profile, read_profile
from geo_accel.profile.trace import event, process, write_trace

NAME = "plan"
SUMMARY = "make, check and show what is sent when"

_MODE_OF = {
    AUTO: Mode.STREAM,
    Schedule.FULL: Mode.BLOCKING,
    Schedule.EQUAL: Mode.BACKWARD,
    Schedule.DREAMDDP: Mode.BACKWARD,
    Schedule.STREAM: Mode.STREAM,
}
_MAKING = ("period", "schedule", "mode", "codec", "ratio", "delay")
"""Options that only a new plan has; None where they were not given."""
_MOST_ROWS = 48


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `geo-accel plan`."""
    parser.add_argument("--profile", type=Path, metavar="PATH", help="what was measured; a plan is made from it")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="an existing plan, to be checked and shown")
    making = parser.add_argument_group("making a plan")
    making.add_argument("--period", type=count(1), metavar="N|auto", help="steps between synchronisations of a unit")
    making.add_argument("--schedule", metavar="NAME", help=f"one of {', '.join((AUTO, *SCHEDULES))} (default: auto)")
    making.add_argument(
        "--mode",
        metavar="NAME",
        help=f"one of {', '.join(MODES)} (default: blocking for full, backward for equal and dreamddp, else stream)",
    )
    making.add_argument(
        "--codec",
        metavar="NAME",
        help=f"auto, {' or '.join(CODECS)} (default: fp32 where only units' transfers are known, else auto)",
    )
    making.add_argument(
        "--ratio", type=share, metavar="R|auto", help="share of the values that a sparse codec sends, as in 0.05"
    )
    making.add_argument(
        "--delay", type=count(1), metavar="N|auto", help="steps from a round's start to its application; mode stream"
    )
    model = parser.add_argument_group("the profile, changed")
    model.add_argument(
        "--sites", type=count(2, auto=False), metavar="N", help="number of sites (default: as in the profile, else 2)"
    )
    model.add_argument("--bandwidth-mbps", type=positive, metavar="R", help="every site's link, in Mbit/s")
    model.add_argument("--latency-ms", type=positive_or_0, metavar="T", help="of one exchange between sites")
    model.add_argument(
        "--tied",
        type=pair,
        action="append",
        default=[],
        metavar="A=B",
        help="units A and B share their weight, which is sent once; may be repeated",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--show", action="store_true", help="draw one steady period in the terminal")
    output.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    output.add_argument("--output", type=Path, metavar="FILE", help="write the plan to FILE")
    output.add_argument("--png", type=Path, metavar="FILE", help="draw one steady period as a picture")
    output.add_argument("--trace", type=Path, metavar="FILE", help="write one steady period for Perfetto")


def run(arguments: argparse.Namespace) -> int:
    """Makes or reads the plan and writes what was asked for. Raises ValueError, in one line, for wrong input."""
    _check_options(arguments)
    profile = None if arguments.profile is None else _read_changed_profile(arguments)
    if arguments.plan is None:
        assert profile is not None  # `_check_options` asks for one of them
        # By number alone: what the sites of the run to come will be called, nobody knows here.
        members = Members(arguments.sites or _sites_of(profile))
        plan = _make(arguments, profile, members)
    else:
        plan = read_plan(arguments.plan)
        members = Members(arguments.sites or len(plan.sites) or _sites_of(profile))
        if profile is not None:
            _check_model(plan, arguments.plan, profile, members)
        members = Members(len(members), names=plan.sites)
    course = None if profile is None else timeline(plan, profile, members)
    if course is not None and not math.isfinite(course.step_s):
        raise ValueError(f"{arguments.profile}: the profile's times are too large to be added up; are they seconds?")

    written = _write_files(arguments, plan, course)
    if arguments.json:
        print(json.dumps(as_json(plan, course, _period_bytes(plan, profile, members))))
        return 0
    console = Console()
    console.print(_figures(plan, profile, course, members))
    console.print(_steps(plan, profile, members))
    if arguments.show and course is not None:
        console.print(drawing.draw(course, console.width, plain=not console.encoding.startswith("utf")))
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def as_json(plan: Plan, course: Timeline | None, period_bytes: float | None) -> dict:
    """What `--json` prints. Times are in seconds; None is what no profile told."""
    return {
        "exposed_s_per_period": course and course.exposed_s_per_period,
        "step_s": course and course.step_s,
        "compute_s": course and course.compute_s,
        "efficiency": course and course.efficiency,
        "period": plan.period,
        "delay": plan.delay,
        "mode": plan.mode,
        "schedule": plan.schedule,
        "codec": plan.codec,
        "bytes_per_period": period_bytes,
        "plan": json.loads(plan.to_json()),
        "fingerprint": plan.fingerprint,
    }


def trace_events(course: Timeline, name: str) -> list[dict]:
    """One steady period as events of the trace format, from 0, with the track names of real runs."""
    spans = course.steady()
    origin = min((span.start for span in spans), default=0.0)  # a transfer may have begun in the period before
    events = [process(0, name)]
    for span in spans:
        number = span.step % course.period
        label = f"step {number + 1}" if span.track == "step" else span.name
        events.append(event(0, span.track, label, span.start - origin, span.stop - origin, step=number + 1))
    return events


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that do not go together, before anything is done."""
    if arguments.profile is None and arguments.plan is None:
        raise ValueError("give --profile PATH to make a plan, or --plan FILE to look at one.")
    given = [name for name in _MAKING if getattr(arguments, name) is not None]
    if arguments.plan is not None and given:
        raise ValueError(f"--{given[0]} makes a new plan and --plan reads one: leave one of them out.")
    for option, allowed in (("schedule", (AUTO, *SCHEDULES)), ("mode", MODES), ("codec", (AUTO, *CODECS))):
        value = getattr(arguments, option)
        if value is not None and value not in allowed:
            raise ValueError(f"--{option} {value!r} is not in this version; allowed: {', '.join(allowed)}.")
    if arguments.profile is None:
        for option in ("sites", "bandwidth_mbps", "latency_ms", "tied", "show", "png", "trace"):
            value = getattr(arguments, option)
            if value is not None and value is not False and value != []:
                raise ValueError(f"--{option.replace('_', '-')} needs a profile: add --profile PATH.")
    if arguments.show and arguments.json:
        raise ValueError("--show and --json both print to standard output: leave one of them out.")
    if arguments.png is not None:
        picture.require_matplotlib()
    for option in ("output", "png", "trace"):
        path = getattr(arguments, option)
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ValueError(
                f"--{option} {path}: " + ("is a folder" if path.is_dir() else "its folder does not exist")
            )


def _read_changed_profile(arguments: argparse.Namespace) -> Profile:
    """The profile with the link and the ties of the command line."""
    profile = read_profile(arguments.profile)
    for one, other in arguments.tied:
        profile = profile.tied(one, other)
    if arguments.bandwidth_mbps is None and arguments.latency_ms is None:
        return profile
    if profile.numel == 0:
        raise ValueError(
            f"{arguments.profile}: the profile knows times of transfers, but no elements: "
            "leave --bandwidth-mbps and --latency-ms out."
        )
    before, mbps = profile.link, arguments.bandwidth_mbps
    if mbps is None:
        if before is None:
            raise ValueError(f"{arguments.profile}: the profile knows no link: state --bandwidth-mbps too.")
        mbps = before.megabits_per_second
    latency_ms = arguments.latency_ms
    if latency_ms is None:
        latency_ms = before.latency_s * 1e3 if before else 0.0
    return profile.with_link(Link.of(mbps=mbps, latency_ms=latency_ms))


def _sites_of(profile: Profile | None) -> int:
    return max(2, len(profile.links)) if profile is not None else 2


def _make(arguments: argparse.Namespace, profile: Profile, members: Members) -> Plan:
    schedule = arguments.schedule or AUTO
    measured = profile.link is None and any(unit.transfer_s is not None for unit in profile.units)
    request = Request(
        mode=arguments.mode or _MODE_OF[schedule],
        period=arguments.period or AUTO,
        schedule=schedule,
        delay=arguments.delay or AUTO,
        codec=arguments.codec or ("fp32" if measured else AUTO),
        ratio=arguments.ratio or AUTO,
    )
    if arguments.ratio not in (None, AUTO) and arguments.codec not in SPARSE_CODECS:
        raise ValueError(f"--ratio {arguments.ratio:g}: for {' and '.join(SPARSE_CODECS)}; say --codec topk.")
    if request.mode != Mode.STREAM and arguments.delay not in (None, AUTO):
        raise ValueError(f"--delay {arguments.delay}: mode {request.mode} applies within the step; leave --delay out.")
    if request.resolved_schedule == Schedule.STREAM and profile.numel == 0:
        raise ValueError(
            f"{arguments.profile}: the schedule stream balances elements, which this profile does not know: "
            "use --schedule dreamddp, equal or full."
        )
    if profile.link is None and not measured:
        raise ValueError(
            f"{arguments.profile}: the profile knows neither links nor transfer times: state --bandwidth-mbps."
        )
    return choose_plan(request, [(unit.name, unit.numel) for unit in profile.units], members, profile)


def _check_model(plan: Plan, path: Path, profile: Profile, members: Members) -> None:
    """Raises ValueError where the plan is not for the profile's model, or not for so many sites."""
    places = {name: place for place, (name, _) in enumerate(plan.units)}
    elements = dict(plan.units) if profile.numel == 0 else {}
    # A profile lists units in the order in which they were seen, which is not a matter of which model it is.
    units = sorted(
        ((unit.name, elements.get(unit.name, unit.numel)) for unit in profile.units),
        key=lambda unit: places.get(unit[0], len(places)),
    )
    try:
        plan.require_units(units)
        plan.for_members(members)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _period_bytes(plan: Plan, profile: Profile | None, members: Members) -> float | None:
    """Bytes that a rank sends in a period; None where elements or the number of sites are not known."""
    if profile is None or plan.values_per_period == 0:
        return None
    return Cost.of(plan, profile, members).nbytes(plan.values_per_period)


def _write_files(arguments: argparse.Namespace, plan: Plan, course: Timeline | None) -> list[Path]:
    """Writes the files that were asked for; gives their paths."""
    name = f"{plan.schedule}, mode {plan.mode}, period {plan.period}, {plan.codec}"
    writers: list[tuple[Path | None, Callable[[Path], object]]] = [
        (arguments.output, lambda path: write_whole(path, lambda file: file.write_text(f"{plan.to_json()}\n"))),
    ]
    if course is not None:

        def draw(file: Path) -> None:
            file.write_bytes(picture.draw(course, f"{name}: {_summary(course)}"))

        writers += [
            (arguments.png, lambda path: write_whole(path, draw)),
            (arguments.trace, lambda path: write_trace(path, trace_events(course, f"plan: {name}"))),
        ]
    written = []
    for path, write in writers:
        if path is not None:
            try:
                write(path)
            except OSError as error:
                raise ValueError(f"{path}: cannot be written ({error.strerror}).") from None
            written.append(path)
    return written


def _summary(course: Timeline) -> str:
    return (
        f"step {_seconds(course.step_s)}, efficiency {course.efficiency:.3f}, "
        f"{_seconds(course.exposed_s_per_period)} exposed per period"
    )


def _figures(plan: Plan, profile: Profile | None, course: Timeline | None, members: Members) -> Table:
    table = Table(show_header=False, title=f"plan {plan.fingerprint[:12]}", title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")

    def add(what: str, value: str) -> None:
        table.add_row(what, Text(value))

    add("schedule", f"{plan.schedule}, mode {plan.mode}")
    add("period", f"{plan.period} steps" if plan.mode != Mode.STREAM else f"{plan.period} steps, delay {plan.delay}")
    sends = _period_bytes(plan, profile, members)
    add("codec", f"{plan.averaging}, exchange {plan.exchange}")
    if plan.outer != Outer():
        add("outer step", str(plan.outer))
    if sends is not None:
        add("a rank sends", f"{sends / 1e6:.3f} MB per period, {len(members)} sites")
    elif plan.values_per_period:
        add("a rank puts in", f"{plan.values_per_period:.0f} values per period")
    if course is not None:
        add("step", f"{_seconds(course.step_s)}, of which computing {_seconds(course.compute_s)}")
        add("efficiency", f"{course.efficiency:.3f}")
        add("exposed", f"{_seconds(course.exposed_s_per_period)} per period")
    if plan.sites:
        add("sites", ", ".join(plan.sites))
    if plan.reason:
        add("reason", plan.reason)
    return table


def _steps(plan: Plan, profile: Profile | None, members: Members) -> Table:
    """What is sent in each step of the period; steps in a row that send nothing share a line."""
    known, cost = plan.values_per_period > 0, None if profile is None else Cost.of(plan, profile, members)
    table = Table(title="what is sent in which step", title_justify="left")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("sends", overflow="fold", min_width=len("nothing"))
    for heading in ("units", "rounds", *["values"] * known, *["transfer s"] * (cost is not None)):
        table.add_column(heading, justify="right", no_wrap=True)
    words = json.loads(plan.to_json())["rounds"]
    quiet: list[int] = []

    def add_quiet() -> None:
        if quiet:
            steps = f"{quiet[0]} to {quiet[-1]}" if len(quiet) > 1 else str(quiet[0])
            table.add_row(steps, "nothing")
            quiet.clear()

    for step, rounds in enumerate(plan.rounds):
        if not rounds:
            quiet.append(step + 1)
            continue
        add_quiet()
        if table.row_count >= _MOST_ROWS:
            table.add_row("...", f"and {plan.period - step} more steps; --output writes all")
            break
        pieces = [piece for members in rounds for piece in members]
        cells = [str(len({piece.unit for piece in pieces})), str(len(rounds))]
        if known:
            cells.append(f"{values_of(pieces, plan.units):.0f}")
        if cost is not None:
            cells.append(f"{sum(cost.round_s(members, plan.units) for members in rounds):.4f}")
        sends = [word for members in words[step] for word in members]
        table.add_row(str(step + 1), Text(sends[0] if len(sends) == 1 else f"{sends[0]} .. {sends[-1]}"), *cells)
    else:
        add_quiet()
    return table


def _seconds(value: float) -> str:
    return f"{value:.4g} s"
