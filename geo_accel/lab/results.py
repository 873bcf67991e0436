# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a run of the lab did: site by site, change by change, and as a whole."""

from dataclasses import asdict, dataclass, field

from geo_accel.lab.changes import State


@dataclass(kw_only=True, slots=True)
class SiteResult:
    """What one site did."""

    name: str
    """site0, site1, ..."""
    wanted_mbps: float | None
    """The rate at which it may send, 10**6 bits per second; None without shaping."""
    wanted_downlink_mbps: float | None = None
    """The rate at which it may receive; None if that was not limited."""
    nat: bool = False
    """Whether it can dial, but cannot be dialled."""
    measured_mbps: float | None = None
    """TCP goodput to the next site that the probe saw before the run. Because of headers it is about 4 % below the
    wanted rate, or below the next site's downlink if that is lower."""
    wanted_latency_ms: float = 0.0
    """One-way delay asked for."""
    measured_rtt_ms: float | None = None
    """Round trip to the next site on an idle link, before the run."""
    exit_code: int | None = None
    """128 + N if signal N ended the command; None if it never started."""
    ended_at_s: float | None = None
    """Seconds from the start of the commands to the end of this one."""
    bytes_sent: int | None = None
    """Bytes that left the site's WAN interface during the run, all headers included; None without shaping."""
    bytes_received: int | None = None
    """Bytes that arrived there."""
    output: str = ""
    """Standard output and standard error, in the order written; empty if the caller took them by `on_output`."""


@dataclass(kw_only=True, slots=True)
class RateChangeResult:
    """What became of one change of the sites' lines."""

    after_s: float | None
    """When it was to happen: seconds from the start of the commands; None for a change by text."""
    after_text: str | None
    """When it was to happen: at the first line that contains this; None for a change by time."""
    mbps: tuple[State, ...]
    """The sites' new rates, in order, 10**6 bits per second, or what else became of their lines."""
    at_s: float | None = None
    """Seconds from the start of the commands until all sites had it; None if it never happened."""


@dataclass(kw_only=True, slots=True)
class LabResult:
    """What a run of the lab did."""

    sites: list[SiteResult]
    """One entry per site, in order."""
    exit_code: int = 0
    """The exit code of the first site, in time, that failed; 0 if none did."""
    duration_s: float = 0.0
    """From the start of the commands to the end of the last one."""
    carrier: str = "none"
    """What joined the sites: bridge, netem, relay (the lab's own) or none (loopback, unshaped)."""
    congestion_control: str | None = None
    """TCP's in the sites; None without shaping."""
    stopped_by: str | None = None
    """SIGINT, SIGTERM or timeout if the run was cut short from outside."""
    rate_changes: list[RateChangeResult] = field(default_factory=list)
    """One entry per change asked for, in the order given."""
    notes: list[str] = field(default_factory=list)
    """What the machine did not allow, and what became of rate changes, one line each."""

    def as_json(self) -> dict:
        """For `--json`: everything but the output."""
        result = asdict(self)
        for site in result["sites"]:
            del site["output"]
        return result
