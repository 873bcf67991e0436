# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How runs end: exit codes, grace, timeouts, signals, and what is left behind (nothing). Needs namespaces in part."""

import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest

from geo_accel.lab import LabUnavailable, run_sites, why_unavailable
from geo_accel.lab import namespaces as namespaces_module
from tests.processes import descendants, eventually, processes_with

pytestmark = pytest.mark.timeout(60)
shaped = pytest.mark.lab
both = pytest.mark.parametrize(
    "shaping", [pytest.param(True, marks=shaped, id="shaped"), pytest.param(False, id="plain")]
)
ROOT = Path(__file__).parents[2]


def run(script: str, shaping: bool, **settings: object):
    return run_sites(["sh", "-c", script], shaping=shaping, verify=False, **{"timeout_s": 30, **settings})


def network_namespaces(pids: Iterable[int | str] = ("[0-9]*",)) -> set[str]:
    found = set()
    for entry in chain.from_iterable(Path("/proc").glob(f"{pid}/ns/net") for pid in pids):
        try:
            found.add(os.readlink(entry))
        except OSError:
            continue
    return found


@both
def test_exit_codes_and_outputs_are_those_of_the_sites(shaping):
    result = run('echo "hello from {site}" >&2; exit {rank}', shaping, sites=3)
    assert [site.exit_code for site in result.sites] == [0, 1, 2]
    assert [site.output for site in result.sites] == [f"hello from site{index}\n" for index in range(3)]
    assert result.exit_code in (1, 2)
    assert result.stopped_by is None


@both
def test_the_first_failure_in_time_gives_the_exit_code(shaping):
    assert run("[ {rank} = 0 ] && sleep 0.7; exit {rank}7", shaping, grace_s=10).exit_code == 17


@both
def test_death_by_a_signal_is_128_plus_its_number(shaping):
    assert run("kill -SEGV $$", shaping).sites[1].exit_code == 128 + signal.SIGSEGV


@both
def test_survivors_get_their_grace(shaping):
    result = run("[ {rank} = 1 ] && exit 3; sleep 1.5; echo finished; exit 5", shaping, grace_s=20)
    assert [site.exit_code for site in result.sites] == [5, 3]
    assert "finished" in result.sites[0].output
    assert result.exit_code == 3


@both
def test_survivors_are_ended_after_their_grace(shaping):
    result = run("[ {rank} = 1 ] && exit 3; exec sleep 60", shaping, grace_s=1)
    assert [site.exit_code for site in result.sites] == [128 + signal.SIGTERM, 3]
    assert result.exit_code == 3
    assert 0.9 < result.sites[0].ended_at_s < 5


@pytest.mark.slow
def test_a_site_that_ignores_everything_is_killed():
    result = run("trap '' TERM; [ {rank} = 1 ] && exit 3; while :; do sleep 0.2; done", shaping=False, grace_s=0.5)
    assert [site.exit_code for site in result.sites] == [128 + signal.SIGKILL, 3]


@both
def test_a_site_that_ends_well_does_not_end_the_others(shaping):
    result = run("[ {rank} = 1 ] && exit 0; sleep 1; echo finished", shaping, grace_s=0)
    assert result.exit_code == 0
    assert result.sites[0].output == "finished\n"


@both
def test_a_timeout_ends_all_and_says_so(shaping):
    begin = time.monotonic()
    result = run("exec sleep 60", shaping, timeout_s=1)
    assert result.stopped_by == "timeout"
    assert result.exit_code == 128 + signal.SIGTERM
    assert time.monotonic() - begin < 15


@both
def test_what_a_site_leaves_in_the_background_is_ended_too(shaping):
    marker = f"{secrets.randbelow(10**6) + 10**6}"
    result = run(f"setsid sleep {marker} & sleep 0.3", shaping)
    assert result.exit_code == 0
    assert eventually(lambda: not processes_with(f"sleep {marker}"))


@both
def test_the_environment_and_folder_of_the_caller_are_the_sites(shaping, tmp_path):
    result = run(
        'pwd; echo "$WORD $RANK"', shaping, env={"PATH": os.environ["PATH"], "WORD": "of mouth"}, cwd=tmp_path
    )
    assert result.sites[1].output == f"{tmp_path}\nof mouth 1\n"


def test_a_command_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="command not found: no-such-command"):
        run_sites(["no-such-command"], shaping=False)


