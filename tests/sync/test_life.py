# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
import pytest

from geo_accel.sync.life import TRANSITIONS, Life
from geo_accel.transport.errors import SiteLostError


def test_every_state_that_follows_is_in_the_table_and_every_state_can_end():
    for events in TRANSITIONS.values():
        assert set(events.values()) <= set(TRANSITIONS) and "closed" in events.values()


def test_a_life_as_it_usually_is():
    life = Life(on_lost=lambda: None)
    seen = []
    for event in ("boundary", "boundary", "plan", "boundary", "plan", "close"):
        life.comes(event)
        seen.append(life.state)
    assert seen == ["measuring", "measuring", "running", "running", "running", "closed"]
    with pytest.raises(AssertionError, match="plan in state closed"):
        life.comes("plan")


def test_a_lost_site_ends_it_once_and_is_raised_ever_after():
    calls = []
    life = Life(on_lost=lambda: calls.append(life.state))
    life.require()
    for said in ("site1 is gone", "site1 is still gone"):
        with pytest.raises(SiteLostError), life.losing_sites():
            raise SiteLostError(said)
    assert calls == ["lost"] and life.state == "lost"
    with pytest.raises(SiteLostError):
        life.require()
    life.comes("close")


def test_other_errors_end_nothing():
    life = Life(on_lost=lambda: pytest.fail("nobody was lost"))
    with pytest.raises(ValueError), life.losing_sites():
        raise ValueError("not finite")
    assert life.state == "new" and life.lost is None
