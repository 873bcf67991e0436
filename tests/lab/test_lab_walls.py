# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites that cannot be dialled, and lines that are cut: what connections see of both."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from geo_accel.lab import make_rate_changes, make_sites, run_sites
from geo_accel.lab.jobs import job_environment
from geo_accel.lab.reach import dials, find_fault

pytestmark = pytest.mark.timeout(90)
carriers = pytest.mark.parametrize("latency_ms", [pytest.param(0, id="bridge"), pytest.param(2, id="delayed")])

# Every site listens and dials all others; a call that is taken is answered.
DIAL = """
import socket, threading, time
me = socket.gethostname()

def serve(server):
    while True:
        server.accept()[0].sendall(b"hello")

threading.Thread(target=serve, args=(socket.create_server(("", 5000)),), daemon=True).start()
time.sleep(1)
for name in ("site0", "site1", "site2"):
    if name != me:
        try:
            with socket.create_connection((name, 5000), timeout=1.2) as line:
                print(name, line.recv(5, socket.MSG_WAITALL).decode())
        except OSError as error:
            print(name, type(error).__name__)
time.sleep(1)
"""


@pytest.mark.lab
@carriers
def test_behind_nat_a_site_dials_and_is_not_dialled(latency_ms):
    command = [sys.executable, "-S", "-c", DIAL]
    result = run_sites(command, sites=3, nat=["site1", 2], latency_ms=latency_ms, timeout_s=40)
    assert result.exit_code == 0, result
    assert [site.output.splitlines() for site in result.sites] == [
        ["site1 TimeoutError", "site2 TimeoutError"],
        ["site0 hello", "site2 TimeoutError"],
        ["site0 hello", "site1 TimeoutError"],
    ]


@pytest.mark.lab
@pytest.mark.alone
@carriers
def test_a_connection_outlives_a_cut_that_nothing_announces(latency_ms):
    command = [sys.executable, "-S", str(Path(__file__).with_name("lab_talk.py")), "{rank}", "20"]
    result = run_sites(command, latency_ms=latency_ms, rate_changes=[("half", ["up", "cut 2s"])], timeout_s=60)
    assert result.exit_code == 0, result
    _, longest, flapped, call = result.sites[1].output.split()
    # The question begins 0.6 s after the cut at most; TCP asks again at growing intervals.
    assert 1.9 < float(longest) < 7
    assert (flapped, call) == ("False", "TimeoutError")
    changed, restored = result.notes
    assert "up, cut 2s (at a line with 'half')" in changed
    assert restored.endswith("the line of site1 is up")


@pytest.mark.lab
@pytest.mark.alone
def test_a_cut_lasts_until_another_change_and_leaves_the_others_alone():
    ping = "import socket,time\n"
    ping += "link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); link.bind(('', 9)); link.settimeout(0.1)\n"
    ping += "end, heard = time.monotonic() + 3, []\n"
    ping += "while time.monotonic() < end:\n"
    ping += "    for name in ('site0', 'site1', 'site2'): link.sendto(b'.', (name, 9))\n"
    ping += "    time.sleep(0.02)\n"
    ping += "    try:\n"
    ping += "        while True: heard.append((time.monotonic(), link.recvfrom(9)[1][0][-1]))\n"
    ping += "    except TimeoutError: pass\n"
    ping += "print(*(round(max(b - a for a, b in zip(t, t[1:])), 2) for who in '123'\n"
    ping += "        for t in [[at for at, by in heard if by == who]]))\n"
    changes = [(1, ["up", "cut", "up"]), (2, [100, 50, 100])]
    result = run_sites([sys.executable, "-S", "-c", ping], sites=3, rate_changes=changes, verify=False, timeout_s=30)
    assert result.exit_code == 0, result
    silent = [[float(word) > 0.8 for word in site.output.split()] for site in result.sites]
    # A site hears itself at all times.
    assert silent == [[False, True, False], [True, False, True], [False, True, False]]


def locally(site, command):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ({}, None),
        ({"nat": True}, "site0 dials site1, but site1 is behind NAT"),
        ({"cut": True}, "site1 dials site0, but that line is cut"),
    ],
)
def test_walls_that_do_not_hold_are_found(state, fault):
    # Nothing stands between these.
    sites = [replace(site, address=f"127.0.0.{site.index + 1}") for site in make_sites(3)]
    sites[1] = replace(sites[1], **state)
    assert find_fault(sites, {1}, locally) == fault


def test_who_cannot_be_reached_is_named():
    sites = [replace(site, address=f"127.0.0.{site.index + 1}", latency_ms=0) for site in make_sites(2)]

    def without_the_other(site, command):
        return locally(site, [word.replace("127.0.0.1", "127.0.0.9") if site.index == 0 else word for word in command])

    assert find_fault(sites, {1}, without_the_other) == "site1 cannot dial site0"


def test_each_watched_site_and_one_that_can_be_dialled_dial_each_other():
    sites = make_sites(4, nat=[0, 2])
    assert [(by.index, to.index) for by, to in dials(sites, {0, 2, 1})] == [
        (0, 1),
        (1, 0),
        (1, 3),
        (3, 1),
        (2, 1),
        (1, 2),
    ]
    sites = make_sites(2)
    assert [(by.index, to.index) for by, to in dials(sites, {0, 1})] == [(0, 1), (1, 0)]


def test_jobs_meet_where_they_can_be_dialled():
    sites = make_sites(3, nat=["site0"])
    meet = [job_environment(site, sites, port=29400, base={})["GEO_ACCEL_MEET"] for site in sites]
    assert meet == ["10.77.0.2:29400", "listen:29400", "10.77.0.2:29400"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nat": [2]}, "nat: 2 given; the sites are site0 to site1, or 0 to 1"),
        ({"nat": ["a"]}, "nat: 'a' given"),
        ({"nat": [0, "site1"]}, "nat: all 2 sites given; one at least"),
        ({"nat": [0], "shaping": False}, "nat needs shaping: leave out --no-shaping or --nat"),
    ],
)
def test_sites_that_nobody_could_be_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        make_sites(2, **settings)


@pytest.mark.parametrize("state", ["cut10s", "cut 10", "down", ["up", "cut -1s"]])
def test_what_no_line_can_be_is_named(state):
    with pytest.raises(ValueError, match=r"rate change after 1 s: '.*' given; write Mbit/s, up, cut, or cut 10s"):
        make_rate_changes([(1, state)], make_sites(2))


def test_a_change_says_all_of_a_line_s_state():
    cut, faster = make_rate_changes([(1, ["cut 1.5s", "cut", "up"]), (2, 30)], make_sites(3))
    assert cut.cuts == {0: 1.5, 1: None}
    sites = cut.applied_to(make_sites(3))
    assert [(site.bandwidth_mbps, site.cut) for site in sites] == [(100, True), (100, True), (100, False)]
    assert [(site.bandwidth_mbps, site.cut) for site in faster.applied_to(sites)] == [(30, False)] * 3
