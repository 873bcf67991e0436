# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A run's own certificate authority: a folder with its key, and a key file for each site. Made once, anywhere.

The authority's certificate and those that it signs are made in `certificates.py`; here stands what is kept of them.
"""

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from geo_accel.profile.document import write_whole
from geo_accel.sites.certificates import new_authority, new_certificate
from geo_accel.sites.credentials import SITE_NAME, About, read_key_file, read_secret

AUTHORITY, ISSUED = "authority.pem", "issued.json"
SITE_DAYS = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate that the authority has signed."""

    site: str
    serial: str
    """In hex."""
    until: str
    """ISO 8601 with a time zone."""
    removed: bool = False

    @classmethod
    def from_json(cls, content: dict) -> "Issued":
        """Raises ValueError or TypeError for what is none."""
        one = cls(**content)
        int(one.serial, 16)
        if not SITE_NAME.fullmatch(one.site) or one.ends.tzinfo is None or type(one.removed) is not bool:
            raise ValueError("not as geo-accel keys writes it")
        return one

    @property
    def ends(self) -> datetime:
        return datetime.fromisoformat(self.until)


def init(folder: Path) -> None:
    """Makes an authority in `folder`, which must not hold one. ValueError otherwise, or without `cryptography`."""
    for name in (AUTHORITY, ISSUED):
        if (folder / name).exists():
            raise ValueError(f"{folder} holds an authority already ({name}); give another folder.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder.")
    text = new_authority()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone_in(folder):
        _write_issued(folder, [])
        _write_secret(folder / AUTHORITY, text)


def add(folder: Path, site: str, days: float = SITE_DAYS, now: datetime | None = None) -> Path:
    """Writes a key file for `site`, and returns its path; an earlier one of that name is taken back.

    `days` are counted from `now`, by default the clock's. Raises ValueError for a folder without an authority, for a
    name that no site can have, and for a time that a certificate cannot last.
    """
    if not SITE_NAME.fullmatch(site):
        raise ValueError(f"{site!r} cannot be a site's name: letters, digits, '.', '_' and '-', 63 at most.")
    if f"{site}.pem".lower() == AUTHORITY:
        raise ValueError(f"no site can be called {site!r}: its key file would be the authority's.")
    path = folder / f"{site}.pem"
    with _alone_in(folder):
        known = issued(folder)
        made = new_certificate(_authority_text(folder), folder, site, days, now or datetime.now(timezone.utc))
        known = [one if one.site != site else replace(one, removed=True) for one in known]
        known.append(Issued(site=site, serial=made.serial, until=made.until.isoformat()))
        # First what says that it exists: whatever comes between, it can be taken back.
        _write_issued(folder, known)
        about = About(site=site, until=made.until.isoformat(), removed=_removed(known))
        _write_secret(path, about.to_line() + made.text)
        _tell_all(folder, known)
    return path


def remove(folder: Path, site: str) -> None:
    """Takes back `site`'s certificates: a meeting point with a key file written from now on refuses them.

    Raises ValueError where there is none.
    """
    with _alone_in(folder):
        known = issued(folder)
        if not any(one.site == site and not one.removed for one in known):
            names = ", ".join(sorted({one.site for one in known if not one.removed})) or "none"
            raise ValueError(f"{folder} has no certificate of {site!r} to remove; it has {names}.")
        known = [replace(one, removed=True) if one.site == site else one for one in known]
        # Last what says that it is done: after a crash the same command does the rest.
        _tell_all(folder, known)
        (folder / f"{site}.pem").unlink(missing_ok=True)
        _write_issued(folder, known)


def issued(folder: Path) -> list[Issued]:
    """All certificates of the authority in `folder`, oldest first. Raises ValueError where there is no authority."""
    _authority_text(folder)
    try:
        return [Issued.from_json(one) for one in json.loads((folder / ISSUED).read_text())]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"{folder / ISSUED} cannot be read ({reason}); it says which certificates there are: restore it from a "
            "copy, or make a new authority in another folder."
        ) from error


def _tell_all(folder: Path, known: list[Issued]) -> None:
    """Every key file in the folder names what was taken back: whichever is at the meeting point knows it."""
    for site in dict.fromkeys(one.site for one in known):
        path = folder / f"{site}.pem"
        if path.exists():
            _write_secret(path, read_key_file(path).telling(_removed(known)))


def _removed(known: list[Issued]) -> tuple[str, ...]:
    """Those that have ended are refused without being named."""
    now = datetime.now(timezone.utc)
    return tuple(one.serial for one in known if one.removed and one.ends > now)


def _authority_text(folder: Path) -> str:
    path = folder / AUTHORITY
    if not path.exists():
        raise ValueError(f"{folder} holds no authority ({AUTHORITY} is not there): geo-accel keys init {folder}")
    return read_secret(path, f"the authority's key {path}", "only its owner can use it")


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Two that add or remove at once would forget each other's certificates."""
    try:
        door = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}; geo-accel keys init makes such a folder.") from error
    try:
        try:
            fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another geo-accel keys is at work in {folder}; try again.") from error
        yield
    finally:
        os.close(door)


def _write_secret(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    write_whole(path, write)


def _write_issued(folder: Path, known: list[Issued]) -> None:
    text = json.dumps([asdict(one) for one in known], indent=1)
    write_whole(folder / ISSUED, lambda path: path.write_text(text + "\n"))
