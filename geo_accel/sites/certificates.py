# Copyright 2026 The geo_accel authors. Licensed under the Apache License, Version 2.0.
"""Keys and certificates as texts: an authority's, and those that it signs. Needs the package `cryptography`."""

import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate, CertificateBuilder, KeyUsage, Name

_AUTHORITY_DAYS = 3650
_MOST_DAYS = 36500


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One site's."""

    serial: str
    """In hex."""
    until: datetime
    text: str
    """Key, certificate and the authority's certificate, in PEM."""

    def __repr__(self) -> str:  # nobody prints a key
        return f"Made({self.serial}, until {self.until})"


def new_authority() -> str:
    """Key and certificate, in PEM. Raises ValueError without the package."""
    x509 = _x509()
    from cryptography.hazmat.primitives import hashes

    key, now = _new_key(), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"geo_accel run {os.urandom(8).hex()}")])
    certificate = (
        _builder(name, name, key.public_key(), now, now + timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem_of_key(key) + _pem_of(certificate)


def new_certificate(authority: str, holder: Path, site: str, days: float, now: datetime) -> Made:
    """A key for `site` and its certificate, for `days` from `now` on, or as long as the authority lasts.

    Raises ValueError without the package, for an `authority` that is none, which `holder` has, for one that has ended,
    and for no or too many days.
    """
    x509 = _x509()
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    if not 0 < days <= _MOST_DAYS:
        raise ValueError(f"a certificate cannot last {days:g} days; allowed: above 0, at most {_MOST_DAYS}.")
    try:
        above = x509.load_pem_x509_certificate(authority.encode())
        signer = serialization.load_pem_private_key(authority.encode(), password=None)
        if not isinstance(signer, EllipticCurvePrivateKey) or signer.public_key() != above.public_key():
            raise ValueError("key and certificate do not belong together")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the authority in {holder} is damaged ({str(error).splitlines()[0]}): restore it from a copy, or make "
            "another in a new folder."
        ) from error
    if above.not_valid_after_utc <= now:
        raise ValueError(
            f"the authority in {holder} ended on {above.not_valid_after_utc:%Y-%m-%d}: make a new one in another "
            "folder, and new key files for all sites."
        )
    key, until = _new_key(), min(now + timedelta(days=days), above.not_valid_after_utc).replace(microsecond=0)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, site)])
    certificate = (
        _builder(name, above.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    text = _pem_of_key(key) + _pem_of(certificate) + _pem_of(above)
    return Made(serial=f"{certificate.serial_number:x}", until=until, text=text)


def _x509() -> ModuleType:
    try:
        from cryptography import x509
    except ImportError as error:
        raise ValueError(
            "making keys needs the package cryptography (the extra keys): pip install cryptography"
        ) from error
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
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
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
