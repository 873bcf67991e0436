# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Workers from fork servers live, end and fail as those that `python -m` starts."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.processes import descendants
from tests.workers import forking, launch
from tests.workers.fork_server import is_late

WORKER = """
import json, os, random, signal, sys, threading, time
import numpy
said = {"argv": sys.argv[1:], "environ": dict(os.environ), "cwd": os.getcwd(), "path": sys.path[0], "name": __name__}
said |= {"hash": hash("site"), "random": [random.random(), numpy.random.rand()], "parent": os.getppid()}
said |= {"imported": "decimal" in sys.modules, "main": sys.modules["__main__"].said is said, "file": sys.argv[0]}
said |= {"interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler}
said |= {"fds": os.listdir("/proc/self/fd")}
print(json.dumps(said))
how = sys.argv[1] if sys.argv[1:] else "end"
if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
if how == "abort": os.abort()
if how == "hard": os._exit(9)
if how == "raise": raise KeyError("what was asked")
if how == "sleep": sys.stdout.flush(); time.sleep(60)
if how == "say": sys.exit("error: said on the way out")
if how == "thread": threading.Thread(target=lambda: (time.sleep(0.2), print("after main"))).start()
sys.exit(4 if how == "four" else 0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    (folder / "forked_example.py").write_text(WORKER)
    return folder


@pytest.fixture
def servers(monkeypatch):
    """Fork servers that import little."""
    monkeypatch.setattr(forking, "TRAINING", ("decimal", "numpy"))
    servers = forking.ForkServers()
    monkeypatch.setattr(launch, "start_worker", servers.start)
    yield servers
    servers.close()


def run(how="end", **options):
    return launch.run_workers(["forked_example", how], **options)


@pytest.mark.parametrize(
    "how, code, words",
    [
        ("end", 0, ""),
        ("four", 4, ""),
        ("kill", -9, ""),
        ("abort", -6, "Fatal Python error: Aborted\n"),
        ("hard", 9, ""),
        ("raise", 1, "KeyError: 'what was asked'\n"),
        ("say", 1, "error: said on the way out\n"),
    ],
)
def test_the_exit_code_and_the_output_are_those_of_a_plain_start(servers, monkeypatch, folder, how, code, words):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    forked = run(how)
    monkeypatch.setattr(launch, "start_worker", launch.start_python)
    plain = run(how)
    assert [worker.returncode for worker in forked + plain] == [code] * 4
    for worker in forked + plain:
        assert words in worker.output
        assert ('{"argv": ' in worker.output) == (code in (0, 1, 4)), "flushed at an exit, lost otherwise"


def test_a_worker_finds_what_python_m_would_give_it(servers, monkeypatch, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SAID_TO_ALL", "yes")
    forked = [json.loads(one.output) for one in run(sites=(2,), per_rank={1: ["more"]}, environ={"OF_THIS": "one"})]
    monkeypatch.setattr(launch, "start_worker", launch.start_python)
    plain = [json.loads(one.output) for one in run(sites=(2,), per_rank={1: ["more"]}, environ={"OF_THIS": "one"})]
    for one, other in zip(forked, plain, strict=True):
        for record in (one, other):
            record["environ"].pop("MASTER_PORT")
        for name in ("argv", "environ", "cwd", "path", "name", "main", "file", "interrupt"):
            assert one[name] == other[name], name
        assert (one["imported"], other["imported"]) == (True, False)
        assert len(one["fds"]) == len(other["fds"]), "nothing of the server stays open in a worker"


def test_ranks_hash_and_draw_differently_as_plain_ones_do(servers, monkeypatch, folder):
    monkeypatch.chdir(folder)
    records = [json.loads(one.output) for _ in range(2) for one in run()]
    assert records[0]["hash"] == records[2]["hash"] != records[1]["hash"]
    assert len({drawn for record in records for drawn in record["random"]}) == 8
    assert records[0]["parent"] == records[2]["parent"] != records[1]["parent"]


def test_output_after_main_is_waited_for(servers, monkeypatch, folder):
    monkeypatch.chdir(folder)
    assert [one.output.splitlines()[-1] for one in run("thread")] == ["after main"] * 2


def test_all_are_killed_and_their_output_shown_when_the_time_is_over(servers, monkeypatch, folder):
    monkeypatch.chdir(folder)
    begin = time.monotonic()
    with pytest.raises(TimeoutError) as raised:
        run("sleep", timeout_s=2)
    assert time.monotonic() - begin < 10
    records = [json.loads(line) for line in str(raised.value).splitlines() if line.startswith("{")]
    assert [record["environ"]["RANK"] for record in records] == ["0", "1"]
    assert [one.returncode for one in run()] == [0, 0], "the servers live on"


def test_what_an_import_may_read_gets_servers_of_its_own(servers, monkeypatch, folder):
    monkeypatch.chdir(folder)
    parents = [
        json.loads(run(sites=(1,), environ=environ)[0].output)["parent"]
        for environ in ({}, {"GEO_ACCEL_SITE": "here"}, {"HF_HUB_OFFLINE": "0"}, {})
    ]
    assert parents[0] == parents[1] == parents[3] != parents[2]


def test_the_number_of_servers_is_bounded(servers, monkeypatch, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(forking, "MOST_SERVERS", 2)
    parents = {json.loads(run(sites=(1,), environ={"OF_THIS": f"{one}"})[0].output)["parent"] for one in range(3)}
    assert [Path(f"/proc/{parent}").exists() for parent in sorted(parents)].count(True) == 2


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("import os; os.environ.get('RANK')", "error: importing forked_import reads RANK: not late"),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "started threads"),
        ("raise ImportError('not here')", "ImportError: not here"),
    ],
)
def test_a_server_that_must_not_fork_says_why(servers, monkeypatch, tmp_path, text, complaint):
    (tmp_path / "forked_import.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forking, "TRAINING", ("forked_import",))
    with pytest.raises(RuntimeError, match=f"(?s)a fork server died: .*{complaint}"):
        run()


def test_nothing_is_left_when_the_tests_are_killed(folder):
    script = (
        "import sys; from tests.workers import forking, launch; forking.TRAINING = ()\n"
        "launch.start_worker = forking.ForkServers().start; launch.run_workers(['forked_example', 'sleep'])"
    )
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryFile() as output:
        tests = subprocess.Popen([sys.executable, "-c", script], cwd=folder, stdout=output, env=environ)
        try:
            deadline = time.monotonic() + 20
            while len(found := descendants(tests.pid)) < 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(found) == 4, "two servers and their workers"
        finally:
            tests.send_signal(signal.SIGKILL)
            tests.wait()
        while any(map(_runs, found)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(_runs, found))


def test_a_worker_that_came_through_the_door_ends_as_its_command_and_with_it(servers, folder):
    with servers.door() as command:
        how = {"cwd": folder, "stdout": subprocess.PIPE, "text": True}
        done = subprocess.run([*command, "forked_example", "four"], check=False, **how)
        assert (done.returncode, json.loads(done.stdout)["argv"]) == (4, ["four"])
        assert subprocess.run([*command, "forked_example", "kill"], check=False, **how).returncode == -9
        with subprocess.Popen([*command, "forked_example", "sleep"], **how) as asleep:
            assert json.loads(asleep.stdout.readline())["imported"]
            asleep.kill()
            assert asleep.stdout.read() == "", "the pipe ends when the worker has ended"


def test_what_differs_between_ranks_is_late():
    for variable in ("RANK", "LOCAL_RANK", "MASTER_PORT", "GEO_ACCEL_SITE", "PYTEST_CURRENT_TEST"):
        assert is_late(variable)
    for variable in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "PYTHONPATH", "DS_ACCELERATOR"):
        assert not is_late(variable)


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
