# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A site's key file, and what it proves: who is at the other end of a connection.

One file holds a line of JSON (for people and early errors), the site's private key, its certificate, and the
certificate of the run's own authority. Nobody else's signature counts; names in certificates are those of sites.
"""

import hashlib
import json
import os
import re
import ssl
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path

VERSION = 1
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\n.*?-----END \1-----\n", re.DOTALL)
_LARGEST = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the first line of a key file says. Only the certificate proves it."""

    site: str
    until: str
    """ISO 8601 with a time zone, when the certificate ends."""
    removed: tuple[str, ...] = ()
    """Serial numbers, in hex, of certificates that the authority has taken back."""

    def to_line(self) -> str:
        content = {"geo_accel_keys": VERSION, "site": self.site, "until": self.until, "removed": list(self.removed)}
        return json.dumps(content) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "About":
        """Raises ValueError for a line that is none."""
        try:
            content = json.loads(line)
            if content["geo_accel_keys"] != VERSION:
                raise ValueError("it is of another version")
            about = cls(site=content["site"], until=content["until"], removed=tuple(content["removed"]))
            is_whole = SITE_NAME.fullmatch(about.site) and all(type(serial) is str for serial in about.removed)
            if not is_whole or about.ends.tzinfo is None:
                raise ValueError("it names no site, or no moment")
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("it lacks what a key file says of itself") from error
        return about

    @property
    def ends(self) -> datetime:
        return datetime.fromisoformat(self.until)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What stands in a key file. That it holds together, and is in date, is not looked at."""

    path: Path
    about: About
    rest: str
    """What follows the first line: it holds the key, which nobody is to see."""
    authority: str
    """PEM."""

    def telling(self, removed: tuple[str, ...]) -> str:
        """The whole text, for a file that names what the authority has taken back."""
        return replace(self.about, removed=removed).to_line() + self.rest

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r}, {self.about!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a site shows, and whom it believes. The file may change afterwards: this stays as it was read."""

    path: Path
    about: About
    authority: str
    """PEM."""
    _server: ssl.SSLContext
    _client: ssl.SSLContext

    @property
    def site(self) -> str:
        return self.about.site

    def server(self) -> ssl.SSLContext:
        """For the end that is dialled. TLS 1.3 alone; the other end must have a certificate of the same authority."""
        return self._server

    def client(self) -> ssl.SSLContext:
        """For the end that dials. Whoever answers is asked for its name afterwards: hosts have none of their own."""
        return self._client


def read_key_file(path: str | PathLike) -> KeyFile:
    """What stands in the key file at `path`, as `geo-accel keys add` writes it.

    Raises ValueError in one line for a file that is missing, readable by others or damaged.
    """
    path = Path(path)
    text = read_secret(path, f"key file {path}", "geo-accel keys add makes one")
    line, _, rest = text.partition("\n")
    blocks: dict[str, list[str]] = {}
    for block in _PEM.finditer(rest):
        blocks.setdefault(block[1], []).append(block[0])
    try:
        about = About.from_line(line)
    except ValueError as error:
        raise ValueError(
            f"{path} is no key file of this version of geo_accel; geo-accel keys add makes one."
        ) from error
    if len(blocks.get("CERTIFICATE", ())) != 2 or not any(name.endswith("PRIVATE KEY") for name in blocks):
        raise ValueError(f"key file {path} is damaged: it should hold a key and two certificates; copy it again.")
    return KeyFile(path, about, rest, blocks["CERTIFICATE"][1])


def read_credentials(path: str | PathLike) -> Credentials:
    """The key file at `path`, proved to hold together: its key, its certificate and its authority's.

    Raises ValueError in one line for a file that is missing, readable by others, damaged or out of date.
    """
    file = read_key_file(path)
    if file.about.ends < datetime.now(timezone.utc):
        raise ValueError(
            f"key file {path}: {file.about.site}'s certificate ended on {file.about.until[:10]}; make a new one with "
            f"geo-accel keys add {file.about.site}."
        )
    server = _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), file)
    server.num_tickets = 0  # nothing is resumed
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client = _filled(client, file)
    shown = _shown_to_itself(file, server, client)
    if shown.site != file.about.site:
        raise ValueError(
            f"key file {path} calls itself {file.about.site}'s, but its certificate is {shown.site}'s: copy it again."
        )
    return Credentials(path=file.path, about=file.about, authority=file.authority, _server=server, _client=client)


def read_secret(path: Path, what: str, makes: str) -> str:
    """A small text that nobody but its owner may read. Raises ValueError in one line; `makes` says how to get one."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_LARGEST).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{what}: {reason}; {makes}.") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{what} can be read by others; make it yours alone: chmod 600 {path}")
    return text


@dataclass(frozen=True, slots=True)
class Shown:
    """What the other end of a connection has proved to be."""

    site: str
    serial: str
    """In hex, as its authority has numbered it."""
    fingerprint: str
    """SHA-256 of the certificate, in hex."""

    @classmethod
    def by(cls, connection: ssl.SSLSocket | ssl.SSLObject) -> "Shown":
        """Once hands have been shaken."""
        certificate, raw = connection.getpeercert(), connection.getpeercert(binary_form=True)
        assert certificate and raw  # both ends require one
        # As OpenSSL gives it: a tuple of tuples of pairs.
        subject: tuple = certificate["subject"]  # pyrefly: ignore[bad-assignment]
        names = [value for part in subject for key, value in part if key == "commonName"]
        return cls(
            names[0] if names else "", str(certificate["serialNumber"]).lower(), hashlib.sha256(raw).hexdigest()
        )


def is_removed(shown: Shown, removed: Sequence[str]) -> bool:
    """Whether the authority has taken the certificate back."""
    return shown.serial.lstrip("0") in {serial.lower().lstrip("0") for serial in removed}


def _filled(context: ssl.SSLContext, file: KeyFile) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        # A password would be asked for at the terminal, and nobody may be there.
        context.load_cert_chain(file.path, password=lambda: b"")
        context.load_verify_locations(cadata=file.authority)
    except ssl.SSLError as error:
        raise ValueError(
            f"key file {file.path}: its key and certificates do not belong together "
            f"({error.reason or 'damaged'}); copy it again."
        ) from error
    return context


def _shown_to_itself(file: KeyFile, server: ssl.SSLContext, client: ssl.SSLContext) -> Shown:
    """What others will see: both ends shake hands here, in memory, so that errors come before anybody is dialled."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    try:
        for _ in range(8):  # two each are enough
            for end in list(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLError as error:
        reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
        raise ValueError(
            f"key file {file.path}: its certificate does not hold ({reason}); is this machine's clock right? If it "
            f"is, make a new one with geo-accel keys add {file.about.site}."
        ) from error
    assert not waiting, "TLS in memory takes three messages"
    return Shown.by(ends[0])
