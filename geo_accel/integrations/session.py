# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What every integration does first: find the sites, connect them, keep the rest of training inside the site."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeGuard
from weakref import WeakKeyDictionary

import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import nn

from geo_accel.config import AUTO, GeoConfig, load_config
from geo_accel.integrations.launched import refuse_mixture, require_known_ranks
from geo_accel.plan.plan import Plan
from geo_accel.sites.inside import InsideSite
from geo_accel.sites.invitation import MEET_VARIABLE, Invitation, invitation_of
from geo_accel.sites.joining import Joined, join
from geo_accel.sync.engine import Engine
from geo_accel.topology import SITE_VARIABLE, Topology, build_topology, machine_label
from geo_accel.transport.base import Transport
from geo_accel.transport.opening import open_transport
from geo_accel.transport.patience import LONGEST_S, Patience
from geo_accel.transport.privacy import exposure, kernel, refuse_public, ways_of_this_rank
from geo_accel.transport.store import ControlPlane

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

ConfigSource = GeoConfig | Mapping | str | PathLike | None
LONGEST_DEADLINE_S = 7 * 86400.0  # what timers take; longer is forever


@dataclass(slots=True, kw_only=True)
class Session:
    """A connected set of sites."""

    config: GeoConfig
    topology: Topology
    control: ControlPlane
    transport: Transport
    inside: InsideSite
    """The ranks of this site, for the thread that talks to the other sites."""
    site_group: dist.ProcessGroup | None
    """The ranks of this site, with the job's own backend, for the training thread; None in a job of one process that
    has no process groups."""
    machines: tuple[str, ...]
    """By rank, the machine that it runs on."""
    joined: Joined | None = None
    """What holds this site in the run, where it is a job of its own."""

    def engine(self, model: nn.Module, **how: Any) -> Engine:
        """An engine for the bare `model`; the rest as Engine takes it. ValueError where sites differ."""
        engine = Engine(model, self.config, self.transport, self.inside, self.control, **how)
        engine.on_plan.append(lambda plan: announce(engine, plan, self.one_world))
        return engine

    @property
    def one_world(self) -> bool:
        """Whether one job spans all sites, so that what a framework does over all ranks crosses the WAN."""
        return self.transport.one_world

    @property
    def launched(self) -> int:
        """Processes of this job."""
        return self.topology.world_size if self.one_world else len(self.topology.site.ranks)

    @property
    def writes_site(self) -> bool:
        """Whether this rank writes files of its site: the first of the site's ranks on each machine."""
        here = self.machines[self.topology.rank]
        return self.topology.rank == min(rank for rank in self.topology.site.ranks if self.machines[rank] == here)


_LAST: "WeakKeyDictionary[dist.ProcessGroup, Session]" = WeakKeyDictionary()
"""By the job's process group, the session that was made last in it.

It ends with that group, as gloo's groups do, and not before: whoever holds a session may yet make an engine of it.
"""


def _world() -> dist.ProcessGroup:
    world = dist.group.WORLD
    assert world is not None  # torch.distributed is initialised
    return world


def remember(group: dist.ProcessGroup, session: Session) -> None:
    """Keeps `session` for the next engine of the same config, as long as the job's process `group` lives."""
    _LAST[group] = session


def at_rest(group: dist.ProcessGroup, settings: GeoConfig) -> Session | None:
    """The last session, where another engine can go on with it: it was made from the same config, and nothing is on
    its way, since its engines have ended."""
    session = _LAST.get(group)
    return session if session is not None and session.config == settings and not session.transport.users else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a rank says of itself before there are sites."""

    machine: str
    site: str | None
    """Its site's name, where the launcher gives one."""
    exposed: str | None
    """What is wrong with the addresses that others reach it by, unless the config allows that."""
    kernel: str | None

    @classmethod
    def here(cls, settings: GeoConfig, backend: str) -> "Presence":
        """This process's; `backend` is that of the job's process group."""
        exposed = None
        if not settings.resilience.allow_public_plaintext:
            exposed = exposure(ways_of_this_rank(settings.link.interface, "gloo" in backend))
        return cls(machine=machine_label(), site=os.environ.get(SITE_VARIABLE), exposed=exposed, kernel=kernel())


