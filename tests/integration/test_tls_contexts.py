"""TLS with real sockets on 127.0.0.1: who is refused, by whom, and before a byte of ours has crossed."""

import asyncio
import functools
import os
import ssl
import time

import pytest

from security.authority import Authority
from security.certificates import (
    DAY_S,
    build_leaf,
    der_of,
    leaf_sha256,
    not_after_s,
    pem_of,
    read_certificate,
    read_pem,
    verify_chain,
    verify_leaf,
)
from security.enrolment import (
    Asked,
    Issue,
    Issued,
    JoinCode,
    JoinDesk,
    Joined,
    Persisted,
    PersistInvitations,
    Reply,
    accepted,
    build_request,
    read_answer,
)
from security.errors import BadInput, ProtocolViolation
from security.identity import NodeKeys, dns_name, private_pem, spki_sha256
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft
from security.tls import (
    check_peer,
    join_context,
    join_probe_context,
    node_context,
    server_context,
    server_leaf_sha256,
)
from tests.support.tls_sides import ANSWER, Listening, Met, store_of_a

NOW_S = int(time.time())  # brokers judge clients by the system's clock


@pytest.fixture(scope="module")
def mesh():
    return Authority.create(now_s=NOW_S, entropy=os.urandom)


@pytest.fixture(scope="module")
def stranger():
    return Authority.create(now_s=NOW_S, entropy=os.urandom)


@pytest.fixture
def store_of(tmp_path):
    """Key stores by what their identity is: (authority, name, usages, now) in one file each."""
    return functools.partial(store_of_a, tmp_path)


async def talk(port, context, server_name, *, floor_s=NOW_S):
    """Connect, check the peer, only then send; the answer."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=server_name, ssl_handshake_timeout=5
    )
    try:
        check_peer(writer.get_extra_info("ssl_object"), floor_s=floor_s)
        writer.write(b"hello\n")
        await writer.drain()
        answer = await reader.readline()
        if answer != ANSWER:
            raise ConnectionError("closed without an answer")
        return answer
    finally:
        writer.close()


def broker_context(store_of, mesh, **more):
    return server_context(
        store_of(mesh, "broker", usages=("server",)).identity_path,
        mesh.root,
        client_certificates=True,
        **more,
    )


def broker_name(mesh):
    return dns_name(mesh.mesh_id, "broker")


async def test_a_member_and_its_broker_meet(mesh, store_of):
    node = store_of(mesh, "pi-1")
    async with Listening(broker_context(store_of, mesh)) as broker:
        answer = await talk(broker.port, node_context(node.identity_path, mesh.root), broker_name(mesh))
        (peer,) = broker.met.peers

    assert answer == ANSWER
    proven = verify_leaf(
        [mesh.issuing, mesh.root],
        read_certificate(peer),
        root_spki_sha256=mesh.root_spki_sha256,
        usage="client",
        floor_s=NOW_S,
    )
    assert (proven.node_id, proven.spki_sha256) == ("pi-1", node.identity().keys.spki_sha256)


# -- refused by the connecting side


async def refused_by_client(listening_context, mesh, store_of, *, name=None, floor_s=NOW_S):
    node = store_of(mesh, "pi-1")
    async with Listening(listening_context) as broker:
        with pytest.raises((ssl.SSLError, ProtocolViolation)) as caught:
            await talk(
                broker.port,
                node_context(node.identity_path, mesh.root),
                name or broker_name(mesh),
                floor_s=floor_s,
            )
    assert b"hello\n" not in broker.met.received
    return str(caught.value)


async def test_a_broker_of_another_ca_is_refused(mesh, stranger, store_of):
    listening = server_context(
        store_of(stranger, "broker", usages=("server",)).identity_path, mesh.root, client_certificates=True
    )

    assert "certificate verify failed" in await refused_by_client(
        listening, mesh, store_of, name=broker_name(stranger)
    )


async def test_a_broker_that_expired_before_the_floor_is_refused_before_a_byte_is_sent(mesh, store_of):
    listening = broker_context(store_of, mesh)

    assert "expired" in await refused_by_client(listening, mesh, store_of, floor_s=NOW_S + 40 * DAY_S)


async def test_a_member_that_plays_broker_is_refused_for_its_usage(mesh, store_of):
    """Right CA, right name in its certificate, but made for clients."""
    fake = store_of(mesh, "broker", usages=("client",))
    listening = server_context(fake.identity_path, mesh.root, client_certificates=True)

    assert "certificate verify failed" in await refused_by_client(listening, mesh, store_of)


async def test_a_server_under_another_name_is_refused(mesh, store_of):
    gateway = store_of(mesh, "gateway", usages=("client", "server"))
    listening = server_context(gateway.identity_path, mesh.root, client_certificates=True)

    assert "certificate verify failed: Hostname mismatch" in await refused_by_client(
        listening, mesh, store_of
    )


async def test_a_server_that_speaks_tls_1_2_only_is_refused(mesh, store_of):
    """The same server meets a client that is content with 1.2: the version alone is what refuses it."""
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.maximum_version = ssl.TLSVersion.TLSv1_2
    listening.load_cert_chain(store_of(mesh, "broker", usages=("server",)).identity_path)
    content = node_context(store_of(mesh, "pi-1").identity_path, mesh.root)
    strict = node_context(store_of(mesh, "pi-1").identity_path, mesh.root)
    content.minimum_version = ssl.TLSVersion.TLSv1_2

    async with Listening(listening) as broker:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await talk(broker.port, strict, broker_name(mesh))
        assert broker.met == Met()
        with pytest.raises(ProtocolViolation, match=r"peer speaks TLSv1\.2, TLS 1\.3 is required"):
            await talk(broker.port, content, broker_name(mesh))


async def test_a_server_without_its_issuing_ca_is_refused(mesh, store_of, tmp_path):
    identity = store_of(mesh, "broker", usages=("server",)).identity()
    bare = tmp_path / "bare.pem"
    bare.write_bytes(private_pem(identity.keys.signing) + pem_of(identity.leaf))
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(bare)

    assert "certificate verify failed" in await refused_by_client(listening, mesh, store_of)


# -- refused by the listening side


async def refused_by_server(connecting, mesh, store_of):
    """In TLS 1.3 a client learns of its refusal with its first read; the server's handler never ran."""
    async with Listening(broker_context(store_of, mesh)) as broker:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await talk(broker.port, connecting, broker_name(mesh))
        assert broker.met == Met()


