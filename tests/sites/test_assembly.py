# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sites as processes that are killed, frozen and started anew."""

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from geo_accel.membership.generation import Generation
from geo_accel.membership.member import Record
from geo_accel.membership.succession import Votes
from geo_accel.sites import authority
from geo_accel.sites.assembly import read_record, write_record
from tests.sites import assembled


class Site:
    """A process, and the generations that it says have begun."""

    def __init__(self, rank: int, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", assembled.__name__, str(rank), str(folder)], stdout=subprocess.PIPE, text=True
        )
        self._said: queue.Queue[list] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("["):
                self._said.put(json.loads(line))

    def until(self, members: list[str], within_s: float, least: int = 1) -> tuple[int, float]:
        """The number of the next generation of these members here, from number `least` on, and when it began."""
        end, said = time.monotonic() + within_s, []
        while True:
            try:
                said = self._said.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no generation of {members} in {within_s} s; the last one: {said}") from None
            at, number, there, _ = said
            if sorted(there) == members and number >= least:
                return number, at

    def tell(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def sites(folder: Path) -> Iterator[dict[int, Site]]:
    authority.init(folder / "run")
    for rank in range(assembled.SITES):
        authority.add(folder / "run", f"site{rank}")
    with ExitStack() as ends:
        running = {rank: Site(rank, folder) for rank in range(assembled.SITES)}
        ends.callback(lambda: [site.end() for site in running.values()])
        for site in running.values():
            site.until(NAMES, 30)
        yield running


NAMES = ["site0", "site1", "site2"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_a_site_that_is_killed_is_missed_within_seconds_and_comes_back(tmp_path, victim):
    """The first one too, with the meeting point in it."""
    others = [rank for rank in range(assembled.SITES) if rank != victim]
    with sites(tmp_path) as running:
        time.sleep(2)
        killed_at = time.time()
        running[victim].end()
        begun = [running[rank].until([NAMES[one] for one in others], 10) for rank in others]
        assert {number for number, _ in begun} == {2}
        assert max(at for _, at in begun) - killed_at < 5
        running[victim] = Site(victim, tmp_path)
        assert {site.until(NAMES, 30, least=2)[0] for site in running.values()} == {3}


@pytest.mark.slow
def test_a_site_that_is_frozen_is_left_out_and_comes_back(tmp_path):
    with sites(tmp_path) as running:
        time.sleep(1)
        running[1].tell(signal.SIGSTOP)
        for rank in (0, 2):
            assert running[rank].until(["site0", "site2"], 15)[0] == 2
        running[1].tell(signal.SIGCONT)
        assert {site.until(NAMES, 30)[0] for site in running.values()} == {3}


def test_a_record_is_found_again(tmp_path):
    path = tmp_path / "record"
    assert read_record(path) is None
    record = Record((Generation(1, ("a", "b")),), Votes((3, "b"), ((2, "a"), Generation(2, ("a",), 5, (1, 2)))))
    write_record(path, record)
    assert read_record(path) == record
    assert [one.name for one in tmp_path.iterdir()] == ["record"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"history": 1, "promised": [0, ""], "accepted": null}'])
def test_a_file_that_is_no_record_is_named(tmp_path, content):
    path = tmp_path / "record"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is no record .* delete it"):
        read_record(path)
