# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A site's key file, and what it proves: who is at the other end of a connection.

One file holds a line of JSON (for people and early errors), the site's private key, its certificate, and the
certificate of the run's own authority. Nobody else's signature counts; names in certificates are those of sites.
"""

import hashlib
import json
import re
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path

VERSION = 1
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\n.*?-----END \1-----\n", re.DOTALL)
_LARGEST = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the first line of a key file says. Only the certificate proves it."""

    site: str
    until: str
    """ISO 8601, when the certificate ends."""
    removed: tuple[str, ...] = ()
    """Serial numbers, in hex, of certificates that the authority has taken back."""

    def to_line(self) -> str:
        content = {"geo_accel_keys": VERSION, "site": self.site, "until": self.until, "removed": list(self.removed)}
        return json.dumps(content) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "About":
        """Raises ValueError for a line that is none."""
        content = json.loads(line)
        if not isinstance(content, dict) or content.get("geo_accel_keys") != VERSION:
            raise ValueError("it is of another version")
        site, until, removed = content["site"], content["until"], content["removed"]
        datetime.fromisoformat(until)
        return cls(site=str(site), until=str(until), removed=tuple(map(str, removed)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a site shows, and whom it believes."""

    path: Path
    about: About
    authority: str
    """PEM."""

    @property
    def site(self) -> str:
        return self.about.site

    def server(self) -> ssl.SSLContext:
        """For the end that is dialled. TLS 1.3 alone; the other end must have a certificate of the same authority."""
        context = self._filled(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.num_tickets = 0  # nothing is resumed
        return context

    def client(self) -> ssl.SSLContext:
        """For the end that dials. Whoever answers is asked for its name afterwards: hosts have none of their own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        return self._filled(context)

    def _filled(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(self.path)
            context.load_verify_locations(cadata=self.authority)
        except ssl.SSLError as error:
            raise ValueError(f"{self.path}: key and certificates do not belong together ({error.reason}).") from error
        return context


def read_credentials(path: str | PathLike, now: datetime | None = None) -> Credentials:
    """The key file at `path`, as `geo-accel keys add` writes it.

    Raises ValueError in one line for a file that is missing, readable by others, damaged or out of date.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()[:_LARGEST].decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"key file {path}: {reason}; geo-accel keys add makes one.") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"key file {path} can be read by others; make it yours alone: chmod 600 {path}")
    line, _, rest = text.partition("\n")
    blocks: dict[str, list[str]] = {}
    for block in _PEM.finditer(rest):
        blocks.setdefault(block[1], []).append(block[0])
    try:
        about = About.from_line(line)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no key file of this version of geo_accel; geo-accel keys add makes one."
        ) from error
    if len(blocks.get("CERTIFICATE", ())) != 2 or not any(name.endswith("PRIVATE KEY") for name in blocks):
        raise ValueError(f"key file {path} is damaged: it should hold a key and two certificates; copy it again.")
    now = now or datetime.now(timezone.utc)
    if datetime.fromisoformat(about.until) < now:
        raise ValueError(
            f"key file {path}: {about.site}'s certificate ended on {about.until[:10]}; make a new one with "
            f"geo-accel keys add {about.site}."
        )
    return Credentials(path=path, about=about, authority=blocks["CERTIFICATE"][1])


@dataclass(frozen=True, slots=True)
class Shown:
    """What the other end of a connection has proved to be."""

    site: str
    serial: str
    """In hex, as its authority has numbered it."""
    fingerprint: str
    """SHA-256 of the certificate, in hex."""

    @classmethod
    def by(cls, connection: ssl.SSLSocket) -> "Shown":
        """Once hands have been shaken."""
        certificate, raw = connection.getpeercert(), connection.getpeercert(binary_form=True)
        assert certificate and raw  # both ends require one
        names = [value for part in certificate["subject"] for key, value in part if key == "commonName"]
        return cls(
            names[0] if names else "", str(certificate["serialNumber"]).lower(), hashlib.sha256(raw).hexdigest()
        )


def is_removed(shown: Shown, removed: Sequence[str]) -> bool:
    """Whether the authority has taken the certificate back."""
    return shown.serial.lstrip("0") in {serial.lower().lstrip("0") for serial in removed}
