# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""What a site was told of the meeting: where it is, which key file is the site's, how many are expected."""

from collections.abc import Mapping
from dataclasses import dataclass

from geo_accel.config.names import AUTO
from geo_accel.config.schema import MeetConfig

MEET_VARIABLE, KEYS_VARIABLE, EXPECT_VARIABLE = "GEO_ACCEL_MEET", "GEO_ACCEL_KEYS", "GEO_ACCEL_EXPECT"
_HERE = "listen:"

Address = tuple[str, int]
"""A host's name or address, "" for all of this machine's, and a port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """One site's."""

    at: Address
    """Where the sites meet."""
    hosts: bool
    """Whether that is here: this site's first process listens there for all."""
    listen: Address | None
    """Where this site can be dialled besides."""
    keys: str
    """The path of its key file."""
    expect: int | None


def invitation_of(config: MeetConfig, environ: Mapping[str, str]) -> Invitation | None:
    """From the config and the environment, which wins; None where one job spans all sites.

    Raises ValueError in one line for what cannot be meant.
    """
    at, where = _told(environ, MEET_VARIABLE, config.at, "meet.at")
    keys, _ = _told(environ, KEYS_VARIABLE, config.keys, "meet.keys")
    told, by = _told(environ, EXPECT_VARIABLE, config.expect, "meet.expect")
    if at is None:
        alone = next((name for name, one in ((KEYS_VARIABLE, keys), (EXPECT_VARIABLE, told)) if one is not None), None)
        if alone is not None:
            raise ValueError(
                f"{alone} is set without {MEET_VARIABLE}, which says where the sites meet: set it, or start one job "
                "over all sites and leave both out."
            )
        return None
    if keys is None:
        raise ValueError(
            f"{KEYS_VARIABLE} (or meet.keys) is missing: the site's key file, which geo-accel keys add writes; "
            f"{where} needs it."
        )
    hosts = at.startswith(_HERE)
    allowed = "host:port, or listen:port at the site that the others come to"
    address = address_of(at, where, allowed, may_lack_host=hosts)
    listen = None
    if config.listen != AUTO:
        listen = address_of(config.listen, "meet.listen", "host:port or :port", may_lack_host=True)
    try:
        expect = None if told is None else int(told)
    except ValueError:
        expect = 0
    if expect is not None and expect < 2:
        raise ValueError(f"{by}: got {told!r}; allowed: a whole number >= 2, of sites")
    return Invitation(at=address, hosts=hosts, listen=listen, keys=keys, expect=expect)


def address_of(text: str, where: str, allowed: str, *, may_lack_host: bool = False) -> Address:
    """host:port, [IPv6]:port, and where the host may be lacking :port, port and any of these after "listen:".

    ValueError names `where`.
    """
    host, _, number = (text.removeprefix(_HERE) if may_lack_host else text).rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    good = number.isascii() and number.isdigit() and 0 < int(number) < 65536 and (bare == host) != (":" in bare)
    if not good or not (_could_resolve(bare) or (may_lack_host and not bare)):
        raise ValueError(f"{where}: got {text!r}; allowed: {allowed}")
    return bare, int(number)


def _could_resolve(host: str) -> bool:
    """Whether `host` is written as a name or an address; of others Python's errors do not say which."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return bool(host) and not any(c.isspace() or not c.isprintable() or c in "/@" for c in host)


def address_text(address: Address) -> str:
    """As `address_of` reads it."""
    host, number = address
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def _told(environ: Mapping[str, str], variable: str, setting: object, key: str) -> tuple[str | None, str]:
    """What was said, and where."""
    if environ.get(variable):
        return environ[variable], variable
    return (None, key) if setting == AUTO else (str(setting), key)