async def test_a_client_without_a_certificate_is_refused(mesh, store_of):
    await refused_by_server(join_context(mesh.root), mesh, store_of)


async def test_a_client_of_another_ca_is_refused(mesh, stranger, store_of):
    await refused_by_server(node_context(store_of(stranger, "pi-1").identity_path, mesh.root), mesh, store_of)


async def test_an_expired_client_is_refused(mesh, store_of):
    old = store_of(mesh, "pi-1", now_s=NOW_S - 31 * DAY_S)

    await refused_by_server(node_context(old.identity_path, mesh.root), mesh, store_of)


async def test_the_brokers_certificate_is_no_clients(mesh, store_of):
    broker = store_of(mesh, "broker", usages=("server",))

    await refused_by_server(node_context(broker.identity_path, mesh.root), mesh, store_of)


async def test_a_client_that_speaks_tls_1_2_only_is_refused(mesh, store_of):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_verify_locations(cadata=mesh.root_pem.decode())
    old.load_cert_chain(store_of(mesh, "pi-1").identity_path)

    await refused_by_server(old, mesh, store_of)


async def test_a_client_signed_by_a_member_is_refused(mesh, store_of, tmp_path):
    member = store_of(mesh, "pi-1").identity()
    keys = NodeKeys.generate()
    forged = build_leaf(
        keys.public,
        issuing=member.leaf,
        issuing_key=member.keys.signing,
        mesh_id=mesh.mesh_id,
        node_id="gateway",
        usages=frozenset({"client"}),
        now_s=NOW_S,
        serial=os.urandom(16),
    )
    path = tmp_path / "forged.pem"
    path.write_bytes(private_pem(keys.signing) + pem_of(forged, member.leaf, mesh.issuing))

    await refused_by_server(node_context(path, mesh.root), mesh, store_of)


# -- clocks that lie


@pytest.mark.parametrize("years", [-10, 10])
async def test_a_node_whose_clock_is_years_off_still_meets_its_broker(years, store_of):
    """The mesh lives *years* away from this system's clock; the floor comes from what is signed."""
    then_s = NOW_S + years * 365 * DAY_S
    mesh = Authority.create(now_s=then_s, entropy=os.urandom)
    node = store_of(mesh, "pi-1", now_s=then_s)
    broker = store_of(mesh, "broker", usages=("server",), now_s=then_s)
    listening = server_context(broker.identity_path, mesh.root, client_certificates=True, check_time=False)

    async with Listening(listening) as broker_side:
        answer = await talk(
            broker_side.port,
            node_context(node.identity_path, mesh.root),
            broker_name(mesh),
            floor_s=then_s,
        )

    assert answer == ANSWER


# -- files


def test_a_missing_or_damaged_identity_names_its_fix(mesh, store_of):
    store = store_of(mesh, "pi-1")
    store.write("identity.pem", b"nonsense")
    with pytest.raises(BadInput, match="does not hold a key and its certificate: restore it"):
        node_context(store.identity_path, mesh.root)
    store.remove("identity.pem")
    with pytest.raises(BadInput, match="is missing: join a mesh first"):
        node_context(store.identity_path, mesh.root)


