# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""The engine: runs the plan at step boundaries.

Order on every rank comes from the plan and the step counter alone; timing decides nothing. One thread (`Rounds`)
talks to the other sites, in that order.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from torch import nn

from geo_accel.config import GeoConfig
from geo_accel.plan.choose import BYTES_PER_VALUE, Request, choose_plan, exchange_for
from geo_accel.plan.plan import Piece, Plan
from geo_accel.profile.link import Link, probe_link
from geo_accel.profile.step import StepTimer
from geo_accel.sync.handshake import require_same
from geo_accel.sync.masters import PlainMasters
from geo_accel.sync.outer import Mean, Nesterov
from geo_accel.sync.rounds import Round, Rounds
from geo_accel.sync.trace import Trace
from geo_accel.transport.errors import SiteLostError
from geo_accel.transport.gloo import GlooTransport
from geo_accel.transport.store import ControlPlane
from geo_accel.units import averaged_buffers, find_units

logger = logging.getLogger("geo_accel")

# Elements per round of a flush: enough to fill any link, little enough that staging stays small.
FLUSH_ELEMENTS = 16 * 1024 * 1024


class Engine:
    """Keeps one model's replicas together across sites.

    Call `step()` after every optimizer update (a skipped fp16 step counts) and `flush()` before evaluation, saving and
    the end. All methods are collective: every rank calls them at the same point. When a site is lost, `step` and
    `flush` raise SiteLostError naming it; the weights then hold this site's own progress.
    """

    def __init__(
        self, model: nn.Module, config: GeoConfig, transport: GlooTransport, control: ControlPlane, **facts: object
    ) -> None:
        """`model` is the bare model, not its DDP wrapper. `facts` must be the same everywhere, like the config.

        Raises ValueError, on every rank alike, where sites disagree on config, model or initial weights.
        """
        self.topology = transport.topology
        self.config = config
        self.units = find_units(model)
        require_same(control, self.topology, config, self.units, facts)
        self._model = model
        self._transport = transport
        self.control = control
        self._trace = Trace.from_environment(self.topology.rank, self.topology.site.name)
        masters = PlainMasters(self.units, self.topology)
        outer = config.sync.outer
        step = (
            Nesterov(masters.size if self.topology.carries else 0, outer.lr, outer.momentum)
            if getattr(outer, "type", outer) == "nesterov"
            else Mean()
        )
        self._rounds = Rounds(masters, transport, step, self._trace)
        self._rounds.reset_anchor()
        self._request = Request(
            mode=config.sync.mode,
            period=config.sync.period,
            schedule=config.sync.schedule,
            delay=config.sync.delay,
            codec=config.compression.codec,
        )
        self.plan: Plan | None = None
        self.link: Link | None = None
        self.on_plan: list[Callable[[Plan], None]] = []
        """Called with every plan that is adopted."""
        self.step_count = 0
        self.exposed_s = 0.0
        """Seconds that training has waited for the WAN at step boundaries, flushes not counted."""
        self.flush_s = 0.0
        self.adopted = 1
        """The step boundary, counted from 1, at which the plan's first step was run."""
        self._flushed_at = 0
        self._in_flight: list[Round] = []
        self._broken: SiteLostError | None = None
        self._timer = StepTimer()
        self._prepared = False
        self._boundary: float | None = None
        self._planned_since: tuple[float, float] | None = None
        self.step_s: float | None = None
        """Measured seconds of a step without WAN; None where nothing was measured."""

    def step(self) -> None:
        """One step boundary: applies what is due, then starts what the plan starts here."""
        self._check()
        if not self._prepared:
            self._prepare()
        now = perf_counter()
        if self._boundary is not None:
            self._trace.add("step", f"step {self.step_count + 1}", self._boundary, now)
            if self.plan is None:
                self._timer.add(now - self._boundary)
        self.step_count += 1
        if self.plan is None and self._timer.done:
            self.step_s = max(self.control.gather("timing steps", self._timer.step_s))
            self._adopt(self._choose(), at=self.step_count)
        if self.plan is not None:
            self._run_plan()
        self._boundary = perf_counter()

    def _prepare(self) -> None:
        """Plans, where nothing has to be measured; else probes the link, and steps are timed from here on."""
        self._prepared = True
        if self._request.needs_measurement:
            self.link = self._probe()
        else:
            self._adopt(self._choose(), at=self.step_count + 1)

    def _run_plan(self) -> None:
        plan = self.plan
        with self._losing_sites():
            while self._in_flight and self._in_flight[0].due <= self.step_count:
                self.exposed_s += self._rounds.apply(self._in_flight.pop(0))
            pieces = plan.starts[(self.step_count - self.adopted) % plan.period]
            if not pieces:
                return
            running = self._rounds.start(
                pieces, codec=plan.codec, exchange=plan.exchange, step=self.step_count, delay=plan.delay
            )
            if plan.delay == 0:
                self.exposed_s += self._rounds.apply(running)
            else:
                self._in_flight.append(running)

    def flush(self) -> None:
        """Finishes what is in flight, then one exact full average: afterwards all sites hold the same bits.

        Does nothing where no step has passed since the last flush.
        """
        self._check()
        if self._flushed_at == self.step_count:
            return
        start = perf_counter()
        self.settle()
        with self._losing_sites():
            exchange = exchange_for(len(self.topology.sites))
            for pieces in self._flush_sets():
                running = self._rounds.start(
                    pieces, codec="fp32", exchange=exchange, step=self.step_count, delay=0, outer=False
                )
                self._rounds.apply(running)
            self._rounds.average_buffers(averaged_buffers(self._model))
        # Low-precision parameters round what they are given: the anchor is what they hold.
        self._rounds.reset_anchor()
        self._flushed_at = self.step_count
        stop = perf_counter()
        self._trace.add("flush", "flush", start, stop)
        self.flush_s += stop - start
        self._boundary = None  # what follows (evaluation, saving) is no training step

    def settle(self) -> None:
        """Finishes and applies what is in flight."""
        with self._losing_sites():
            while self._in_flight:
                self._rounds.apply(self._in_flight.pop(0))

    def restore(self, *, step: int, adopted: int, plan: Plan | None, outer_state: torch.Tensor | None) -> None:
        """Continues at step boundary `step` with weights that every site has just loaded alike."""
        assert not self._in_flight
        self._rounds.reset_anchor()
        if outer_state is not None and self.outer_state is not None:
            self.outer_state.copy_(outer_state)
        self.step_count = self._flushed_at = step
        self._boundary = None
        if plan is not None:
            self._prepared = True
            self._adopt(plan, at=adopted)
        elif self.plan is not None:
            self.adopted = step + 1

    def close(self) -> None:
        """Ends the background thread and writes the trace, if one is wanted. Does not flush."""
        self._rounds.close()
        self._trace.save()

    @property
    def outer_state(self) -> torch.Tensor | None:
        """The outer optimizer's state, flat fp32 over this rank's carried vector; None for one without memory."""
        return self._rounds.outer.state

    @property
    def anchor(self) -> torch.Tensor:
        """The last agreed weights, flat fp32 over this rank's carried vector; steady while nothing is in flight."""
        return self._rounds.anchor

    @property
    def wan_bytes(self) -> int:
        """Payload bytes this rank has sent to other sites."""
        return self._transport.bytes_sent

    def metrics(self) -> dict[str, float]:
        """Scalars for the run's tracker."""
        values = {"geo/exposed_s": self.exposed_s, "geo/wan_bytes": float(self.wan_bytes)}
        if self.plan is not None:
            values |= {"geo/period": self.plan.period, "geo/codec_bits": 8 * BYTES_PER_VALUE[self.plan.codec]}
            since, exposed = self._planned_since
            elapsed = perf_counter() - since
            values["geo/efficiency"] = 1 - (self.exposed_s - exposed) / elapsed if elapsed > 0 else 1.0
        if self.link is not None:
            values["geo/link_mbps"] = self.link.megabits_per_second
            values["geo/link_latency_ms"] = self.link.latency_s * 1e3
        return values

    def summary(self) -> dict[str, object]:
        """What was done so far, ready for JSON: plan, bytes, seconds, link."""
        return {
            "plan": json.loads(self.plan.to_json()) if self.plan else None,
            "steps": self.step_count,
            "wan_bytes": self.wan_bytes,
            "exposed_s": self.exposed_s,
            "flush_s": self.flush_s,
            "step_s": self.step_s,
            "link_mbps": self.link.megabits_per_second if self.link else None,
            "link_latency_ms": self.link.latency_s * 1e3 if self.link else None,
            "sites": [site.name for site in self.topology.sites],
        }

    def _flush_sets(self) -> list[tuple[Piece, ...]]:
        sets: list[list[Piece]] = [[]]
        used = 0
        for unit, (_, length) in enumerate(self._rounds.masters.carried):
            parts = max(1, -(-length // FLUSH_ELEMENTS))
            for part in range(parts):
                if sets[-1] and used + length // parts > FLUSH_ELEMENTS:
                    sets.append([])
                    used = 0
                sets[-1].append(Piece(unit, part, parts))
                used += length // parts
        return [tuple(members) for members in sets]

    def _choose(self) -> Plan:
        def make() -> str:
            return choose_plan(
                self._request, self._rounds.masters.carried, len(self.topology.sites), self.step_s, self.link
            ).to_json()

        return Plan.from_json(self.control.broadcast("planning", make))

    def _adopt(self, plan: Plan, at: int) -> None:
        assert not self._in_flight
        fingerprints = set(self.control.gather("comparing plans", plan.fingerprint))
        assert len(fingerprints) == 1, "rank 0 planned for all, so plans cannot differ"
        self.plan, self.adopted = plan, at
        self._planned_since = (perf_counter(), self.exposed_s)
        logger.info("plan: %s", plan.reason)
        for listener in self.on_plan:
            listener(plan)

    def _probe(self) -> Link:
        """The slowest link of all sites, or what the config states."""
        bandwidth, latency = self.config.link.bandwidth_mbps, self.config.link.latency_ms
        if "auto" not in (bandwidth, latency):
            return Link(latency_s=latency * 1e-3, seconds_per_byte=8e-6 / bandwidth)

        def exchange(nbytes: int) -> float:
            return max(self.control.gather("probing the link", self._rounds.time_transfer(nbytes)))

        with self._losing_sites():
            probed = probe_link(exchange)
        return Link(
            latency_s=probed.latency_s if latency == "auto" else latency * 1e-3,
            seconds_per_byte=probed.seconds_per_byte if bandwidth == "auto" else 8e-6 / bandwidth,
        )

    def _check(self) -> None:
        """Raises what broke, at the first boundary after it broke."""
        if self._broken is not None:
            raise self._broken
        for running in self._in_flight:
            if running.future.done():
                with self._losing_sites():
                    running.future.result()

    @contextmanager
    def _losing_sites(self) -> Iterator[None]:
        """Remembers a SiteLostError, so that every later call raises it again instead of waiting for the lost."""
        try:
            yield
        except SiteLostError as error:
            self._broken = error
            self._rounds.close()
            raise
