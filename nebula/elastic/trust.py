"""Mutual TLS for gRPC from a job's authority, and what is said when a partner is refused.

gRPC itself refuses a partner of another authority and one whose certificate is not good now, and says little. So a
client first shakes hands on its own and puts the reason into a sentence; a server checks the partner's certificate
again at every call, because it may have been revoked or expired meanwhile. Certificates, keys and the list of revoked
ones are read anew when their files change: who renews a certificate restarts nothing.
"""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from nebula.elastic.authority import CA, REVOKED, SERVER_NAME, Identity, common_name, load_identity, unfit
from nebula.errors import BadInput

HANDSHAKE_S = 5.0
_UNTOLD = "by its authority, its clock or its list of revoked ones it is not good"
_SAID_BY_PEER = {
    "unknown ca": "it was signed by another authority",
    "certificate expired": "it has expired, or the clock there is wrong",
    "certificate revoked": "it is revoked",
    "certificate required": "none was given",
    "bad certificate": "it is not one of this job",
}


def now() -> datetime.datetime:
    """The time by which certificates are judged."""
    return datetime.datetime.now(datetime.timezone.utc)


class Papers:
    """A process's identity, read anew when its files are replaced; may be asked from any thread.

    A certificate that does not fit its key yet, or is not good now, is left alone: the one before stays in use.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._files = [identity.folder / name for name in (CA, f"{identity.name}.crt", f"{identity.name}.key")]
        self._read_ns = self._changed()
        self._lock = threading.Lock()

    def current(self) -> Identity:
        """The newest that is good."""
        with self._lock:
            changed = self._changed()
            if changed != self._read_ns:
                with suppress(BadInput, OSError, ValueError):
                    self._identity = load_identity(self._identity.folder, self._identity.name, now())
                    self._read_ns = changed
            return self._identity

    def _changed(self) -> tuple[int, ...]:
        return tuple(map(_changed_ns, self._files))


def fixed_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Lets in who has a certificate of the same authority."""
    pair = (identity.key, identity.certificate)
    return grpc.ssl_server_credentials([pair], root_certificates=identity.ca, require_client_auth=True)


def server_credentials(papers: Papers) -> grpc.ServerCredentials:
    """The same for a server with threads, where every handshake takes the newest certificate.

    gRPC is told of a certificate only where it is another one: while it takes one, handshakes under way may break.
    """
    used = papers.current()

    def another() -> Any:
        nonlocal used
        before, used = used, papers.current()
        return _configuration(used) if used is not before else None

    return grpc.dynamic_ssl_server_credentials(_configuration(used), another, require_client_authentication=True)


def _configuration(identity: Identity) -> Any:
    pair = (identity.key, identity.certificate)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=identity.ca)


def dial(papers: Papers | None, options: Sequence[tuple[str, Any]]) -> Callable[[str], grpc.Channel]:
    """Makes channels to addresses, each with the newest certificate; without any plain ones."""
    if papers is None:
        return lambda target: grpc.insecure_channel(target, options=options)
    named = [*options, ("grpc.ssl_target_name_override", SERVER_NAME)]

    def secured(target: str) -> grpc.Channel:
        good = papers.current()
        credentials = grpc.ssl_channel_credentials(good.ca, good.key, good.certificate)
        return grpc.secure_channel(target, credentials, options=named)

    return secured


def check_partner(address: str, identity: Identity, through: str = "") -> None:
    """Shakes hands with a server and hangs up.

    Args:
        through: where it is reached, if elsewhere.

    Raises:
        BadInput: it is not of this job, or refuses this certificate, with the reason.
        OSError: nobody answers.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=identity.ca.decode())
    context.set_alpn_protocols(["h2"])
    _load_pair(context, identity)
    host, _, port = (through or address).rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=SERVER_NAME) as secured,
        ):
            _check(secured.getpeercert(binary_form=True), identity, address)
            # who is let in hears the settings of HTTP/2 first; who is refused hears nothing
            secured.settimeout(HANDSHAKE_S)
            if not secured.recv(1):
                raise ConnectionResetError
    except ssl.SSLCertVerificationError as error:
        raise BadInput(f"{address} is not trusted: {_own_words(error)}") from None
    except (ssl.SSLError, ConnectionResetError) as error:
        said = _words(error) if isinstance(error, ssl.SSLError) else ""
        why = next((told for words, told in _SAID_BY_PEER.items() if words in said), said or _UNTOLD)
        own = x509.load_pem_x509_certificate(identity.certificate)
        why = unfit(own, identity, now()) or why
        raise BadInput(f"{address} refuses the certificate of {common_name(own)}: {why}") from None


def _own_words(error: ssl.SSLCertVerificationError) -> str:
    told = error.verify_message
    if "expired" in told:
        return "its certificate has expired: sign a new one, or set this node's clock"
    if "not yet valid" in told:
        return "its certificate is not good yet: set this node's clock"
    if "issuer" in told or "self-signed" in told or "self signed" in told:
        return "its certificate was signed by another authority"
    return told


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


def _check(der: bytes | None, identity: Identity, address: str) -> None:
    why = unfit(x509.load_der_x509_certificate(der), identity, now()) if der else "it has no certificate"
    if why:
        raise BadInput(f"{address} is not trusted: {why}")


def _load_pair(context: ssl.SSLContext, identity: Identity) -> None:
    """The ssl module takes certificates from files alone."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(identity.certificate + identity.key)
        file.flush()
        context.load_cert_chain(file.name)