# -- joining, as it happens on the wire


async def ask(port, context, server_name, line, *, floor_s):
    """One request line out, everything back; (answer, what the server showed)."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=server_name, limit=2**20
    )
    try:
        shown = server_leaf_sha256(writer.get_extra_info("ssl_object"))
        if floor_s is not None:
            check_peer(writer.get_extra_info("ssl_object"), floor_s=floor_s)
        writer.write((line(shown) if callable(line) else line).hex().encode() + b"\n")
        await writer.drain()
        return bytes.fromhex((await reader.readline()).decode())
    finally:
        writer.close()


class JoiningPort:
    """A joining server in small: an empty line gets the CA chain, anything else is a request."""

    def __init__(self, mesh, store):
        self.mesh, self.desk = mesh, JoinDesk(root_spki_sha256=mesh.root_spki_sha256)
        self.context = server_context(store.identity_path, mesh.root, client_certificates=False)
        self.leaf_hash = leaf_sha256(der_of(store.identity().leaf))

    async def serve(self, reader, writer):
        request = bytes.fromhex((await reader.readline()).decode())
        if not request:
            answer = self.mesh.chain_pem
        else:
            (answer,) = self._run(self.desk.handle(NOW_S, Asked(1, request, self.leaf_hash, "127.0.0.1")))
        writer.write(answer.hex().encode() + b"\n")
        await writer.drain()
        writer.close()

    def _run(self, effects):
        replies = []
        for effect in effects:
            match effect:
                case PersistInvitations(token):
                    replies += self._run(self.desk.handle(NOW_S, Persisted(token)))
                case Issue(token_id, node_id, key, x25519):
                    leaf = self.mesh.issue(key, node_id, now_s=NOW_S)
                    member = Member(node_id, (MemberKey(spki_sha256(key), x25519, NOW_S),))
                    roster = self.mesh.sign_roster(RosterDraft(1, bytes(32), NOW_S, (), (), (member,)))
                    answer = accepted(leaf, self.mesh.chain_pem, roster, wall_s=NOW_S, brokers=())
                    replies += self._run(self.desk.handle(NOW_S, Issued(token_id, answer)))
                case Reply(_, body):
                    replies.append(body)
        return replies


async def test_a_node_joins_over_tls_and_keeps_what_it_got(mesh, store_of, tmp_path):
    port_side = JoiningPort(mesh, store_of(mesh, "gateway", usages=("client", "server")))
    code, effects = port_side.desk.invite(NOW_S, entropy=os.urandom(20), addresses=())
    port_side._run(effects)
    code, keys = JoinCode.parse(code.text()), NodeKeys.generate()
    server = await asyncio.start_server(port_side.serve, "127.0.0.1", 0, ssl=port_side.context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        chain = await ask(port, join_probe_context(), None, b"", floor_s=None)
        issuing, root = verify_chain(read_pem(chain), root_spki_sha256=code.root_spki_sha256)
        answer = await ask(
            port,
            join_context(root),
            dns_name(code.mesh_id, "gateway"),
            lambda shown: build_request(code, keys, name="pi-1", labels={}, server_leaf_sha256=shown),
            floor_s=0,
        )
    joined = read_answer(answer, root_spki_sha256=code.root_spki_sha256, keys=keys, name="pi-1", floor_s=0)
    assert isinstance(joined, Joined)
    store = KeyStore(tmp_path / "joined")
    store.save_root(joined.root_pem)
    store.save_identity(keys, leaf_pem=joined.leaf_pem, issuing_pem=joined.issuing_pem)

    assert issuing == mesh.issuing
    async with Listening(broker_context(store_of, mesh)) as broker:
        assert await talk(
            broker.port,
            node_context(store.identity_path, store.root()),
            broker_name(mesh),
            floor_s=joined.floor_s,
        )
    assert not_after_s(store.identity().leaf) == NOW_S + 30 * DAY_S


async def test_a_gateway_of_another_mesh_never_sees_the_request(mesh, stranger, store_of):
    """Someone answers at the gateway's address: its CA is not the pinned one, nothing secret is sent."""
    port_side = JoiningPort(stranger, store_of(stranger, "gateway", usages=("client", "server")))
    server = await asyncio.start_server(port_side.serve, "127.0.0.1", 0, ssl=port_side.context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        chain = await ask(port, join_probe_context(), None, b"", floor_s=None)
        with pytest.raises(ProtocolViolation, match="CA does not match the pinned root"):
            verify_chain(read_pem(chain), root_spki_sha256=mesh.root_spki_sha256)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(port, join_context(mesh.root), dns_name(mesh.mesh_id, "gateway"), b"request", floor_s=0)
