# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Rates that change while the sites run: what is asked for, what triggers it, and what the sites then see."""

import itertools
import json
import os
import re
import statistics
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_accel.lab import LabResult, make_rate_changes, make_sites, run_sites
from geo_accel.lab.changes import TextWatch
from geo_accel.lab.namespaces import tool_path

pytestmark = pytest.mark.alone

TRAFFIC = [sys.executable, "-S", str(Path(__file__).with_name("lab_traffic.py")), "{rank}", "{master}"]
HEADERS = 1514 / 1448
SIZE = 512 << 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((-1, 30), "rate change after -1 s: allowed are 0 to 604800 seconds"),
        ((float("inf"), 30), "rate change after inf s"),
        (("", 30), "text '' given"),
        (("step 1\nstep 2", 30), "must be part of one line"),
        ((20, 0), "rate change after 20 s: 0 given"),
        (("step 30", [30, 40, 50]), "rate change at a line with 'step 30': 3 values for 2 sites"),
    ],
)
def test_changes_that_cannot_work_are_named(change, words):
    with pytest.raises(ValueError, match=words) as caught:
        make_rate_changes([(1, 50), change], make_sites(2))
    assert "\n" not in str(caught.value)


def test_a_rate_holds_for_all_sites_or_one_each():
    by_time, by_text = make_rate_changes([(20, 30), ("step 30", [30, 50])], make_sites(2))
    assert (by_time.after_s, by_time.after_text, by_time.mbps) == (20, None, (30, 30))
    assert (by_text.after_s, by_text.after_text, by_text.mbps) == (None, "step 30", (30, 50))


def test_without_shaping_there_is_no_rate_to_change():
    with pytest.raises(ValueError, match="rate changes need shaping"):
        run_sites(["true"], shaping=False, rate_changes=[(1, 30)])


WORDS = st.text(alphabet="ab1", min_size=1, max_size=4)


@given(st.lists(WORDS, max_size=3), st.lists(st.text(alphabet="ab1 ", max_size=9)), st.lists(st.integers(0, 99)))
def test_a_text_is_found_once_however_its_bytes_arrive(wanted, lines, cuts):
    watch = TextWatch(make_rate_changes([(word, 30) for word in wanted], make_sites(2)), 2)
    data = "\n".join(lines).encode()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    found = [index for a, b in itertools.pairwise(edges) for index in watch.feed(1, data[a:b])]
    assert sorted(found) == [index for index, word in enumerate(wanted) if any(word in line for line in lines)]


def test_a_text_is_not_put_together_from_two_sites():
    watch = TextWatch(make_rate_changes([("step 30", 30)], make_sites(2)), 2)
    assert watch.feed(0, b"step ") == watch.feed(1, b"30") == []
    assert watch.feed(0, b"30, loss 1") == [0]


def seconds(result: LabResult) -> list[float]:
    assert result.exit_code == 0, result
    return [float(word) for word in result.sites[1].output.split()]


def seconds_at(mbps: float) -> float:
    return 8 * SIZE * HEADERS / (mbps * 1e6)


@pytest.mark.lab
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("start", "end"), [(100, 30), (20, 100), (100, 15)])
def test_the_rate_changes_at_a_line_of_output(start, end):
    change = ("half way", [1000, end])
    result = run_sites(
        [*TRAFFIC, str(SIZE), "12"],
        bandwidth_mbps=[1000, start],
        rate_changes=[change],
        verify=False,
        timeout_s=30,
    )
    # The message after the half may begin before the change.
    before, after = seconds(result)[:6], seconds(result)[7:]
    assert statistics.median(before) == pytest.approx(seconds_at(start), rel=0.15)
    assert statistics.median(after) == pytest.approx(seconds_at(end), rel=0.15)
    (done,) = result.rate_changes
    assert sum(before) < done.at_s < result.duration_s - sum(after)


