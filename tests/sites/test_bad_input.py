# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What people get wrong when each site is a job, as they see it: a script's one line and exit code, and a command's.

What `geo-accel meet` and `keys` say of key files, places and ports is in tests/commands, who is refused at the meeting
point in test_meeting.py, and how ranks of one job differ in tests/integrations/test_launched.py.
"""

import re
import subprocess
import sys
from dataclasses import asdict

import pytest

from geo_accel.sites.meeting import Arrival
from geo_accel.sites.messages import LARGE, hear, tell
from tests.sites.point import meeting_point
from tests.workers.joining_worker import PATIENCE_S
from tests.workers.launch import free_port, run_workers

pytestmark = pytest.mark.timeout(60)


def told(keys, meet, site="b", **more):
    """What a site is told, as the worker's arguments."""
    environ = {"GEO_ACCEL_MEET": meet, "GEO_ACCEL_KEYS": keys / f"{site}.pem", **more}
    return [f"{name}={value}" for name, value in environ.items()]


def lines_of(*ranks, code=2):
    """The one line of each process of a script that is launched with these arguments, by rank."""
    finished = run_workers(
        ["tests.workers.joining_worker"], sites=(1,) * len(ranks), per_rank=dict(enumerate(ranks)), timeout_s=40
    )
    said = []
    for one in finished:
        lines = [line for line in one.output.splitlines() if line.startswith(("error: ", "site lost: "))]
        assert one.returncode == code and len(lines) == 1 and "Traceback" not in one.output, one.output
        said += lines
    return said


def said_by(*ranks):
    """The line that all of them say."""
    (line,) = set(lines_of(*ranks))
    return line


@pytest.fixture
def taken(opened) -> int:
    """A port at which somebody listens."""
    return opened[0].number


def test_key_files_that_cannot_be_used(folder):
    missing = said_by(told(folder, f"127.0.0.1:{free_port()}", site="c"))
    path = folder / "c.pem"
    assert missing == f"error: key file {path}: No such file or directory; geo-accel keys add makes one."
    path = folder / "b.pem"
    path.chmod(0o644)
    assert said_by(told(folder, f"127.0.0.1:{free_port()}")) == (
        f"error: key file {path} can be read by others; make it yours alone: chmod 600 {path}"
    )


def test_a_port_that_is_taken_and_a_name_that_does_not_resolve(keys, taken):
    assert said_by(told(keys, f"listen:127.0.0.1:{taken}")) == (
        f"error: cannot listen at 127.0.0.1, port {taken} (Address already in use): another program, or another run, "
        "listens there: choose another port."
    )
    pattern = r"error: nowhere\.invalid does not resolve \(.*\); check GEO_ACCEL_MEET \(or meet\.at\)\."
    assert re.fullmatch(pattern, said_by(told(keys, "nowhere.invalid:29400")))


def test_two_sites_of_one_name_and_numbers_of_sites_that_contradict(keys, credentials_of):
    with meeting_point(credentials_of("a"), expect=3) as point, point.secure(credentials_of("b")) as first:
        tell(first, {"arrive": asdict(Arrival(site="b", job="first", place=0, size=1, machine="m"))})
        assert "missing" in hear(first, LARGE)
        refused, meet = "error: the meeting point refuses", f"127.0.0.1:{point.port.number}"
        twice, unlike = said_by(told(keys, meet)), said_by(told(keys, meet, site="c", GEO_ACCEL_EXPECT=2))
    assert twice == f"{refused} b: there are two sites called b: give each a name and a key file of its own."
    assert unlike == (
        f"{refused} c: c expects 2 sites, the meeting point 3: say the same everywhere (GEO_ACCEL_EXPECT or "
        "meet.expect), or at one site only."
    )
    # Who holds the meeting point sees it too.
    reasons = [line.removeprefix(refused)[len(" b: ") :] for line in (twice, unlike)]
    assert point.said == [f"refused 127.0.0.1: {reason}" for reason in reasons]


def test_the_other_site_is_in_one_job_over_all(keys):
    """So that it never comes to the meeting."""
    port = free_port()
    meets = [f"127.0.0.1:{port}", f"listen:127.0.0.1:{free_port()}"]
    # Two jobs at once, which know nothing of each other.
    jobs = [told(keys, meet, WORLD_SIZE=1, RANK=0, MASTER_PORT=free_port()) for meet in meets]
    unreachable, alone = lines_of(*jobs, code=3)
    assert unreachable == (
        f"site lost: b could not reach the meeting point at 127.0.0.1:{port} within {PATIENCE_S} s "
        f"(resilience.patience_s; Connection refused): does it run, as a site with GEO_ACCEL_MEET=listen:{port} or as "
        "geo-accel meet, and is its port open?"
    )
    assert alone == (
        f"site lost: b waited {PATIENCE_S} s (resilience.patience_s) for 1 more of 2 sites (there: b): is everything "
        "started, each site as a job of its own with GEO_ACCEL_MEET, and is GEO_ACCEL_EXPECT right?"
    )


@pytest.mark.parametrize(
    "sites, line",
    [
        (
            [None, "b"],
            "error: GEO_ACCEL_MEET (or meet.at) is set on rank(s) 1 of this job, but not on rank(s) 0: with a job per "
            "site every process has it, and a job spans one site; with one job over all sites none has it.",
        ),
        (
            ["a", "b"],
            "error: this job of 2 processes spans the sites a (rank 0), b (rank 1), though GEO_ACCEL_MEET (or "
            "meet.at) is set: launch a job of its own at each site, or leave GEO_ACCEL_MEET out for one job over all "
            "sites.",
        ),
    ],
    ids=["one of them", "both"],
)
def test_one_job_over_sites_that_are_to_meet(keys, sites, line):
    meet = f"127.0.0.1:{free_port()}"
    assert said_by(*(told(keys, meet, site=site) if site else [] for site in sites)) == line


@pytest.mark.parametrize(
    "listen, words",
    [
        ("nowhere.invalid:29400", "error: meet: cannot listen at nowhere.invalid, port 29400 ("),
        ("a..b:29400", "argument --listen: 'a..b:29400' given; allowed: a port from 1 to 65535"),
        ("taken", "error: meet: cannot listen at all interfaces, port "),
    ],
)
def test_the_meeting_point_as_a_process(keys, taken, listen, words):
    place = str(taken) if listen == "taken" else listen
    command = ["geo_accel.commands.main", "meet", "--listen", place, "--keys", str(keys / "a.pem")]
    ended = subprocess.run([sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True, timeout=30)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and words in ended.stderr
