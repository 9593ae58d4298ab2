"""A given certificate: what browsers and programs are shown that know nothing of the mesh's CA.

Joining nodes pin the mesh's CA and come to the same port; they ask for ``gateway.<mesh>.mesh`` by name (SNI).
So the name decides, in the handshake: the given certificate is shown to who asks for one of its names, and to
who asks for none if it names an address; everybody else is shown the mesh's, as without a given one. A name
under the mesh's own is never given away.

The files are looked at every ``LOOK_S``; when they change (an ACME client renews), new connections are shown
the new certificate. One that does not fit, or half of two files, is logged and the last good one stays.
Not here: renewing it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from edge_node.clock import Clock
from gateway.settings import ApiSettings
from security.certificates import MALFORMED, not_after_s, not_before_s
from security.errors import BadInput
from security.tls import given_context

log = logging.getLogger(__name__)

LOOK_S: Final = 30.0
WARN_DAYS: Final = 14
FILE_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate that was found good. ``names``: of hosts, lower case; ``addresses``: does it name any?"""

    context: ssl.SSLContext
    names: tuple[str, ...]
    addresses: bool
    until_s: int

    def fits(self, name: str | None) -> bool:
        """Is it for this host? A star stands for one label (RFC 6125). None: whoever asks names none."""
        if name is None:
            return self.addresses
        asked = name.lower().rstrip(".")
        label, _, rest = asked.partition(".")
        return asked in self.names or (bool(label and rest) and f"*.{rest}" in self.names)


class GivenCertificate:
    """``load`` before it is shown; ``run`` keeps up with the files."""

    def __init__(self, certificate: Path, key: Path, mesh_id: str, clock: Clock) -> None:
        self.certificate = certificate
        self.key = key
        self._own = f".{mesh_id}.mesh"
        self._clock = clock
        self._seen: tuple[object, ...] = ()
        self._shown: Shown | None = None

    @property
    def shown(self) -> Shown:
        assert self._shown is not None, "it was loaded"
        return self._shown

    def load(self) -> None:
        """Blocking. Raises: BadInput: unreadable, no pair, out of its time, names nobody, open to others."""
        seen = self._signature()
        self._shown, self._seen = read(self.certificate, self.key, self._clock.wall_ms() // 1000), seen
        names = ", ".join(self._shown.names) or "addresses"
        log.info("a given certificate is shown", extra={"names": names, "until": _date(self._shown.until_s)})

    def look(self) -> bool:
        """Blocking: load it anew if its files changed; was it? Never raises: what does not fit is logged."""
        seen = self._signature()
        if seen == self._seen:
            return False
        try:
            self.load()
        except BadInput as error:
            self._seen = seen  # it is said once for each change
            log.error("the given certificate changed and cannot be shown", extra={"cause": str(error)})
            return False
        return True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.look)

    def choose(self, line: ssl.SSLObject, name: str | None, own: ssl.SSLContext) -> None:
        """For ``SSLContext.sni_callback`` of the mesh's own context."""
        if (name is None or not name.lower().rstrip(".").endswith(self._own)) and self.shown.fits(name):
            line.context = self.shown.context

    def facts(self) -> dict[str, object]:
        """For `status`."""
        return {"names": list(self.shown.names), "valid_until_ms": self.shown.until_s * 1000}

    def _signature(self) -> tuple[object, ...]:
        """Changes when a file does; a link that leads elsewhere is a change too."""
        told: list[object] = []
        for path in (self.certificate, self.key):
            try:
                found = path.stat()
            except OSError as error:
                told.append(error.errno)
            else:
                told.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(told)


def files_of(home: Path, settings: ApiSettings) -> tuple[Path, Path]:
    """(certificate, key): each a path, or one below the home; the key may be in the certificate's file."""
    chain = home / Path(settings.certificate).expanduser()
    return chain, home / Path(settings.key).expanduser() if settings.key else chain


def read(certificate: Path, key: Path, now_s: int) -> Shown:
    """Raises: BadInput: see ``GivenCertificate.load``."""
    leaf = _leaf(certificate)
    if now_s > not_after_s(leaf):
        raise BadInput(
            f"{certificate} expired on {_date(not_after_s(leaf))}",
            fix="renew it, or leave [api] certificate out",
        )
    if now_s < not_before_s(leaf):
        raise BadInput(
            f"{certificate} is not valid before {_date(not_before_s(leaf))}", fix="check this machine's clock"
        )
    try:
        mode = key.stat().st_mode
    except OSError as error:
        raise BadInput(f"cannot read {key}: {error.strerror}", fix="check [api] key") from None
    if mode & stat.S_IRWXO:
        raise BadInput(
            f"{key} may be read by everybody (mode {stat.S_IMODE(mode):04o})", fix=f"chmod o= {key}"
        )
    names, addresses = _names(leaf)
    if not names and not addresses:
        raise BadInput(f"{certificate} names no host", fix="get one with subjectAltName, as browsers want it")
    return Shown(given_context(certificate, key), names, addresses, not_after_s(leaf))


def _leaf(path: Path) -> x509.Certificate:
    try:
        with path.open("rb") as file:
            return x509.load_pem_x509_certificates(file.read(FILE_BYTES_MAX))[0]
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", fix="check [api] certificate") from None
    except (*MALFORMED, IndexError):
        raise BadInput(
            f"{path} holds no certificate in PEM", fix="give the full chain, the leaf first"
        ) from None


def _names(leaf: x509.Certificate) -> tuple[tuple[str, ...], bool]:
    """(hosts, are there addresses). Raises: BadInput: its extensions cannot be read."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), False
    except MALFORMED:
        raise BadInput("the certificate's extensions are damaged", fix="get another one") from None
    hosts = found.get_values_for_type(x509.DNSName)
    return tuple(host.lower() for host in hosts), bool(found.get_values_for_type(x509.IPAddress))


def _date(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).date().isoformat()
