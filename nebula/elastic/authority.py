"""A job's own authority: who may take part in it, proved by certificates that it signs, and who may no longer.

A folder holds the authority's key and certificate, the list of revoked certificates, and a certificate with its key for
each name. Every certificate is for clients and servers alike and names what it is for in its common name:
`controller`, `agent a`. Times are of the wall clock, given as an argument.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nebula.errors import BadInput

CA, CA_KEY, REVOKED = "ca.crt", "ca.key", "revoked.pem"
"""Files of an authority beside NAME.crt and NAME.key."""
SERVER_NAME = "nebula.job"
"""The name that every certificate carries, so that nodes need no fixed addresses."""
DAYS = 90
"""How long a certificate is good for by default."""
_EXPIRED = "has expired on"
_BEFORE = datetime.timedelta(minutes=5)
"""A certificate is good a little before it is made, because clocks differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a process needs to take part.

    Attributes:
        ca, certificate, key: PEM texts.
        revoked: PEM of the list of revoked certificates; empty where none was given.
        folder: where they were read.
        name: of the files there.
    """

    ca: bytes
    certificate: bytes
    key: bytes
    revoked: bytes
    folder: Path
    name: str = ""


def make_authority(folder: Path, job: str, now: datetime.datetime, *, days: int = DAYS * 4) -> None:
    """Makes an authority in a folder, which may not have one.

    Raises:
        BadInput: there is one.
    """
    if (folder / CA).exists():
        raise BadInput(f"{folder} holds an authority already: name another folder, or sign with this one")
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"authority of {job}")
    built = (
        _builder(name, name, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write(folder / CA_KEY, _pem_of(key), secret=True)
    _write(folder / CA, built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _write_revoked(folder, [], now)


def sign(
    folder: Path, name: str, now: datetime.datetime, *, days: float = DAYS, hosts: Sequence[str] = ("127.0.0.1",)
) -> Path:
    """Makes a certificate and its key.

    Args:
        name: of the file and in the certificate, such as `controller` or `agent-a`.
        hosts: addresses and names under which a server is reached by others than Nebula.

    Returns:
        The certificate's file.

    Raises:
        BadInput: the folder has no authority, or the name is no file name.
    """
    if not name or Path(name).name != name or name in ("ca", "revoked"):
        raise BadInput(f"{name!r} is no name for a certificate: give one such as agent-a")
    authority, signer = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives: list[x509.GeneralName] = [x509.DNSName(SERVER_NAME)]
    for host in hosts:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            alternatives.append(x509.DNSName(host))
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    built = (
        _builder(_name(name), authority.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    _write(folder / f"{name}.key", _pem_of(key), secret=True)
    path = folder / f"{name}.crt"
    _write(path, built.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def revoke(folder: Path, name: str, now: datetime.datetime) -> None:
    """Puts a certificate on the list of revoked ones.

    Raises:
        BadInput: there is no such certificate.
    """
    path = folder / f"{name}.crt"
    if not path.is_file():
        there = ", ".join(sorted(one.stem for one in folder.glob("*.crt") if one.name != CA)) or "none"
        raise BadInput(f"{folder} has no certificate {name}: there are {there}")
    number = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
    _write_revoked(folder, [*revoked_numbers((folder / REVOKED).read_bytes()), number], now)


def revoked_numbers(pem: bytes) -> frozenset[int]:
    """The serial numbers on a list of revoked certificates."""
    return frozenset(one.serial_number for one in x509.load_pem_x509_crl(pem)) if pem else frozenset()


def load_identity(folder: Path, name: str, now: datetime.datetime) -> Identity:
    """The certificate of a name, its key and the authority's certificate and list.

    Raises:
        BadInput: one is missing, they do not belong together, or the certificate is not good now: it would be refused
            by everybody.
    """
    files = {part: folder / part for part in (CA, f"{name}.crt", f"{name}.key")}
    for part, path in files.items():
        if not path.is_file():
            raise BadInput(f"{folder} has no {part}: make it with `nebula cert sign {name} --folder {folder}`")
    found = Identity(
        ca=files[CA].read_bytes(),
        certificate=files[f"{name}.crt"].read_bytes(),
        key=files[f"{name}.key"].read_bytes(),
        revoked=(folder / REVOKED).read_bytes() if (folder / REVOKED).is_file() else b"",
        folder=folder,
        name=name,
    )
    if not _belong_together(found):
        raise BadInput(f"{files[f'{name}.key']} is not the key of {name}.crt: copy both files, or sign a new one")
    why = unfit(x509.load_pem_x509_certificate(found.certificate), found, now)
    if why:
        raise BadInput(f"{files[f'{name}.crt']}: {why}")
    return found


def unfit(certificate: x509.Certificate, identity: Identity, now: datetime.datetime) -> str:
    """Why a certificate does not let its holder take part; empty where it does."""
    name = common_name(certificate)
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(identity.ca))
    except Exception:  # one kind of error for each way in which a signature can be wrong
        return f"the certificate of {name} was signed by another authority"
    if now < certificate.not_valid_before_utc:
        return f"the certificate of {name} is not good before {certificate.not_valid_before_utc}: is the clock right?"
    if now > certificate.not_valid_after_utc:
        return f"the certificate of {name} {_EXPIRED} {certificate.not_valid_after_utc}: sign a new one"
    if certificate.serial_number in revoked_numbers(identity.revoked):
        return f"the certificate of {name} is revoked"
    return ""


def can_be_renewed(why: str) -> bool:
    """Whether what `unfit` says is mended by a new certificate of the same name.

    >>> can_be_renewed("the certificate of agent-a has expired on 2026-01-31"), can_be_renewed("... is revoked")
    (True, False)
    """
    return _EXPIRED in why


def _belong_together(identity: Identity) -> bool:
    """Whether the key is that of the certificate; while files are replaced it may not be."""
    key = serialization.load_pem_private_key(identity.key, None)
    return key.public_key() == x509.load_pem_x509_certificate(identity.certificate).public_key()


def common_name(certificate: x509.Certificate) -> str:
    """What a certificate is for."""
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if not (folder / CA_KEY).is_file():
        raise BadInput(f"{folder} holds no authority: make one with `nebula cert init --folder {folder}`")
    key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate((folder / CA).read_bytes()), key


def _write_revoked(folder: Path, numbers: Sequence[int], now: datetime.datetime) -> None:
    authority, key = _authority(folder)
    until = now + datetime.timedelta(days=365)
    built = x509.CertificateRevocationListBuilder().issuer_name(authority.subject).last_update(now).next_update(until)
    for number in sorted(set(numbers)):
        one = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build()
        built = built.add_revoked_certificate(one)
    _write(folder / REVOKED, built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: float
) -> x509.CertificateBuilder:
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    built = built.serial_number(x509.random_serial_number()).not_valid_before(now - _BEFORE)
    return built.not_valid_after(now + datetime.timedelta(days=days))


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """A key is readable by its owner alone; a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if secret else 0o644), "wb") as file:
        file.write(content)
    partial.replace(path)