@dataclass(slots=True, kw_only=True)
class Sites:
    """What is known before anything is connected."""

    config: GeoConfig
    topology: Topology
    control: ControlPlane
    machines: tuple[str, ...]
    before: Session | None
    """One that all ranks still hold, with which they can go on."""


def find_sites(config: ConfigSource) -> Sites | None:
    """Agrees with all ranks on which of them form sites. Collective.

    Returns None, and says so, where there is nothing to synchronise: one process, or one site. Raises ConfigError for
    a bad config, ValueError for sites that do not fit the ranks, SiteLostError naming ranks that do not come.
    """
    settings = load_config(config)
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        print(
            "geo_accel is off: this is a single process. To train across sites launch one or more per site, each site "
            f"as a job of its own with {MEET_VARIABLE}, or all as one job.",
            file=sys.stderr,
        )
        return None
    rank = dist.get_rank()
    control = ControlPlane(rank, dist.get_world_size(), deadline_of(settings))
    refuse_mixture(control, None)
    here = Presence.here(settings, str(dist.get_backend()))
    return agree_on_sites(settings, rank, control, here, at_rest(_world(), settings))


def deadline_of(settings: GeoConfig) -> float:
    """Seconds that this run waits for a rank that does not come."""
    wanted = settings.resilience.patience_s
    return LONGEST_S if wanted == AUTO else min(float(wanted), LONGEST_DEADLINE_S)


def patience_of(settings: GeoConfig) -> Patience:
    """How long a peer that is connected may show no progress."""
    return Patience(None if settings.resilience.patience_s == AUTO else deadline_of(settings))


def agree_on_sites(
    settings: GeoConfig, rank: int, control: ControlPlane, here: Presence, before: Session | None = None
) -> Sites | None:
    """What `find_sites` finds over `control`, for a rank of which `here` is true and that could go on with `before`.

    Collective. Names the ranks to `control` by their sites.
    """
    own = [here.machine, here.site, settings.sites, here.exposed, here.kernel, before is not None]
    answers = control.gather("starting", own)
    labels, names, wishes, exposures, kernels, can_go_on = zip(*answers, strict=True)
    odd = next((r for r, wish in enumerate(wishes) if wish != wishes[0]), None)
    if odd is not None:
        raise ValueError(f"config sites is {wishes[0]} on rank 0 and {wishes[odd]} on rank {odd}; they must be equal.")
    topology = build_topology(rank, labels, names, settings.sites)
    if len(topology.sites) == 1:
        if rank == 0:
            print(
                f"geo_accel is off: all {len(answers)} ranks are on one machine, which is one site. To treat them as "
                f"several, set {SITE_VARIABLE} per process, or sites in the config; to meet sites that are jobs of "
                f"their own, set {MEET_VARIABLE}.",
                file=sys.stderr,
            )
        return None
    control.name_of = topology.called
    # All ranks raise, not only the one that is exposed: nobody waits for it.
    refuse_public({control.name_of(r): pair for r, pair in enumerate(zip(exposures, kernels, strict=True))})
    return Sites(
        config=settings,
        topology=topology,
        control=control,
        machines=tuple(map(str, labels)),
        before=before if before is not None and all(can_go_on) and before.topology == topology else None,
    )


def connect(config: ConfigSource) -> Session | None:
    """Connects this rank to its site and its peers, or goes on with the session before if that rests. Collective.

    Returns and raises what `find_sites` does; SiteLostError also for peers whose ports cannot be reached.
    """
    settings = load_config(config)
    invitation = invitation_of(settings.meet, os.environ)
    if invitation is not None:
        return _join(settings, invitation)
    sites = find_sites(settings)
    if sites is None:
        return None
    if sites.before is not None:
        return sites.before
    interface, deadline_s = sites.config.link.interface, deadline_of(sites.config)
    transport = open_transport(sites.topology, patience_of(sites.config), interface)
    inside = InsideSite.in_one_job(sites.topology, deadline_s, interface)
    # Collective over the world: every rank makes every site's group, in site order.
    groups = [dist.new_group(site.ranks) for site in sites.topology.sites]
    site_group = groups[sites.topology.site_index]
    assert isinstance(site_group, dist.ProcessGroup)  # this rank is in it
    session = Session(
        config=sites.config,
        topology=sites.topology,
        control=sites.control,
        transport=transport,
        inside=inside,
        site_group=site_group,
        machines=sites.machines,
    )
    remember(_world(), session)
    return session


