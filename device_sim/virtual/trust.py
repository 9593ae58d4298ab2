"""Trust: keys, certificates and the first roster of a mesh in the world, as joining has left them.

Made from the seed alone: keys by name, serial numbers and signatures (RFC 6979) repeat. Members are listed
from the start; the joining desk itself is a matter of TLS and HTTP, and is tested with real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from device_sim.virtual.world import WALL_MS, World
from edge_node.functions.bundle import Bundle, digest_of
from edge_node.wire.ids import GATEWAY
from security.authority import Authority
from security.identity import NodeKeys, bearer, spki_der
from security.roster import Deployer, Member, MemberKey, RosterDraft
from security.signing import EntryDraft, sign_entry

BROKER_ADDRESS: Final = "127.0.0.1:8883"
"""Never dialled: links in the world know their broker."""
JOINED_S: Final = WALL_MS // 1000 - 3600
_ORDER: Final = (
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, FIPS 186-4 D.1.2.3
)


def signing_key(world: World, *name: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of this name."""
    drawn = int.from_bytes(world.entropy("key", *name)(40), "big")
    return ec.derive_private_key(1 + drawn % (_ORDER - 1), ec.SECP256R1())


def node_keys(world: World, *name: str) -> NodeKeys:
    static = X25519PrivateKey.from_private_bytes(world.entropy("static", *name)(32))
    return NodeKeys(signing_key(world, *name), static)


@dataclass(frozen=True, slots=True)
class Entry:
    """A function in the catalogue: its document, as a node keeps it."""

    id: str
    version: int
    raw: bytes

    @property
    def document(self) -> dict[str, object]:
        return {"id": self.id, "version": self.version, "entry": self.raw.hex()}


class Trust:
    """One mesh. Args: site: its name in the world.   members: id -> labels, without the gateway."""

    def __init__(self, world: World, site: str, members: Mapping[str, Mapping[str, str]]) -> None:
        self.authority = Authority.create(
            now_s=JOINED_S,
            entropy=world.entropy("authority", site),
            root_key=signing_key(world, site, "root"),
            issuing_key=signing_key(world, site, "issuing"),
        )
        self.mesh_id = self.authority.mesh_id
        self.deployer = signing_key(world, site, "deployer")
        self.keys = {name: node_keys(world, site, name) for name in (GATEWAY, *members)}
        listed = [Member(GATEWAY, (self._member_key(GATEWAY),), (GATEWAY,))]
        listed += [
            Member(name, (self._member_key(name),), (), dict(labels)) for name, labels in members.items()
        ]
        self.signed = self.authority.sign_roster(
            RosterDraft(
                version=1,
                prev_digest=bytes(32),
                issued_s=JOINED_S,
                brokers=(BROKER_ADDRESS,),
                deployers=(Deployer(GATEWAY, spki_der(self.deployer.public_key())),),
                members=tuple(listed),
            )
        )

    def _member_key(self, name: str) -> MemberKey:
        keys = self.keys[name]
        return MemberKey(keys.spki_sha256, keys.x25519_public, JOINED_S)

    def gateway_member(self) -> Member:
        return Member(GATEWAY, (self._member_key(GATEWAY),), (GATEWAY,))

    def bearer(self, name: str) -> str:
        """Whom its TLS certificate makes it at the broker."""
        return bearer(name, self.keys[name].spki_sha256)

    def deployed(self, bundle: Bundle) -> tuple[bytes, list[Entry]]:
        """A bundle's bytes, and an entry of version 1 for each function in it."""
        data = bundle.to_bytes()
        entries = []
        for manifest in bundle.manifests():
            draft = EntryDraft(self.mesh_id, manifest.name, 1, digest_of(data), manifest.to_bytes(), JOINED_S)
            entries.append(Entry(f"{manifest.name}@1", 1, sign_entry(draft, self.deployer)))
        return data, entries
