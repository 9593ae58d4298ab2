"""Trust: which gateway is meant, with which token, and by what its certificate is believed.

    --url https://gw.example:8443 --token-file ~/.edgeweave/token --ca root.pem

``ca`` is a file with the mesh's root (`edge-gateway ca` prints it there): the certificate must be that of the
mesh's gateway, whatever address it answers at. Or a file with another CA: it must be for the URL's host. Or
the root's pin (64 hex digits): the root is fetched and held against it. Nothing: the system's trust, for a
gateway that shows a given certificate. There is no way to go on without any.

A token given on the command line stands in the list of processes, for every user of the machine: a file that
only its owner reads, or the environment, is better. Not here: what is asked (``calls``), and how (``line``).
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from edge_node.client import Refused
from edge_node.discovery.sightings import is_host
from security.certificates import read_pem, spki_sha256_of
from security.errors import BadInput, ProtocolViolation
from security.identity import GATEWAY, dns_name, mesh_id_of
from security.tls import manager_context

TOKEN_FILE_BYTES_MAX: Final = 4096
CA_FILE_BYTES_MAX: Final = 1024 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,512}\Z")
_PIN = re.compile(r"(?:sha256:)?([0-9a-f]{64})\Z")


@dataclass(frozen=True, slots=True)
class Reach:
    """One gateway afar. url: ``https://host:port``, nothing behind it. ca: a path, a pin, or empty."""

    url: str
    token: str
    ca: str = ""

    @property
    def pin(self) -> str:
        """Empty: none was given."""
        found = _PIN.match(self.ca)
        return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the gateway's certificate is held against. ``name``: that it is for; empty: the URL's host."""

    context: ssl.SSLContext
    name: str
    told: str
    """For people: by what it is believed."""


def reach_of(url: str, *, token: str, token_file: str, ca: str) -> Reach:
    """Raises: BadInput: no URL of a gateway, no token, or one that cannot be read."""
    if token and token_file:
        raise BadInput("a token and a token file were given", fix="give one of them")
    if token_file:
        token = _token_in(token_file)
    if not token:
        raise BadInput(
            "no token was given", fix="give --token-file FILE or EDGEWEAVE_TOKEN; `tokens add` makes one"
        )
    if not _TOKEN.match(token):  # it is not repeated: it may be a real one with a slip
        raise BadInput("that is no token", fix="it looks like ewt_…, as `edge-gateway tokens add` printed it")
    return Reach(checked_url(url), token, ca)


def checked_url(url: str) -> str:
    """Raises: BadInput."""
    fix = "write https://HOST:PORT, as https://192.0.2.7:8443"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadInput(f"{url!r:.100} is no URL", fix=fix) from None
    if parts.scheme != "https":
        raise BadInput(f"{url!r:.100} is not https: the token would be read on its way", fix=fix)
    if not is_host(host) or parts.username is not None or parts.path not in ("", "/"):
        raise BadInput(f"{url!r:.100} is more, or less, than a host and a port", fix=fix)
    if parts.query or parts.fragment or port == 0:
        raise BadInput(f"{url!r:.100} is more, or less, than a host and a port", fix=fix)
    shown = f"[{host}]" if ":" in host else host
    return f"https://{shown}" if port is None else f"https://{shown}:{port}"


def anchor_of(ca: str) -> Anchor:
    """By a file; where *ca* is empty, the system's trust. Raises: BadInput: no certificate is in it."""
    if not ca:
        return Anchor(ssl.create_default_context(), "", "the system's trust")
    data = _read(ca, CA_FILE_BYTES_MAX, "--ca")
    try:
        certificates = read_pem(data, most=1)
    except ProtocolViolation:
        certificates = []  # several, or none: OpenSSL says which
    root = next((each for each in certificates if is_mesh_root(each)), None)
    if root is not None:
        return anchor_at(root)
    try:
        text = data.decode("ascii")
        if "-----BEGIN" not in text:  # nothing would be taken for the system's trust
            raise ValueError("no PEM")
        return Anchor(ssl.create_default_context(cadata=text), "", f"the CA in {ca}")
    except (ssl.SSLError, ValueError):
        raise BadInput(
            f"{ca} holds no certificate of a CA", fix="`edge-gateway ca` prints the mesh's, on the gateway"
        ) from None


def anchor_at(root: x509.Certificate) -> Anchor:
    """By a mesh's root: the gateway of that mesh is meant, at whatever address."""
    mesh_id = mesh_id_of(spki_sha256_of(root))
    return Anchor(manager_context(root), dns_name(mesh_id, GATEWAY), f"mesh {mesh_id}")


def is_mesh_root(certificate: x509.Certificate) -> bool:
    wanted = f"CN=edgeweave root {mesh_id_of(spki_sha256_of(certificate))}"
    return certificate.subject.rfc4514_string() == wanted == certificate.issuer.rfc4514_string()


def _token_in(path: str) -> str:
    data = _read(path, TOKEN_FILE_BYTES_MAX, "--token-file")
    first = data.split(b"\n", 1)[0].strip().decode("ascii", "replace")
    if not first:
        raise BadInput(f"{path} holds no token", fix="its first line is the token")
    return first


def _read(path: str, most: int, option: str) -> bytes:
    """Raises: BadInput: it cannot be read; a token's file may be read by others."""
    try:
        with Path(path).expanduser().open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if option == "--token-file" and stat.S_ISREG(mode) and mode & 0o077:
                raise BadInput(
                    f"{path} may be read by others (mode {stat.S_IMODE(mode):04o})", fix=f"chmod 600 {path}"
                )
            return file.read(most)
    except OSError as error:
        raise BadInput(
            f"cannot read {path}: {error.strerror}", fix=f"check the name after {option}"
        ) from None


def not_believed(url: str, anchor: Anchor, why: str) -> Refused:
    """The certificate that is shown at *url* does not hold."""
    reason = f" ({why})" if why else ""
    return Refused(
        f"what answers at {url} is not to be believed by {anchor.told}{reason}",
        fix="give the right CA with --ca FILE: `edge-gateway ca` prints it on the gateway; or check the URL",
    )