def test_large_output_does_not_block():
    result = run("head -c 3000000 /dev/zero | tr '\\0' x", shaping=False)
    assert [len(site.output) for site in result.sites] == [3_000_000] * 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[
            pytest.param(name, ["--one-job"], marks=shaped, id=f"{name}-shaped")
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
        ],
        pytest.param("SIGKILL", ["--one-job", "--latency-ms", "2"], marks=shaped, id="SIGKILL-relay"),
        pytest.param("SIGINT", ["--one-job", "--no-shaping"], id="SIGINT-plain"),
        pytest.param("SIGKILL", ["--one-job", "--no-shaping"], id="SIGKILL-plain"),
        pytest.param("SIGKILL", [], marks=shaped, id="SIGKILL-jobs"),
        pytest.param("SIGINT", ["--no-shaping"], id="SIGINT-plain-jobs"),
    ],
)
def test_whatever_ends_the_command_nothing_is_left(name, options):
    marker = f"{secrets.randbelow(10**6) + 10**6}"
    here = network_namespaces(["self"])
    # The sleeping grandchild in a session of its own is the hardest to find.
    script = f"setsid sleep {marker} & echo ready $GEO_ACCEL_KEYS; exec sleep {marker}"
    lab = subprocess.Popen(
        [sys.executable, "-m", "geo_accel.commands.main", "lab", *options, "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        assert "ready" in lab.stdout.readline()
        said = lab.stdout.readline()
        assert "ready" in said
        keys = Path(said.split()[-1])
        assert keys.exists() == ("--one-job" not in options)
        # A shell that said "ready" may not be the sleeper yet.
        assert eventually(lambda: len(processes_with(f"sleep {marker}")) >= 4), processes_with(marker)
        made = network_namespaces(descendants(lab.pid)) - here
        assert bool(made) == ("--no-shaping" not in options)
        lab.send_signal(getattr(signal, name))
        assert lab.wait(timeout=20) == (-9 if name == "SIGKILL" else 128 + getattr(signal, name))
        assert eventually(lambda: not processes_with(marker)), processes_with(marker)
        assert eventually(lambda: not network_namespaces() & made)
        assert eventually(lambda: not keys.parent.exists() or "--one-job" in options)
    finally:
        lab.kill()
        lab.wait()
        lab.stdout.close()


@pytest.mark.lab
def test_death_of_the_supervisor_is_reported_and_leaves_nothing():
    # From inside, process 1 cannot be killed: the kill comes from outside, as an out-of-memory kill would.
    marker = f"{secrets.randbelow(10**6) + 10**6}"
    script = (
        "import os, signal, sys, threading, time\n"
        "from geo_accel.lab import Lab, make_sites\n"
        f"lab = Lab(['sleep', '{marker}'], make_sites(2), verify=False)\n"
        "killer = threading.Timer(2.5, lambda: lab.supervisor.kill())\n"
        "killer.start()\n"
        "try: lab.run()\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert "supervisor died" in done.stdout, done
    assert eventually(lambda: not processes_with(marker))


def test_missing_tools_are_named_with_their_package(monkeypatch, tmp_path):
    (tmp_path / "unshare").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(namespaces_module, "_SYSTEM_FOLDERS", str(tmp_path))
    assert why_unavailable() == "the command 'ip' was not found; install the package iproute2"
    with pytest.raises(LabUnavailable, match="iproute2"):
        run_sites(["/bin/sh", "-c", "true"])
    # Without shaping none of it is needed.
    assert run_sites(["/bin/sh", "-c", "exit 0"], shaping=False).exit_code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights")
def test_refused_namespaces_are_explained_in_one_line_with_a_way_out():
    command = [sys.executable, "-m", "geo_accel.commands.main", "lab", "--", "true"]
    without_rights = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    done = subprocess.run([*without_rights, *command], capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert "namespaces are not allowed" in line
    assert "--no-shaping" in line


@pytest.mark.lab
@pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root to become another user; otherwise all tests run unprivileged"
)
def test_an_ordinary_user_can_run_the_lab():
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    script = (
        "from geo_accel.lab import run_sites, why_unavailable; import sys; r = why_unavailable(); r and sys.exit(r)\n"
    )
    script += "r = run_sites(['sh', '-c', 'hostname; cat /sys/class/net/wan0/statistics/tx_bytes'], latency_ms=2)\n"
    script += "print(r.exit_code, r.notes, [s.output.split()[0] for s in r.sites], r.sites[0].measured_mbps > 85)"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*nobody, python, "-S", "-c"]
        # setpriv's own exec still has root's rights: only a second one shows whether nobody may run this Python.
        trial = "import os, sys, geo_accel.lab; os.execv(sys.executable, [sys.executable, '-S', '-c', ''])"
        able = subprocess.run([*command, trial], env=environment, capture_output=True, cwd="/")
        if able.returncode == 0:
            break
    else:
        pytest.skip(f"user 65534 may not read Python or {ROOT}")
    done = subprocess.run([*command, script], env=environment, capture_output=True, text=True, cwd="/", timeout=45)
    if done.returncode != 0 and "namespaces" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout.strip() == "0 [] ['site0', 'site1'] True", done.stderr
