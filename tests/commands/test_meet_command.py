# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geo_accel.commands.main import main
from geo_accel.commands.meet import _change
from geo_accel.sites import authority
from geo_accel.sites.credentials import read_credentials
from geo_accel.sites.meeting import Arrival
from geo_accel.sites.port import Port
from geo_accel.sites.visit import Visit
from tests.sites.point import at_once, until

pytest.importorskip("cryptography")


@pytest.fixture
def keys(tmp_path):
    authority.init(tmp_path / "keys")
    for site in ("meet", "a", "b"):
        authority.add(tmp_path / "keys", site)
    return tmp_path / "keys"


def free_port() -> int:
    port = Port("127.0.0.1", 0)
    port.close()
    return port.number


@pytest.fixture
def started(keys, tmp_path):
    """The command, its port, and what it has said so far."""
    number, log = free_port(), tmp_path / "said"
    words = ["meet", "--listen", f"127.0.0.1:{number}", "--keys", str(keys / "meet.pem"), "--expect", "2"]
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, "-m", "geo_accel.commands.main", *words], stderr=file)
    said = lambda: log.read_text()  # noqa: E731
    until(lambda: "listens at port" in said(), 60)
    yield process, number, said
    process.kill()
    process.wait()


def visit(keys, number: int, site: str, shown: str | None = None) -> Visit:
    arrival = Arrival(site=site, job=f"job of {site}", place=0, size=1, machine="m", address=":7")
    return Visit(("127.0.0.1", number), read_credentials(keys / f"{shown or site}.pem"), arrival, 30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_meets_at_a_process_of_its_own(started, keys, number):
    process, port, said = started
    with pytest.raises(ValueError, match="its key file is a's"):
        visit(keys, port, "c", shown="a")
    both = at_once(*(lambda site=site: visit(keys, port, site) for site in "ab"))
    assert both[0].roster == both[1].roster
    shelves = [one.shelf("x") for one in both]
    shelves[0].set("k", "1")
    assert shelves[1].wait(["k"], 10) == ["1"]
    until(lambda: "all are there: a (1 process(es)), b (1 process(es))" in said())
    for one in (*shelves, *both):
        one.close()
    until(lambda: "b has left" in said())
    process.send_signal(number)
    assert process.wait(20) == 0
    lines = said().splitlines()
    assert lines[0] == f"the meeting point listens at port {port}, as meet"
    assert lines[-1] == "stopped" and "Traceback" not in said()
    assert sum(bool(re.match(r"refused 127\.0\.0\.1: .* its key file is a's", line)) for line in lines) == 1


def test_it_ends_while_sites_wait(started, keys):
    process, port, said = started
    arrival = Arrival(site="a", job="j", place=0, size=1, machine="m")

    def stop() -> None:
        until(lambda: "a is there" in said())
        process.terminate()

    def wait_in_vain() -> None:
        with pytest.raises(Exception, match="could not reach the meeting point"):
            Visit(("127.0.0.1", port), read_credentials(keys / "a.pem"), arrival, 2)

    start = time.monotonic()
    at_once(stop, wait_in_vain)
    assert process.wait(20) == 0 and time.monotonic() - start < 20


def test_a_port_that_is_taken(keys, capsys):
    port = Port("127.0.0.1", 0)
    try:
        assert main(["meet", "--listen", f"127.0.0.1:{port.number}", "--keys", str(keys / "a.pem")]) == 2
    finally:
        port.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "geo-accel: error: meet: cannot listen at 127.0.0.1" in said
    assert "another program, or another run, listens there: choose another port" in said


def test_keys_that_cannot_be_used(keys, capsys):
    (keys / "a.pem").chmod(0o644)
    for name, words in (("a.pem", "can be read by others"), ("nothing", "No such file"), ("authority.pem", "no key")):
        assert main(["meet", "--listen", str(free_port()), "--keys", str(keys / name)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and words in said


@pytest.mark.parametrize("place", ["", "0", "65536", "host", "host:", "a b:1", "::1:29400", "-1", "1e3"])
def test_places_that_are_none(capsys, place):
    with pytest.raises(SystemExit) as ended:
        main(["meet", f"--listen={place}", "--keys", "k"])
    assert ended.value.code == 2 and "allowed: a port from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    "before, now, said",
    [
        (None, (1, 1), "a is there"),
        (None, (1, 2), None),
        ((1, 2), (2, 2), "a is there"),
        ((2, 2), (1, 2), "a has lost processes: 1 of 2 are there"),
        ((1, 2), (0, 2), "a has left"),
        ((2, 2), (0, 2), "a has left"),
        ((1, 1), None, "a has left"),
        ((0, 1), (1, 1), "a is there"),
        ((1, 1), (1, 1), None),
        ((0, 1), (0, 1), None),
    ],
)
def test_what_is_said_of_a_site(before, now, said):
    assert _change("a", before, now) == said


def test_it_needs_no_torch():
    script = "import sys, geo_accel.commands.meet, geo_accel.commands.keys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2]).returncode == 0