def handshake_words(line: str) -> str:
    """What gRPC logs of a handshake that failed, in a sentence; empty where a line is of something else.

    >>> handshake_words("Handshake failed with error SSL_ERROR_SSL: x: certificate has expired")
    'refused a connection: its certificate has expired'
    """
    if "Handshake failed" not in line:
        return ""
    why = next((told for words, told in _LOGGED.items() if words in line), line.rpartition(": ")[2].strip())
    return f"refused a connection: {why}"


_LOGGED = {
    "certificate has expired": "its certificate has expired",
    "not yet valid": "its certificate is not good yet: are the clocks right?",
    "unable to get local issuer": "its certificate was signed by another authority",
    "signature failure": "its certificate was signed by another authority",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it came without a certificate",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "HTTP_REQUEST": "it does not speak TLS",
    "Invalid certificate verification context": "it does not trust this side's certificate",
    "UNKNOWN_CA": "it does not trust this side's certificate",
}


@contextmanager
def refusals_told() -> Iterator[None]:
    """Has what gRPC writes to stderr about refused handshakes said in sentences; other lines pass as they are.

    gRPC tells a server in no other way why it turned a client away.
    """
    reading, writing = os.pipe()
    kept = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)

    def pass_on() -> None:
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                told = handshake_words(line.decode(errors="replace"))
                os.write(kept, f"{told}\n".encode() if told else line)

    thread = threading.Thread(target=pass_on, name="refusals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(kept, 2)
        thread.join(1.0)
        os.close(kept)


class Doorkeeper:
    """Judges the partner of a call; see the module."""

    def __init__(self, identity: Identity, say: Callable[[str], None]) -> None:
        self._identity, self._say = identity, say
        self._list = identity.folder / REVOKED
        self._read_ns = 0
        self._good: dict[bytes, x509.Certificate] = {}
        self._late_until_s: dict[str, float] = {}

    def refusal(self, context: Any, node: str = "") -> str:
        """Why a call is refused; empty where it is not. It may be asked again while the call lasts.

        Args:
            node: who calls, where that is known.
        """
        pems = context.auth_context().get("x509_pem_cert")
        if not pems:
            return "the call came without a certificate"
        why = self._unfit(pems[0], late=time.monotonic() < self._late_until_s.get(node, 0.0))
        if why:
            self._say(f"refused a call from {context.peer()}: {why}")
        return why

    def _unfit(self, pem: bytes, *, late: bool) -> str:
        """Signatures are checked once for each list; what is good by then is asked for its dates alone."""
        identity = self._current()
        certificate = self._good.get(pem) or x509.load_pem_x509_certificate(pem)
        at = certificate.not_valid_after_utc + datetime.timedelta(seconds=1) if late else now()
        if pem in self._good and certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            return ""
        why = unfit(certificate, identity, at)
        if not why:
            self._good[pem] = certificate
        return why

    def take_for_expired(self, node: str, seconds: float) -> bool:
        """Judges the certificate of a node as after its end, for a while, as a test asks for; whether there is one."""
        self._late_until_s[node] = time.monotonic() + seconds
        return True

    def _current(self) -> Identity:
        changed_ns = _changed_ns(self._list)
        if changed_ns != self._read_ns:
            self._read_ns = changed_ns
            self._good.clear()
            self._identity = replace(self._identity, revoked=self._list.read_bytes() if changed_ns else b"")
        return self._identity


class OpenDoor:
    """Lets everybody in, as without TLS."""

    def refusal(self, context: Any, node: str = "") -> str:
        """Nobody is refused."""
        del context, node
        return ""

    def take_for_expired(self, node: str, seconds: float) -> bool:
        """There is no certificate that could expire."""
        del node, seconds
        return False


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