_JOINED: list[Session] = []
"""The last session of this process as one of a site that is a job of its own, once it is in: a job joins one run."""


def already_joined() -> Session | None:
    """The session that this process has as one of a site that is a job of its own, if it has joined a run."""
    return _JOINED[0] if _JOINED else None


def of_jobs(config: ConfigSource = None) -> Session | None:
    """This process's session as one of a site that is a job of its own, which joins the run where it has not yet; None
    where one job spans all sites. Collective over all sites, and raises, as `connect` does."""
    joined = already_joined()
    if joined is not None:
        return joined
    settings = load_config(config)
    invitation = invitation_of(settings.meet, os.environ)
    return None if invitation is None else _join(settings, invitation)


def _join(settings: GeoConfig, invitation: Invitation) -> Session:
    """Joins the run, or goes on in it with other settings. Collective over this job."""
    if settings.sites != AUTO:
        raise ValueError(
            f"sites = {settings.sites} splits one job into sites; where each site is a job of its own "
            f"({MEET_VARIABLE} or meet.at) leave it out."
        )
    before = already_joined()
    if before is not None and not before.transport.users:
        return replace(before, config=settings)
    deadline_s = deadline_of(settings)
    if before is None:
        _refuse_other_launches(invitation, deadline_s)
    joined = before.joined if before is not None else join(invitation, deadline_s, os.environ)
    assert joined is not None  # such sessions have it
    connections = joined.connect(deadline_s, patience_of(settings))
    session = Session(
        config=settings,
        topology=joined.topology,
        control=connections.control,
        transport=connections.transport,
        inside=connections.inside,
        site_group=dist.group.WORLD if dist.is_available() and dist.is_initialized() else None,
        machines=joined.machines,
        joined=joined,
    )
    _JOINED[:] = [session]
    return session


def _refuse_other_launches(invitation: Invitation, deadline_s: float) -> None:
    """Raises ValueError where this job is not one site. Collective over it."""
    require_known_ranks()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        refuse_mixture(ControlPlane(dist.get_rank(), dist.get_world_size(), deadline_s), invitation)


def require_everybody(what: str, known: int, launched: int, remedy: str) -> None:
    """Raises ValueError where `what`, which deals the data and reduces gradients, knows of `known` processes only
    where the job has `launched`.

    Accelerate takes a process that torchrun starts on CPUs for the only one, unless it is told that by `remedy`.
    """
    if known != launched:
        raise ValueError(
            f"{what} knows of {known} process(es), but {launched} were launched: each would train alone, "
            f"on the same data. On CPUs give {remedy}, or set ACCELERATE_USE_CPU=true."
        )


def is_deepspeed(model: nn.Module | None) -> "TypeGuard[DeepSpeedEngine]":
    """Whether `model` is a DeepSpeed engine; DeepSpeed is not imported for that."""
    return any(kind.__name__ == "DeepSpeedEngine" for kind in type(model).__mro__)


def announce(engine: Engine, plan: Plan, one_world: bool) -> None:
    """Prints the resolved settings once per plan and job, on its first rank."""
    topology = engine.topology
    if (topology.rank if one_world else topology.local_index) != 0:
        return
    table = Table(title="geo_accel", show_header=False, title_justify="left")
    rows = {
        "sites": ", ".join(f"{site.name} ({len(site.ranks)})" for site in engine.topology.sites),
        "mode": plan.mode,
        "period": f"{plan.period} steps",
        "schedule": plan.schedule,
        "delay": f"{plan.delay} steps",
        "codec": str(plan.averaging),
        "exchange": plan.exchange,
        "outer": str(plan.outer),
        "why": plan.reason,
    }
    took = engine.metrics()
    if engine.planning.profile is not None and "geo/start_to_plan_s" in took:
        rows["measured"] = (
            f"{took['geo/measuring_s']:.1f} s of waiting; {took['geo/start_to_plan_s']:.1f} s from start to plan"
        )
    for key, value in rows.items():
        table.add_row(key, value)
    Console(stderr=True).print(table)
