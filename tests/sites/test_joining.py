# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""How a process joins a run, and what is left where it cannot."""

import re
import socket

import pytest

from geo_accel.config.schema import MeetConfig
from geo_accel.sites import joining
from geo_accel.sites.invitation import invitation_of
from geo_accel.sites.joining import join
from tests.sites.point import threads, until
from tests.workers.launch import free_port


@pytest.fixture
def told(keys):
    """What a site is told that holds the meeting point."""
    return {"GEO_ACCEL_MEET": f"listen:127.0.0.1:{free_port()}", "GEO_ACCEL_KEYS": str(keys / "a.pem")}


def refused(environ):
    with pytest.raises(ValueError) as caught:
        join(invitation_of(MeetConfig(), environ), 20.0, environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_site_by_another_name_than_its_key_files(told):
    assert refused(told | {"GEO_ACCEL_SITE": "b"}).startswith("GEO_ACCEL_SITE says b, but the key file ")


def test_what_one_process_of_a_site_cannot_use_ends_all_at_once(told, monkeypatch):
    monkeypatch.setattr(joining, "any_of", lambda group, bits: 1)  # as where another one has a problem
    line = refused(told)
    assert re.fullmatch("another process of this site cannot use its key file .*a.pem, and says why: .*", line)


def test_who_is_refused_listens_no_more(told, monkeypatch):
    """So that the same process may try again, with what was wrong put right."""
    before = threads("geo_accel")

    def visit(*_):
        raise ValueError("the meeting point refuses a: as in any refusal")

    monkeypatch.setattr(joining, "Visit", visit)
    for _ in range(2):
        assert refused(told).startswith("the meeting point refuses a")
    until(lambda: threads("geo_accel") == before)
    socket.create_server(invitation_of(MeetConfig(), told).at).close()


def test_what_keeps_the_first_process_from_listening_is_told_to_all_of_the_site(told, monkeypatch):
    def port(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(joining, "Port", port)
    line = refused(told)
    assert line == "the first process of this site cannot open its port: [Errno 28] No space left on device."
