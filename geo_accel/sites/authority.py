# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""A run's own certificate authority: a folder with its key, and a key file for each site. Made once, anywhere."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from geo_accel.profile.document import write_whole
from geo_accel.sites.credentials import About, read_credentials

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate, CertificateBuilder, KeyUsage, Name

AUTHORITY, ISSUED = "authority.pem", "issued.json"
SITE_DAYS = 365
_AUTHORITY_DAYS = 3650
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate that the authority has signed."""

    site: str
    serial: str
    """In hex."""
    until: str
    """ISO 8601."""
    removed: bool = False


def init(folder: Path) -> None:
    """Makes an authority in `folder`, which must not hold one. ValueError otherwise, or without `cryptography`."""
    x509 = _x509()
    from cryptography.hazmat.primitives import hashes

    if (folder / AUTHORITY).exists():
        raise ValueError(f"{folder} holds an authority already; give another folder, or remove that one first.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key, now = _new_key(), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"geo_accel run {os.urandom(8).hex()}")])
    certificate = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_secret(folder / AUTHORITY, _pem_of_key(key) + _pem_of(certificate))
    _write_issued(folder, [])


def add(folder: Path, site: str, days: float = SITE_DAYS) -> Path:
    """Writes a key file for `site`, and returns its path; an earlier one of that name is taken back.

    Raises ValueError for a folder without an authority and for a name that no site can have.
    """
    x509 = _x509()
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    if not _NAME.fullmatch(site) or f"{site}.pem" == AUTHORITY:
        raise ValueError(f"{site!r} cannot be a site's name: letters, digits, '.', '_' and '-', 63 at most.")
    text = _authority_text(folder)
    authority = x509.load_pem_x509_certificate(text.encode())
    signer = serialization.load_pem_private_key(text.encode(), password=None)
    assert isinstance(signer, EllipticCurvePrivateKey)  # as `init` made it
    key, now = _new_key(), datetime.now(timezone.utc)
    until = min(now + timedelta(days=days), authority.not_valid_after_utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, site)])
    certificate = (
        _builder(name, authority.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .sign(signer, hashes.SHA256())
    )
    known = [one if one.site != site else _taken_back(one) for one in issued(folder)]
    known.append(Issued(site=site, serial=f"{certificate.serial_number:x}", until=until.isoformat()))
    _write_issued(folder, known)
    path = folder / f"{site}.pem"
    about = About(site=site, until=until.isoformat(), removed=_removed(known))
    _write_secret(path, about.to_line() + _pem_of_key(key) + _pem_of(certificate) + _pem_of(authority))
    _tell_all(folder, known)
    return path


def remove(folder: Path, site: str) -> None:
    """Takes back `site`'s certificates: a meeting point with a key file written from now on refuses them.

    Raises ValueError where there is none.
    """
    known = issued(folder)
    if not any(one.site == site and not one.removed for one in known):
        raise ValueError(f"{folder} has no certificate of {site!r} to remove; it has {_names(known)}.")
    known = [_taken_back(one) if one.site == site else one for one in known]
    _write_issued(folder, known)
    (folder / f"{site}.pem").unlink(missing_ok=True)
    _tell_all(folder, known)


def issued(folder: Path) -> list[Issued]:
    """All certificates of the authority in `folder`, oldest first. Raises ValueError where there is no authority."""
    _authority_text(folder)
    try:
        return [Issued(**one) for one in json.loads((folder / ISSUED).read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{folder / ISSUED} cannot be read ({error}); it says which certificates there are."
        ) from error


def _tell_all(folder: Path, known: list[Issued]) -> None:
    """Every key file in the folder names what was taken back: whichever is at the meeting point knows it."""
    for path in _key_files(folder, known):
        first, _, rest = path.read_text().partition("\n")
        about = About.from_line(first)
        _write_secret(path, About(site=about.site, until=about.until, removed=_removed(known)).to_line() + rest)


def _key_files(folder: Path, known: list[Issued]) -> Iterator[Path]:
    for site in dict.fromkeys(one.site for one in known):
        path = folder / f"{site}.pem"
        if path.exists():
            yield read_credentials(path, datetime.min.replace(tzinfo=timezone.utc)).path


def _removed(known: list[Issued]) -> tuple[str, ...]:
    now = datetime.now(timezone.utc).isoformat()
    return tuple(one.serial for one in known if one.removed and one.until > now)


def _taken_back(one: Issued) -> Issued:
    return Issued(**{**asdict(one), "removed": True})


def _names(known: list[Issued]) -> str:
    return ", ".join(sorted({one.site for one in known if not one.removed})) or "none"


def _authority_text(folder: Path) -> str:
    try:
        return (folder / AUTHORITY).read_text()
    except OSError as error:
        raise ValueError(f"{folder} holds no authority ({error.strerror}): geo-accel keys init {folder}") from error


def _x509() -> ModuleType:
    try:
        from cryptography import x509
    except ImportError as error:
        raise ValueError('making keys needs the package cryptography: pip install "geo-accel[keys]"') from error
    return x509


def _new_key() -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    subject: "Name", issuer: "Name", key: "EllipticCurvePublicKey", since: datetime, until: datetime
) -> "CertificateBuilder":
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since - timedelta(minutes=5))  # clocks differ
        .not_valid_after(until)
    )


def _usage(*allowed: str) -> "KeyUsage":
    from cryptography import x509

    usages = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usages += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{usage: usage in allowed for usage in usages})


def _pem_of(certificate: "Certificate") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _pem_of_key(key: "EllipticCurvePrivateKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _write_secret(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    write_whole(path, write)


def _write_issued(folder: Path, known: list[Issued]) -> None:
    text = json.dumps([asdict(one) for one in known], indent=1)
    write_whole(folder / ISSUED, lambda path: path.write_text(text + "\n"))
