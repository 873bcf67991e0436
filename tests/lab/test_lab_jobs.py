# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A job per site: what each gets, and that it leads them to each other."""

import sys
from pathlib import Path

import pytest

from geo_accel.lab import make_sites, run_sites
from geo_accel.lab.jobs import job_environment

pytestmark = pytest.mark.timeout(60)
both = pytest.mark.parametrize(
    "shaping", [pytest.param(True, marks=pytest.mark.lab, id="shaped"), pytest.param(False, id="plain")]
)
SPANNING = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "NODE_RANK", "GROUP_RANK")

# Every site that listens answers all others that dial, and each end says who it found at the other.
MEET = """
import os, socket, time
from geo_accel.sites.credentials import Shown, read_credentials

credentials = read_credentials(os.environ["GEO_ACCEL_KEYS"])
assert credentials.site == os.environ["GEO_ACCEL_SITE"]
kind, _, rest = os.environ["GEO_ACCEL_MEET"].rpartition("listen:")
host, _, port = rest.rpartition(":")
print(os.path.dirname(os.environ["GEO_ACCEL_KEYS"]))
if os.environ["GEO_ACCEL_MEET"].startswith("listen:"):
    with socket.create_server((host, int(port))) as server:
        for _ in range(int(os.environ["GEO_ACCEL_EXPECT"]) - 1):
            with credentials.server().wrap_socket(server.accept()[0], server_side=True) as line:
                print(Shown.by(line).site)
                line.sendall(b".")
else:
    for attempt in range(100):
        try:
            raw = socket.create_connection((host, int(port)), timeout=10)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    with credentials.client().wrap_socket(raw) as line:
        line.recv(1)
        print(Shown.by(line).site)
"""


@both
def test_the_jobs_find_and_trust_each_other_and_the_keys_vanish(shaping):
    result = run_sites([sys.executable, "-c", MEET], sites=3, jobs=True, shaping=shaping, verify=False, timeout_s=40)
    assert result.exit_code == 0, result
    folders, *_ = lines = [site.output.split() for site in result.sites]
    assert sorted(lines[0][1:]) == ["site1", "site2"]
    assert [one[1:] for one in lines[1:]] == [["site0"], ["site0"]]
    assert len({one[0] for one in lines}) == 1
    assert not Path(folders[0]).exists()


def test_a_job_gets_nothing_of_one_job_over_all_sites():
    sites = make_sites(3)
    stale = dict.fromkeys(SPANNING, "7")
    first, _, last = [job_environment(site, sites, port=29400, base={"HOME": "/h", **stale}) for site in sites]
    assert not set(SPANNING) & set(first)
    assert first["HOME"] == "/h"
    wanted = {"GEO_ACCEL_SITE": "site0", "GEO_ACCEL_MEET": "listen:29400", "GEO_ACCEL_EXPECT": "3"}
    assert wanted.items() <= first.items()
    wanted = {"GEO_ACCEL_SITE": "site2", "GEO_ACCEL_MEET": "10.77.0.1:29400", "GEO_ACCEL_EXPECT": "3"}
    assert wanted.items() <= last.items()
    # The ranks of one job are on one machine, and on the shared loopback nothing listens for others.
    assert last["GLOO_SOCKET_IFNAME"] == "lo"
    sites = make_sites(2, shaping=False)
    assert job_environment(sites[0], sites, port=4, base={})["GEO_ACCEL_MEET"] == "listen:127.0.0.1:4"


def test_what_users_set_themselves_wins():
    mine = {"GEO_ACCEL_MEET": "hub:1", "GEO_ACCEL_EXPECT": "9", "GEO_ACCEL_KEYS": "my.pem", "GEO_ACCEL_SITE": "me"}
    script = 'echo "$GEO_ACCEL_MEET $GEO_ACCEL_EXPECT $GEO_ACCEL_KEYS $GEO_ACCEL_SITE"'
    result = run_sites(["/bin/sh", "-c", script], jobs=True, shaping=False, env=mine, timeout_s=30)
    assert [site.output.split() for site in result.sites] == [["hub:1", "9", "my.pem", "me"]] * 2


@pytest.mark.lab
def test_jobs_share_no_memory_by_name():
    script = "echo > /dev/shm/{site}; sleep 0.5; ls /dev/shm; ls -d /dev/shm/.. >/dev/null"
    result = run_sites(["sh", "-c", script], jobs=True, verify=False, timeout_s=30)
    assert [site.output.split() for site in result.sites] == [["site0"], ["site1"]]
