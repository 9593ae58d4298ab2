"""Fault 17: wrong CA, expired, wrong usage, wrong name, TLS 1.2, no certificate: refused, by either side.

At both brokers with every kind of bad certificate of a client; and a link of ours before every kind of bad
broker, to which it must not have said a byte.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_node.transport.link import LinkDown, LinkUp
from edge_node.transport.mqtt import MqttLink
from security.authority import Authority
from security.certificates import DAY_S
from security.identity import dns_name
from security.tls import check_peer, node_context, server_context
from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.certs_for_tests import TestAuthority
from tests.support.links import ROOT, BrokerBed, Ears, up
from tests.support.tls_sides import Listening, store_of_a

FAULT = Fault(
    number=17,
    name="certificates",
    title="wrong CA, expired, wrong EKU, wrong name, TLS 1.2, no certificate: refused on both sides",
    brokers=BOTH,
    full=1_000,
    small=24,
    unit="connections",
    round_max=200,
    round_s=8,
)
BadClient = Callable[[BrokerBed, Path], dict[str, Any]]
CONNECT = b"\x10"


async def refusal(link: MqttLink, ears: Ears) -> str:
    """Why the link does not come up; it must not come up."""
    task = asyncio.create_task(link.run())
    try:
        event = (await ears.until(lambda event: isinstance(event, LinkUp | LinkDown)))[0]
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert isinstance(event, LinkDown), "it was let in"
    return event.reason


def not_let_in(reason: str) -> bool:
    """mosquitto says why in a TLS alert, asyncio's server only hangs up."""
    return reason.startswith("TLS: ") or "our certificate may not be accepted" in reason


# ── bad clients: how the link of member `a` is changed; folder: for files of this attempt ─────────────


def no_certificate(bed: BrokerBed, folder: Path) -> dict[str, Any]:
    return {"no_leaf": True}


def another_ca(bed: BrokerBed, folder: Path) -> dict[str, Any]:
    leaf = TestAuthority(folder / "other").leaf("a")
    context = bed.authority.client_context(None)
    context.load_cert_chain(leaf.cert_file, leaf.key_file)
    return {"tls": lambda: context}


def expired(bed: BrokerBed, folder: Path) -> dict[str, Any]:
    return {"leaf": bed.authority.leaf("a", days=-1, filed_as="expired")}


def another_usage(bed: BrokerBed, folder: Path) -> dict[str, Any]:
    usages = (ExtendedKeyUsageOID.SERVER_AUTH,)
    return {"leaf": bed.authority.leaf("a", usages=usages, filed_as="server-only")}


def tls_1_2(bed: BrokerBed, folder: Path) -> dict[str, Any]:
    context = bed.authority.client_context(bed.leaves["a"])
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return {"tls": lambda: context}


def signed_by_a_member(bed: BrokerBed, folder: Path) -> dict[str, Any]:
    """A chain that ends in a member's leaf, which is no CA."""
    forger = TestAuthority(folder / "forger")
    leaf = forger.leaf("a")
    chain = leaf.cert_file.read_bytes() + bed.leaves["c"].cert_file.read_bytes()
    leaf.cert_file.write_bytes(chain)
    context = bed.authority.client_context(None)
    context.load_cert_chain(leaf.cert_file, leaf.key_file)
    return {"tls": lambda: context}


BAD_CLIENTS: list[BadClient] = [
    no_certificate, another_ca, expired, another_usage, tls_1_2, signed_by_a_member,
]  # fmt: skip


async def client_refused(
    bed: BrokerBed, bad: Callable[[BrokerBed, Path], dict[str, Any]], folder: Path
) -> None:
    ears = Ears()
    reason = await refusal(bed.link("a", ears, **bad(bed, folder)), ears)
    assert not_let_in(reason), f"{bad.__name__}: {reason}"


async def by_a_broker(scratch: Path, seed: int, count: int, *, broker: str) -> Figures:
    """Drawn bad clients, one after the other, beside an honest member that is never cut."""
    rng, bed, honest = random.Random(seed), BrokerBed(broker, scratch), Ears()
    async with bed.running(), up(bed.link("b", honest), honest, [f"{ROOT}/d/b/+"]) as link:
        for n in range(count):
            await client_refused(bed, rng.choice(BAD_CLIENTS), scratch / f"attempt-{n}")
        link.send(1, f"{ROOT}/d/b/b", b"still here")
        assert await honest.payloads(count=1) == [b"still here"]
        assert not [event for event in honest.heard if isinstance(event, LinkDown)]
    return {}


# ── bad brokers: what they listen with, and how our link is changed ───────────────────────────────────


def _showing(
    folder: Path, mesh: Authority, signer: Authority, name: str = "broker", **how: Any
) -> ssl.SSLContext:
    how.setdefault("usages", ("server",))
    store = store_of_a(folder, signer, name, **how)
    return server_context(store.identity_path, mesh.root, client_certificates=True)


def _showing_well(folder: Path, mesh: Authority) -> ssl.SSLContext:
    return _showing(folder, mesh, mesh)


def broker_of_another_ca(folder: Path, mesh: Authority) -> ssl.SSLContext:
    return _showing(folder, mesh, Authority.create(now_s=int(time.time()), entropy=os.urandom))


def expired_broker(folder: Path, mesh: Authority) -> ssl.SSLContext:
    return _showing(folder, mesh, mesh, now_s=int(time.time()) - 31 * DAY_S)


def member_that_plays_broker(folder: Path, mesh: Authority) -> ssl.SSLContext:
    return _showing(folder, mesh, mesh, usages=("client",))


def broker_of_another_name(folder: Path, mesh: Authority) -> ssl.SSLContext:
    return _showing(folder, mesh, mesh, "gateway", usages=("client", "server"))


def broker_of_tls_1_2(folder: Path, mesh: Authority) -> ssl.SSLContext:
    context = _showing(folder, mesh, mesh)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


BAD_BROKERS = [
    broker_of_another_ca, expired_broker, member_that_plays_broker, broker_of_another_name, broker_of_tls_1_2,
]  # fmt: skip


async def by_a_link(scratch: Path, seed: int, count: int) -> Figures:
    """Drawn bad brokers: the link names a reason and has not said a byte; a good one is told CONNECT."""
    rng, now_s = random.Random(seed), int(time.time())
    mesh = Authority.create(now_s=now_s - 40 * DAY_S, entropy=os.urandom)
    node = store_of_a(scratch, mesh, "pi-1")
    for showing in [_showing_well, *(rng.choice(BAD_BROKERS) for _ in range(count))]:
        ears = Ears()
        async with Listening(showing(scratch, mesh)) as broker:
            port = broker.port
            link = MqttLink(
                addresses=lambda port=port: [("127.0.0.1", port)], client_id="pi-1",
                tls=lambda: node_context(node.identity_path, mesh.root),
                server_name=dns_name(mesh.mesh_id, "broker"), inbox=ears.inbox, rng=rng,
                check_peer=lambda sock: check_peer(sock, floor_s=now_s) and None,
            )  # fmt: skip
            assert await refusal(link, ears), showing.__name__
        heard = b"".join(broker.met.received)
        if showing is _showing_well:
            assert heard[:1] == CONNECT, "nothing is heard here even of what is said"
        else:
            assert heard == b"", f"{showing.__name__} was told {heard!r}"
    return {}


async def run(context: Context) -> Outcome:
    at_the_broker = functools.partial(by_a_broker, broker=context.broker)
    return await tried(context, {at_the_broker: 0.5, by_a_link: 0.5})
