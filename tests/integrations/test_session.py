# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Sessions without a job: sites are threads' ends."""

import pytest

from geo_accel.integrations import session
from geo_accel.integrations.session import Session
from geo_accel.transport.memory import Lines, MemoryTransport
from tests.transport.threads import alone_in_site, message, topology_of


class Job:
    """What stands for the job's process group."""


def test_what_is_closed_is_not_gone_on_with():
    topology, job = topology_of(0, sites=2), Job()
    transport = MemoryTransport(topology, 1.0, Lines())
    one = Session(
        **dict.fromkeys(("config", "control", "site_group")),
        topology=topology,
        transport=transport,
        inside=alone_in_site(transport),
        machines=("0", "1"),
    )
    session._LAST[job] = one
    one.close()
    assert job not in session._LAST
    with pytest.raises(AssertionError, match="after close"):
        transport.swap({}, {}, message())
