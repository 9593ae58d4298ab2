"""TLS contexts: 1.3 only, the mesh's root the only CA, names decide, clocks do not.

    node_context      a member towards a broker or the gateway: own certificate, peer's chain and name checked
    join_context      a node without a certificate yet, towards the gateway it has pinned
    manager_context   a person's machine towards the gateway, whose root it was given
    join_probe_context  the first fetch of the CA chain: verifies NOTHING, nothing secret may cross it
    server_context    the joining port (no client certificate), or a broker of ours (client certificates)
    given_context     the same port towards browsers, with a certificate that somebody else's CA signed

Python's ``ssl`` judges times by the system clock, which lies on boards without an RTC. So clients set
NO_CHECK_TIME (chain, purpose and name are still checked) and must call ``check_peer`` with their time
floor after the handshake and **before the first byte is sent**.

Session tickets are off: a resumed session would skip the look at the certificate.
"""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Protocol

from cryptography import x509

from security.certificates import check_peer_times, leaf_sha256, pem_of
from security.errors import BadInput, ProtocolViolation

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME; OpenSSL's x509_vfy.h, not exported by ``ssl``


def node_context(identity_path: Path, root: x509.Certificate) -> ssl.SSLContext:
    """A member's client side. Give ``server_hostname=dns_name(mesh_id, "broker")`` whatever the address.

    Args: identity_path: ``KeyStore.identity_path`` (key, leaf and issuing CA in one file).
    Raises: BadInput: the file does not hold a matching key and certificate.
    """
    context = join_context(root)
    _load(context, identity_path)
    return context


def join_context(root: x509.Certificate) -> ssl.SSLContext:
    """The pinned root is the only CA; we show no certificate of our own."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, root)
    context.check_hostname = True
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    return context


def manager_context(root: x509.Certificate) -> ssl.SSLContext:
    """As ``join_context``, and times are held against the system's clock: a manager's is set."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, root)
    context.check_hostname = True
    return context


def join_probe_context() -> ssl.SSLContext:
    """Verifies nothing: only for fetching the CA chain, whose root is then compared with the pin."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_context(
    identity_path: Path, root: x509.Certificate, *, client_certificates: bool, check_time: bool = True
) -> ssl.SSLContext:
    """A listening side; it sends its leaf and the issuing CA.

    Args:
        client_certificates: True for a broker: who shows none, or another mesh's, is refused. False for the
            joining port, whose requests prove themselves.
        check_time: False where the system clock may lie; then call ``check_peer`` on every connection.
    Raises: BadInput: the file does not hold a matching key and certificate.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, root)
    context.verify_mode = ssl.CERT_REQUIRED if client_certificates else ssl.CERT_NONE
    if not check_time:
        context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.num_tickets = 0
    _load(context, identity_path)
    return context


def given_context(chain_path: Path, key_path: Path) -> ssl.SSLContext:
    """A listening side that shows a certificate which is not the mesh's, to whoever asks for its names.

    Args: chain_path: PEM, the leaf first, then what leads to its root.   key_path: PEM, without a passphrase.
    Raises: BadInput: one cannot be read, or they do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    try:
        context.load_cert_chain(chain_path, key_path, password=lambda: b"")  # else OpenSSL asks the terminal
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            cause, fix = f"{key_path} is not the key of {chain_path}", "give the key that it was made for"
        else:
            cause = f"{chain_path} and {key_path} hold no certificate and its key without a passphrase"
            fix = "give the full chain and the key, both in PEM"
        raise BadInput(cause, fix=fix) from None
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(
            f"cannot read {chain_path} or {key_path}: {told}", fix="let the gateway's user read both"
        ) from None
    return context


def check_peer(connection: ssl.SSLObject | ssl.SSLSocket, *, floor_s: int) -> bytes:
    """The peer's leaf (DER) after a handshake, its times held against the floor; call before sending.

    With asyncio: ``check_peer(writer.get_extra_info("ssl_object"), floor_s=...)``.

    Raises: ProtocolViolation: no TLS 1.3, no certificate, or one that surely has expired.
    """
    if connection.version() != "TLSv1.3":
        raise ProtocolViolation(f"peer speaks {connection.version() or 'no TLS'}, TLS 1.3 is required")
    der = connection.getpeercert(binary_form=True)
    check_peer_times(der, floor_s=floor_s)
    assert der is not None, "check_peer_times refuses an absent certificate"
    return der


def server_leaf_sha256(connection: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    """What a joining request is bound to: the hash of the certificate that the server showed."""
    der = connection.getpeercert(binary_form=True)
    if der is None:
        raise ProtocolViolation("peer showed no certificate")
    return leaf_sha256(der)


class Abortable(Protocol):
    """An asyncio transport."""

    def abort(self) -> None: ...


def abort(transport: Abortable) -> None:
    """``transport.abort()``, also where the connection has been lost already.

    A TLS transport of CPython 3.11.2 (Debian 12's) raises AttributeError then; later ones do nothing.
    """
    with contextlib.suppress(AttributeError):
        transport.abort()


def _context(protocol: int, root: x509.Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=pem_of(root).decode("ascii"))
    return context


def _load(context: ssl.SSLContext, identity_path: Path) -> None:
    try:
        context.load_cert_chain(identity_path)
    except FileNotFoundError as error:
        raise BadInput(f"{identity_path} is missing", fix="join a mesh first") from error
    except PermissionError as error:
        raise BadInput(f"{identity_path} cannot be read by this user", fix="run as its owner") from error
    except ssl.SSLError as error:
        raise BadInput(
            f"{identity_path} does not hold a key and its certificate",
            fix="restore it from a backup, or remove it and join again",
        ) from error
