"""Joining end to end: real TLS, real HTTP, one process, 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time

import pytest
from cryptography.x509.oid import NameOID
from fastapi import Response

from edge_node import joining
from edge_node.discovery.mdns import Mdns
from edge_node.discovery.sightings import Advert
from edge_node.home import Home
from edge_node.joining import join, known_gateways, renew
from gateway.api import app as http_app
from gateway.joining import JoiningServer
from security.certificates import floor_s, leaf_sha256
from security.enrolment import REQUEST_BYTES_MAX, JoinCode, JoinLimits, build_request
from security.errors import BadInput, Refused, Unavailable
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft, open_roster
from security.tls import join_probe_context
from tests.support.joined_gateway import GatewayHouse

pytestmark = pytest.mark.slow


@pytest.fixture
async def gateway(tmp_path):
    async with GatewayHouse(tmp_path / "gateway").open() as opened:
        yield opened


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_a_node_joins_and_keeps_what_it_needs(gateway, tmp_path):
    code = await gateway.invite()

    joined = await join(code, tmp_path / "pi", name="pi-1", labels={"site": "a"}, mdns="none")

    assert (joined.mesh_id, joined.node_id) == (gateway.authority.mesh_id, "pi-1")
    assert (joined.gateway, joined.roster_version) == (gateway.address, 2)
    store = KeyStore(tmp_path / "pi" / "keys")
    held = store.identity()
    assert held.leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "pi-1"
    roster = open_roster(store.roster(), root_spki_sha256=store.root_spki_sha256())
    assert roster.member("pi-1").keys[0].spki_sha256 == held.keys.spki_sha256
    assert roster.member("pi-1").keys[0].x25519 == held.keys.x25519_public
    assert roster.member("pi-1").labels == {"site": "a"}
    assert store.joining() is None
    assert store.floor_s() >= floor_s(0) - 1
    assert known_gateways(store) == [("127.0.0.1", gateway.server.port)]
    assert gateway.keeper.current.member("pi-1") is not None


async def test_without_a_name_the_gateway_chooses_one(gateway, tmp_path):
    joined = await join(await gateway.invite(), tmp_path / "pi", mdns="none")

    assert joined.node_id.startswith("node-")


async def test_a_code_works_once(gateway, tmp_path):
    code = await gateway.invite()
    await join(code, tmp_path / "a", name="pi-a", mdns="none")

    with pytest.raises(Refused, match="used already") as refused:
        await join(code, tmp_path / "b", name="pi-b", mdns="none")

    assert "edge-gateway invite" in refused.value.fix
    assert KeyStore(tmp_path / "b" / "keys").identity() is None
    assert gateway.issued == ["pi-a"]


async def test_a_home_that_has_joined_says_so(gateway, tmp_path):
    await join(await gateway.invite(), tmp_path / "pi", name="pi-1", mdns="none")

    with pytest.raises(Refused, match=f"'pi-1' of mesh {gateway.authority.mesh_id}"):
        await join(await gateway.invite(), tmp_path / "pi", name="pi-2", mdns="none")


async def test_an_expired_code_is_refused(gateway, tmp_path):
    code = await gateway.invite(ttl_s=60)
    gateway.clock.ahead_s = 600

    with pytest.raises(Refused, match="expired"):
        await join(code, tmp_path / "pi", mdns="none")
    assert gateway.issued == []


@pytest.mark.parametrize("cut", [1, 5, 40])
async def test_a_truncated_code_is_told_before_anybody_is_asked(gateway, tmp_path, cut):
    code = await gateway.invite()

    with pytest.raises(BadInput, match=r"truncated|altered"):
        await join(code[:-cut], tmp_path / "pi", mdns="none")
    assert not (tmp_path / "pi").exists()


async def test_a_gateway_of_another_mesh_does_not_fit_the_pin(gateway, tmp_path):
    real = JoinCode.parse(await gateway.invite())
    other = JoinCode(bytes(32), real.token_id, real.secret, real.addresses).text()

    with pytest.raises(Refused, match="CA does not match the pin") as refused:
        await join(other, tmp_path / "pi", mdns="none")
    assert gateway.address in str(refused.value)
    assert gateway.issued == []


async def test_a_wrong_secret_is_refused(gateway, tmp_path):
    real = JoinCode.parse(await gateway.invite())
    forged = JoinCode(real.root_spki_sha256, real.token_id, bytes(16), real.addresses).text()

    with pytest.raises(Refused, match="secret"):
        await join(forged, tmp_path / "pi", mdns="none")
    await join(real.text(), tmp_path / "pi", mdns="none")


async def test_a_gateway_that_is_down_is_told_with_the_addresses_tried(gateway, tmp_path):
    dead = f"127.0.0.1:{closed_port()}"
    code = await gateway.invite(addresses=(dead,))

    with pytest.raises(Unavailable, match=f"{dead} refused the connection"):
        await join(code, tmp_path / "pi", mdns="none")


async def test_no_address_at_all_is_told(gateway, tmp_path):
    with pytest.raises(Unavailable, match="no address of a gateway is known"):
        await join(await gateway.invite(addresses=()), tmp_path / "pi", mdns="none")


async def test_a_seed_finds_what_the_code_does_not(gateway, tmp_path):
    code = await gateway.invite(addresses=(f"127.0.0.1:{closed_port()}",))

    joined = await join(code, tmp_path / "pi", mdns="none", seeds=[gateway.address])

    assert joined.gateway == gateway.address


async def test_mdns_finds_what_the_code_does_not_and_a_rogue_only_costs_a_connection(
    gateway, tmp_path, monkeypatch
):
    code = await gateway.invite(addresses=())
    mesh = gateway.authority.mesh_id
    true = Advert(mesh, "gateway", "gateway", (), gateway.server.port, ("127.0.0.1",))
    async with GatewayHouse(tmp_path / "other").open() as stranger:
        rogue = Advert(mesh, "rogue", "gateway", (), stranger.server.port, ("127.0.0.1",))
        async with Mdns("lo", rogue, lambda e: None), Mdns("lo", true, lambda e: None):
            joined = await join(code, tmp_path / "pi", mdns="lo")

    assert joined.gateway == gateway.address
    assert stranger.issued == []


async def test_nobody_on_mdns_is_told(gateway, tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "DISCOVERY_S", 0.2)

    with pytest.raises(Unavailable, match="mDNS saw no gateway"):
        await join(await gateway.invite(addresses=()), tmp_path / "pi", mdns="lo")


async def test_a_taken_name_is_refused_and_the_code_stays_good(gateway, tmp_path):
    await join(await gateway.invite(), tmp_path / "a", name="pi-1", mdns="none")
    code = await gateway.invite()

    with pytest.raises(
        Refused, match=r"the name .* is taken: choose another --name, or `edge-gateway replace"
    ):
        await join(code, tmp_path / "b", name="pi-1", mdns="none")
    assert (await join(code, tmp_path / "b", name="pi-2", mdns="none")).node_id == "pi-2"


@pytest.mark.parametrize("name", ["gateway", "Bad_Name", "x" * 33])
async def test_an_impossible_name_is_told_at_home(gateway, tmp_path, name):
    with pytest.raises(BadInput, match=r"is not allowed|is reserved"):
        await join(await gateway.invite(), tmp_path / "pi", name=name, mdns="none")


async def test_labels_that_do_not_fit_are_told_at_home(gateway, tmp_path):
    with pytest.raises(BadInput, match="at most 8 labels, not 9"):
        await join(
            await gateway.invite(), tmp_path / "pi", labels={f"k{n}": "v" for n in range(9)}, mdns="none"
        )
    assert gateway.issued == []


async def test_ten_homes_race_for_one_code_and_exactly_one_certificate_is_issued(gateway, tmp_path):
    code = await gateway.invite()

    outcomes = await asyncio.gather(
        *(join(code, tmp_path / f"n{n}", name=f"n{n}", mdns="none") for n in range(10)),
        return_exceptions=True,
    )

    winners = [o for o in outcomes if isinstance(o, joining.Joined)]
    assert len(winners) == 1, outcomes
    assert gateway.issued == [winners[0].node_id]
    assert all(isinstance(o, (Refused, Unavailable)) for o in outcomes if o not in winners)
    assert len(gateway.keeper.current.members) == 2
    assert sum(KeyStore(tmp_path / f"n{n}" / "keys").identity() is not None for n in range(10)) == 1


async def test_a_lost_answer_is_given_again(gateway, tmp_path, monkeypatch):
    code = await gateway.invite()
    monkeypatch.setattr(joining, "_keep", lambda *a: (_ for _ in ()).throw(Unavailable("power cut")))
    with pytest.raises(Unavailable, match="power cut"):
        await join(code, tmp_path / "pi", name="pi-1", mdns="none")
    monkeypatch.undo()

    joined = await join(code, tmp_path / "pi", name="pi-1", mdns="none")

    assert joined.node_id == "pi-1"
    assert gateway.issued == ["pi-1"]


async def test_a_pending_node_waits_for_the_operator(gateway, tmp_path, monkeypatch):
    monkeypatch.setattr("security.enrolment._POLL_S", 1)
    code = await gateway.invite(approval="pending")
    told = asyncio.Queue()

    waiting = asyncio.create_task(
        join(code, tmp_path / "pi", name="pi-1", mdns="none", on_waiting=told.put_nowait)
    )
    words = await told.get()
    (pending,) = gateway.server.desk.pending()
    assert (pending.name, pending.words, pending.address) == ("pi-1", words, "127.0.0.1")
    assert len(words.split()) == 6
    assert gateway.issued == []
    await gateway.server.desk.approve("pi-1")

    assert (await waiting).node_id == "pi-1"


async def test_a_denied_node_is_told(gateway, tmp_path, monkeypatch):
    monkeypatch.setattr("security.enrolment._POLL_S", 1)
    code = await gateway.invite(approval="pending")
    told = asyncio.Queue()

    waiting = asyncio.create_task(
        join(code, tmp_path / "pi", name="pi-1", mdns="none", on_waiting=told.put_nowait)
    )
    await told.get()
    await gateway.server.desk.deny("pi-1")

    with pytest.raises(Refused, match="denied"):
        await waiting
    with pytest.raises(BadInput, match="the operator denied the request of pi-1: run"):
        await gateway.server.desk.approve("pi-1")


async def test_a_request_that_nobody_approved_in_time_says_so_on_both_sides(gateway, tmp_path, monkeypatch):
    monkeypatch.setattr("security.enrolment._POLL_S", 1)
    code = await gateway.invite(approval="pending")
    told = asyncio.Queue()
    waiting = asyncio.create_task(
        join(code, tmp_path / "pi", name="pi-1", mdns="none", on_waiting=told.put_nowait)
    )
    await told.get()
    gateway.clock.ahead_s = 601

    said = "the request of pi-1 expired after 10 min: run `edge-node join` again with a new code"
    with pytest.raises(Refused, match=said):
        await waiting
    for decide in (gateway.server.desk.approve, gateway.server.desk.deny):
        with pytest.raises(BadInput, match=said):
            await decide("pi-1")
    assert gateway.issued == []
    again = await join(await gateway.invite(), tmp_path / "pi", name="pi-1", mdns="none")
    assert again.node_id == "pi-1"


async def test_a_full_disk_issues_nothing_and_the_same_code_works_later(gateway, tmp_path):
    code = await gateway.invite()
    gateway.disk_full = True
    with pytest.raises(Unavailable, match="cannot write"):
        await join(code, tmp_path / "pi", name="pi-1", mdns="none", timeout_s=10)
    with pytest.raises(Unavailable, match="cannot write"):
        await gateway.invite()
    assert gateway.issued == []

    gateway.disk_full = False
    assert (await join(code, tmp_path / "pi", name="pi-1", mdns="none")).node_id == "pi-1"


async def test_the_token_is_spent_on_disk_before_anything_is_issued(gateway, tmp_path):
    code = await gateway.invite()
    gateway.hold_issuing = asyncio.Event()
    before = len(gateway.snapshots)

    waiting = asyncio.create_task(join(code, tmp_path / "pi", name="pi-1", mdns="none"))
    while len(gateway.snapshots) == before:
        await asyncio.sleep(0.005)
    assert gateway.issued == []
    gateway.hold_issuing.set()

    await waiting
    assert b"pi-1" in gateway.snapshots[-1]


async def test_a_flood_from_one_address_is_turned_away(tmp_path):
    async with GatewayHouse(tmp_path / "gateway", limits=JoinLimits(per_address=3)).open() as gateway:
        real = JoinCode.parse(await gateway.invite())
        forged = JoinCode(real.root_spki_sha256, "aaaaaa", bytes(16), real.addresses).text()
        for n in range(3):
            with pytest.raises(Refused, match="not known"):
                await join(forged, tmp_path / f"n{n}", mdns="none")

        with pytest.raises(Unavailable, match="too many joining requests") as turned:
            await join(forged, tmp_path / "n9", mdns="none", timeout_s=5)

        assert turned.value.retry_after_s > 5


async def test_a_member_renews_and_both_keys_are_listed(gateway, tmp_path):
    await join(await gateway.invite(), tmp_path / "pi", name="pi-1", mdns="none")
    store = KeyStore(tmp_path / "pi" / "keys")
    old = store.identity()

    renewed = await renew(store)

    new = store.identity()
    assert new.keys.spki_sha256 != old.keys.spki_sha256
    assert renewed.roster.version == 3
    listed = gateway.keeper.current.member("pi-1").keys
    assert [k.spki_sha256 for k in listed] == [new.keys.spki_sha256, old.keys.spki_sha256]
    assert store.previous_identity().keys.spki_sha256 == old.keys.spki_sha256
    assert store.joining() is None


async def test_a_roster_gets_through_a_line_that_is_thinner_than_our_goodbye_is_long(gateway, monkeypatch):
    """A large mesh over a few KB a second: what was answered is sent, the connection is closed after it."""
    monkeypatch.setattr(http_app, "CLOSING_S", 0.1)
    body = bytes(400_000)
    app = http_app.create_app([])
    app.add_api_route("/large", lambda: Response(body, headers={"connection": "close"}))
    async with http_app.HttpsServer(app, "127.0.0.1", 0, gateway.identity.context) as server:
        for listening in server._server.sockets:  # what the kernel buffers is no line
            listening._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        assert len(await asyncio.to_thread(read_slowly, server.port)) >= len(body)


def read_slowly(port: int) -> bytes:
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", port))
        with join_probe_context().wrap_socket(line, server_hostname="gateway") as tls:
            tls.sendall(b"GET /large HTTP/1.1\r\nHost: gateway\r\n\r\n")
            found = tls.recv(1024)
            time.sleep(0.5)  # slow on purpose: five times as long as a closing connection is waited for
            while piece := tls.recv(16384):
                found += piece
    return found


async def test_a_renewals_answer_never_takes_the_stored_roster_back(gateway, tmp_path):
    """The daemon may have adopted a newer one meanwhile, or the gateway may be an old copy of itself."""
    await join(await gateway.invite(), tmp_path / "pi", name="pi-1", mdns="none")
    store = KeyStore(tmp_path / "pi" / "keys")
    held = gateway.keeper.current
    ahead = gateway.authority.sign_roster(
        RosterDraft(held.version + 9, held.digest, held.issued_s, (), (), held.members)
    )
    store.save_roster(ahead)

    await renew(store)

    assert store.roster() == ahead


async def test_a_roster_of_another_mesh_does_not_stand_in_the_way_of_joining(gateway, tmp_path):
    home = Home(tmp_path / "pi")
    home.create()
    store = KeyStore(home.keys)
    async with GatewayHouse(tmp_path / "other").open() as other:
        for n in range(4):
            await other.keeper.add(Member(f"x-{n}", (MemberKey(bytes([n]) * 32, bytes(32), 1),)))
        store.save_roster(other.keeper.signed)
    await join(await gateway.invite(), tmp_path / "pi", name="pi-1", mdns="none")

    assert store.roster() == gateway.keeper.signed


async def test_a_member_that_renews_for_ever_is_told_to_wait(gateway, tmp_path, monkeypatch):
    """Each time costs everybody a roster; a lost answer asked for again costs nothing and is not counted."""
    monkeypatch.setattr("gateway.joining.RENEWALS_EACH", 2)
    await join(await gateway.invite(), tmp_path / "pi", name="pi-1", mdns="none")
    store = KeyStore(tmp_path / "pi" / "keys")
    await renew(store)
    await renew(store)
    with pytest.raises(Unavailable, match="pi-1 renews too often"):
        await renew(store, timeout_s=2)

    version = gateway.keeper.current.version
    gateway.enroller._renewed["pi-1"] = (1.9, gateway.clock.now_ns() - 600 * 10**9)  # ten minutes later
    await renew(store)
    assert gateway.keeper.current.version == version + 1


async def test_a_revoked_member_does_not_renew(gateway, tmp_path):
    await join(await gateway.invite(), tmp_path / "pi", name="pi-1", mdns="none")
    await gateway.keeper.mark("pi-1", "revoked", by="ann", reason="stolen")

    with pytest.raises(Refused, match=r"pi-1 was revoked on .* by ann: stolen: ask for a new code"):
        await renew(KeyStore(tmp_path / "pi" / "keys"))


async def test_a_home_that_never_joined_has_nothing_to_renew(tmp_path):
    with pytest.raises(BadInput, match="joined no mesh"):
        await renew(KeyStore(tmp_path / "keys"))


# -- the port, spoken to by hand


async def spoken(gateway, data, *, then=None):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.server.port, ssl=join_probe_context())
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


async def test_a_request_too_large_is_cut_while_it_is_read(gateway):
    head = b"POST /join HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"

    answer = await spoken(gateway, head + b"x" * (REQUEST_BYTES_MAX + 1))

    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_slow_body_is_cut(gateway, monkeypatch):
    monkeypatch.setattr(
        "gateway.joining.read_body",
        lambda r, bytes_max: http_app.read_body(r, bytes_max=bytes_max, within_s=0.1),
    )

    answer = await spoken(gateway, b"POST /join HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow")

    assert answer.startswith(b"HTTP/1.1 408")


async def test_slow_headers_are_cut(gateway, monkeypatch):
    monkeypatch.setattr(http_app, "HEADERS_S", 0.1)

    assert await spoken(gateway, b"GET /join/health HTTP/1.1\r\nHost:") == b""
    assert await spoken(gateway, b"") == b""


async def test_a_connection_that_never_shakes_hands_is_cut(gateway, monkeypatch, tmp_path):
    monkeypatch.setattr(http_app, "HANDSHAKE_S", 0.1)
    async with GatewayHouse(tmp_path / "hasty").open() as hasty:
        reader, writer = await asyncio.open_connection("127.0.0.1", hasty.server.port)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_connections_are_bounded(gateway, monkeypatch):
    monkeypatch.setattr(http_app, "CONNECTIONS_MAX", 2)
    context = join_probe_context()
    held = [await asyncio.open_connection("127.0.0.1", gateway.server.port, ssl=context) for _ in range(2)]
    for _, writer in held:  # a first byte each, so that the server has surely taken them
        writer.write(b"GET /join/health HTTP/1.1\r\nHost: x\r\n\r\n")
    for reader, _ in held:
        await reader.readuntil(b"}")

    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        answer = await spoken(gateway, b"GET /join/health HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer == b""
    for _, writer in held:
        writer.close()


async def test_the_public_paths_tell_the_chain_and_the_mesh(gateway):
    chain = await spoken(gateway, b"GET /join/chain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    health = await spoken(gateway, b"GET /join/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert chain.partition(b"\r\n\r\n")[2] == gateway.authority.chain_pem
    assert gateway.authority.mesh_id.encode() in health
    for path in ("/docs", "/openapi.json", "/"):
        assert (
            await spoken(gateway, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        ).startswith(b"HTTP/1.1 404")


async def test_tls_1_2_is_refused(gateway):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", gateway.server.port, ssl=old)


async def test_a_request_made_for_another_connection_is_refused(gateway):
    code = JoinCode.parse(await gateway.invite())
    body = build_request(
        code, NodeKeys.generate(), name="pi-1", labels={}, server_leaf_sha256=leaf_sha256(b"other")
    )
    head = f"POST /join HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    assert b"secret does not fit" in await spoken(gateway, head + body)
    assert gateway.issued == []


async def test_noise_in_a_request_is_answered_and_nothing_breaks(gateway, tmp_path):
    for body in (b"", b"\xff" * 100, b"\x9f" * 8000):
        head = f"POST /join HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        assert (await spoken(gateway, head + body)).startswith(b"HTTP/1.1 200")
        renewal = head.replace(b"/join", b"/join/renew")
        assert (await spoken(gateway, renewal + body)).startswith(b"HTTP/1.1 200")
    assert (await spoken(gateway, b"\x00\x01\x02\r\n\r\n")).startswith(b"HTTP/1.1 400")

    await join(await gateway.invite(), tmp_path / "pi", mdns="none")


async def test_a_port_in_use_is_told(gateway):
    with pytest.raises(BadInput, match=f"port {gateway.server.port} on 127.0.0.1 is in use"):
        async with JoiningServer(
            "127.0.0.1",
            gateway.server.port,
            gateway.identity,
            gateway.core,
            gateway.persist,
            gateway.on_joined,
        ):
            pass


async def test_a_stopping_gateway_answers_who_waits(tmp_path):
    async with GatewayHouse(tmp_path / "gateway").open() as gateway:
        gateway.hold_issuing = asyncio.Event()
        code = await gateway.invite()
        before = len(gateway.snapshots)
        waiting = asyncio.create_task(join(code, tmp_path / "pi", mdns="none", timeout_s=2))
        while len(gateway.snapshots) == before:
            await asyncio.sleep(0.005)

    with pytest.raises(Unavailable):
        await waiting


def test_homes_do_not_share_keys_between_codes(tmp_path):
    home = Home(tmp_path / "pi")
    home.create()
    store = KeyStore(home.keys)
    one, other = (JoinCode.make(bytes(32), (), bytes([n]) * 20) for n in (1, 2))

    first = joining._keys_for(store, one)

    assert joining._keys_for(store, one).spki_sha256 == first.spki_sha256
    assert joining._keys_for(store, other).spki_sha256 != first.spki_sha256