@pytest.mark.lab
@pytest.mark.timeout(60)
@pytest.mark.parametrize("latency_ms", [pytest.param(0, id="bridge"), pytest.param(2, id="delayed")])
def test_the_rate_changes_after_a_time(latency_ms):
    result = run_sites(
        [*TRAFFIC, str(SIZE), "36"],
        latency_ms=latency_ms,
        rate_changes=[(1.2, 30)],
        verify=False,
        timeout_s=30,
    )
    times = seconds(result)
    round_trip_s = 2 * latency_ms / 1000
    # The very first messages still open TCP's window.
    assert statistics.median(times[3:9]) == pytest.approx(seconds_at(100) + round_trip_s, rel=0.15)
    assert statistics.median(times[-6:]) == pytest.approx(seconds_at(30) + round_trip_s, rel=0.15)
    (done,) = result.rate_changes
    assert 1.2 <= done.at_s < 2.2


@pytest.mark.lab
@pytest.mark.timeout(60)
@pytest.mark.parametrize("latency_ms", [pytest.param(0, id="bridge"), pytest.param(2, id="delayed")])
def test_a_changed_link_is_shaped_like_one_that_began_so(latency_ms):
    show = "tc qdisc show dev wan0"
    settings = {
        "sites": 3,
        "latency_ms": latency_ms,
        "env": {"PATH": tool_path()},
        "verify": False,
        "timeout_s": 30,
    }

    def shapes(script: str, **more: object) -> list[str]:
        result = run_sites(["sh", "-c", script], **settings, **more)
        assert result.exit_code == 0, result
        # The number that the kernel gives a queue is no part of its shape.
        return [re.sub(r"\b[0-9a-f]+: ", "", site.output) for site in result.sites]

    changed = shapes(f"sleep 0.8; {show}", bandwidth_mbps=300, rate_changes=[(0, [30, 10, 100])])
    assert changed == shapes(show, bandwidth_mbps=[30, 10, 100])
    assert [re.search("rate [^ ]*", one)[0] for one in changed] == ["rate 30Mbit", "rate 10Mbit", "rate 100Mbit"]


@pytest.mark.lab
@pytest.mark.timeout(60)
def test_the_result_says_which_changes_happened_and_which_did_not():
    changes = [(0.6, 30), ("step 2", [20, 10]), ("step 9", 5), (99, 7)]
    script = "[ {rank} = 0 ] && exec sleep 0.2; echo step 2 of 3; sleep 1; echo step 2 again"
    result = run_sites(["sh", "-c", script], rate_changes=changes, verify=False, timeout_s=30)
    times = [change.at_s for change in result.rate_changes]
    assert times[2:] == [None, None]
    assert 0 < times[1] < 0.6 <= times[0] < result.duration_s
    assert result.notes == [
        f"from {times[1]:.1f} s on: 20, 10 Mbit/s (at a line with 'step 2')",
        f"from {times[0]:.1f} s on: 30 Mbit/s (after 0.6 s)",
        "the change to 5 Mbit/s at a line with 'step 9' never happened: the sites ended first",
        "the change to 7 Mbit/s after 99 s never happened: the sites ended first",
    ]
    reported = json.loads(json.dumps(result.as_json()))["rate_changes"]
    assert reported[1] == {"after_s": None, "after_text": "step 2", "mbps": [20, 10], "at_s": times[1]}
    assert reported[3] == {"after_s": 99, "after_text": None, "mbps": [7, 7], "at_s": None}


@pytest.mark.lab
@pytest.mark.timeout(60)
def test_a_change_that_the_kernel_refuses_ends_the_run_and_is_named():
    # The site takes its own queue away, so there is none to change.
    script = "[ {rank} = 0 ] && tc qdisc del dev wan0 root && echo gone; exec sleep 20"
    with pytest.raises(ValueError, match="the rate change at a line with 'gone' failed: 'tc qdisc change"):
        run_sites(
            ["sh", "-c", script],
            rate_changes=[("gone", 30)],
            env={**os.environ, "PATH": tool_path()},
            verify=False,
            timeout_s=30,
        )
