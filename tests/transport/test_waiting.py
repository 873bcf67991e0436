# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import threading

from geo_accel.transport import waiting
from geo_accel.transport.waiting import Waiting, is_due


def test_it_is_said_after_ten_seconds_and_then_every_minute():
    said, times = None, []
    for second in range(200):
        if is_due(second, said):
            said = second
            times.append(second)
    assert times == [10, 70, 130, 190]


def test_a_wait_names_what_and_whom_and_a_short_one_says_nothing(monkeypatch):
    monkeypatch.setattr(waiting, "_LOOK_S", 0.01)
    monkeypatch.setattr(waiting, "FIRST_S", 0.2)
    said = threading.Event()
    lines: list[str] = []

    def warning(text, *args):
        lines.append(text % args)
        said.set()

    monkeypatch.setattr(waiting.logger, "warning", warning)
    one = Waiting(lambda: 300)
    with one.over("site0 averages after step 3", lambda: "site site1 (rank 1)"):
        pass
    with one.over("site0 flushes after step 4", lambda: "site site1 (rank 1)"):
        assert said.wait(10)
    assert lines[0].startswith("site0 flushes after step 4: has been waiting for site site1 (rank 1) for 0 s;")
    assert "resilience.patience_s" in lines[0]


def test_the_watching_thread_ends_where_nobody_waits(monkeypatch):
    monkeypatch.setattr(waiting, "_LOOK_S", 0.01)
    before = set(threading.enumerate())  # those of other tests' engines among them, which end when they like

    def own():
        return [t for t in threading.enumerate() if t.name == "geo_accel waiting" and t not in before]

    one = Waiting(lambda: 300)
    with one.over("x", lambda: "y"):
        [thread] = own()
    thread.join(10)
    assert not thread.is_alive()
    with one.over("x", lambda: "y"):  # and begins again
        assert len(own()) == 1
