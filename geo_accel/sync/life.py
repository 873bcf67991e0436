# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""An engine's life as a table of states. Pure, but for what is done when a site is lost."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from geo_accel.transport.errors import SiteLostError

TRANSITIONS: dict[str, dict[str, str]] = {
    # No boundary has come yet.
    "new": {"boundary": "measuring", "plan": "running", "lost": "lost", "close": "closed"},
    # Steps run unsynchronised, until there is a plan.
    "measuring": {"boundary": "measuring", "plan": "running", "lost": "lost", "close": "closed"},
    # Rounds run as the plan says; another plan may take its place.
    "running": {"boundary": "running", "plan": "running", "lost": "lost", "close": "closed"},
    # Whatever would wait for other sites raises what broke.
    "lost": {"lost": "lost", "close": "closed"},
    "closed": {"close": "closed"},
}
"""By state and event, the state that follows."""


class Life:
    """Where an engine stands, and what ended it."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        """`on_lost()` is called once, when a site is lost."""
        self.state = "new"
        self.lost: SiteLostError | None = None
        self._on_lost = on_lost

    def comes(self, event: str) -> None:
        assert event in TRANSITIONS[self.state], f"{event} in state {self.state}"
        self.state = TRANSITIONS[self.state][event]

    def require(self) -> None:
        """Raises the SiteLostError that ended it."""
        if self.lost is not None:
            raise self.lost

    @contextmanager
    def losing_sites(self) -> Generator[None]:
        """Remembers a SiteLostError, so that every later call raises it again instead of waiting for the lost."""
        try:
            yield
        except SiteLostError as error:
            first, self.lost = self.lost is None, error
            if first:
                self.comes("lost")
                self._on_lost()
            raise
