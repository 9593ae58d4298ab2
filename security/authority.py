"""The mesh's authority: it signs certificates, the roster and group epochs. Revocation is a roster line.

Lies on the gateway. The root key is needed for a new issuing CA only and can be moved away; whoever
holds the issuing key decides who belongs to the mesh, and the threat model says so.

In: public keys, names, times, entropy. Out: PEM leaves, signed rosters and grants. It keeps no memory: who is
a member, which version comes next and what is persisted is the roster keeper's business at the gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from security.certificates import (
    BROKER_DAYS,
    LEAF_DAYS,
    Usage,
    build_issuing,
    build_leaf,
    build_root,
    der_of,
    key_of_csr,
    pem_of,
    spki_sha256_of,
    verify_chain,
)
from security.errors import BadInput
from security.group import CONTEXT as GRANT_CONTEXT
from security.group import grant_payload
from security.identity import BROKER, GATEWAY, is_node_id, mesh_id_of, spki_sha256
from security.roster import (
    CONTEXT,
    MEMBERS_MAX,
    ROSTER_BYTES_MAX,
    VALID_S,
    Roster,
    RosterDraft,
    in_order,
    read_payload,
)
from security.signing import sign1

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Authority:
    """Root and issuing CA; ``root_key`` is None where the root was moved away."""

    root: x509.Certificate
    issuing: x509.Certificate
    issuing_key: ec.EllipticCurvePrivateKey
    root_key: ec.EllipticCurvePrivateKey | None
    entropy: Entropy

    def __post_init__(self) -> None:
        verify_chain([self.issuing, self.root], root_spki_sha256=self.root_spki_sha256)
        assert spki_sha256_of(self.issuing) == spki_sha256(self.issuing_key.public_key()), (
            "key and CA belong together"
        )

    @classmethod
    def create(
        cls,
        *,
        now_s: int,
        entropy: Entropy,
        root_key: ec.EllipticCurvePrivateKey | None = None,
        issuing_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Authority:
        """A new mesh. ``entropy(n)`` gives n random bytes, for serial numbers."""
        root_key = root_key or ec.generate_private_key(ec.SECP256R1())
        issuing_key = issuing_key or ec.generate_private_key(ec.SECP256R1())
        root = build_root(root_key, now_s=now_s, serial=entropy(16))
        issuing = build_issuing(
            issuing_key.public_key(), root=root, root_key=root_key, now_s=now_s, serial=entropy(16)
        )
        return cls(root, issuing, issuing_key, root_key, entropy)

    @property
    def root_spki_sha256(self) -> bytes:
        return spki_sha256_of(self.root)

    @property
    def mesh_id(self) -> str:
        return mesh_id_of(self.root_spki_sha256)

    @property
    def chain_pem(self) -> bytes:
        """Issuing CA, then root."""
        return pem_of(self.issuing, self.root)

    @property
    def issuing_pem(self) -> bytes:
        """What a TLS server or client sends behind its leaf."""
        return pem_of(self.issuing)

    @property
    def root_pem(self) -> bytes:
        return pem_of(self.root)

    def issue(
        self,
        key: ec.EllipticCurvePublicKey | bytes,
        node_id: str,
        *,
        roles: Collection[str] = (),
        now_s: int,
        days: int = LEAF_DAYS,
    ) -> bytes:
        """A member's leaf, PEM. The gateway (role or id ``gateway``) may also be a TLS server.

        Args: key: the public key, or a CSR in DER, of which only the key is taken.
        Raises: ProtocolViolation: the CSR does not hold. BadInput: no member can bear that name.
        """
        if node_id == BROKER or not is_node_id(node_id):
            raise BadInput(f"no member can be named {node_id!r}", fix="use 1 to 32 of a-z, 0-9 and '-'")
        serves = node_id == GATEWAY or GATEWAY in roles
        usages: frozenset[Usage] = frozenset({"client", "server"}) if serves else frozenset({"client"})
        return self._leaf(key, node_id, usages, now_s=now_s, days=days)

    def issue_broker(
        self, key: ec.EllipticCurvePublicKey | bytes, *, now_s: int, days: int = BROKER_DAYS
    ) -> bytes:
        """The leaf of ``broker.<mesh_id>.mesh``, PEM: a TLS server only, so that any member may host it."""
        return self._leaf(key, BROKER, frozenset({"server"}), now_s=now_s, days=days)

    def sign_roster(self, draft: RosterDraft) -> bytes:
        """The next roster, valid for seven days; members are put in order.

        Raises: BadInput: more members than a roster holds.
        """
        if len(draft.members) > MEMBERS_MAX:
            raise BadInput(f"a roster holds {MEMBERS_MAX} members", fix="remove members that left")
        roster = Roster(
            mesh_id=self.mesh_id,
            version=draft.version,
            prev_digest=draft.prev_digest,
            issued_s=draft.issued_s,
            valid_until_s=draft.issued_s + VALID_S,
            brokers=draft.brokers,
            deployers=draft.deployers,
            members=in_order(draft.members),
        )
        read_payload(roster.payload)  # we never sign what members would refuse
        signed = sign1(
            roster.payload,
            self.issuing_key,
            context=CONTEXT,
            x5chain=[der_of(self.issuing), der_of(self.root)],
        )
        if len(signed) > ROSTER_BYTES_MAX:
            raise BadInput("roster is too large", fix="remove labels, or members that left")
        return signed

    def sign_grant(self, *, group: str, epoch: int, secret: bytes, issued_s: int) -> bytes:
        """The grant by which members believe an epoch of *group*; it names the secret by SHA-256 alone.

        Args: epoch: 1 to 2^32 - 1; secret: 32 random bytes, never used before; issued_s: wall time.
        Raises: BadInput: no group can have that name, number or secret.
        """
        return sign1(
            grant_payload(self.mesh_id, group, epoch, secret, issued_s),
            self.issuing_key,
            context=GRANT_CONTEXT,
            x5chain=[der_of(self.issuing), der_of(self.root)],
        )

    def _leaf(
        self,
        key: ec.EllipticCurvePublicKey | bytes,
        node_id: str,
        usages: frozenset[Usage],
        *,
        now_s: int,
        days: int,
    ) -> bytes:
        return pem_of(
            build_leaf(
                key_of_csr(key) if isinstance(key, bytes) else key,
                issuing=self.issuing,
                issuing_key=self.issuing_key,
                mesh_id=self.mesh_id,
                node_id=node_id,
                usages=usages,
                now_s=now_s,
                serial=self.entropy(16),
                days=days,
            )
        )
