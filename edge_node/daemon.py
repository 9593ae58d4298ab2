"""The node daemon: `python -m edge_node.daemon`, what `edge-node up` becomes.

Opens the home, holds its lock, builds the agent with its real devices, serves the control socket, and
prints one `ready` line on stdout once work is accepted. SIGTERM and SIGINT drain: running work is
finished, waiting work handed back, goodbye said on mDNS and to the broker, exit 0.

Imports neither typer, rich nor anything else that only a terminal needs: it stays under 50 MB.
"""

from __future__ import annotations

import edge_node.slim  # noqa: F401  first: what is loaded before it cannot be left out any more

# isort: split
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from edge_node import logs, residence, threads
from edge_node.agent import Agent
from edge_node.backend import AgentBackend
from edge_node.clock import Clock, SystemClock
from edge_node.control.server import ControlServer
from edge_node.functions.limits import PoolSettings
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.functions.runtimes.runtime import OnDone, OnStarted, Runtime
from edge_node.home import Home, chosen_home, node_home
from edge_node.membership.standing import Standing, why_out
from edge_node.settings import NodeSettings, load
from edge_node.tasks.journal import Journal, open_journal
from edge_node.transport.inbox import Inbox
from edge_node.transport.mqtt import MqttLink
from edge_node.wire.topics import Presence, topic_for
from security import tls
from security.errors import BadInput, EdgeweaveError, ProtocolViolation
from security.identity import dns_name
from security.keystore import KeyStore, StoredIdentity
from security.roster import RosterView

log = logging.getLogger("edge_node.daemon")

DRAIN_S = 10.0
"""Running work is given this long at SIGTERM; what is not done by then comes back by its lease or ledger."""
READY_LINK_S = 2.5
"""The ready line waits this long for the broker and the gateway; without them local work is accepted."""


def main(argv: Sequence[str] | None = None) -> int:
    options = options_of(argv, ("home", "mdns", "log-level"))
    as_json = "json" in options
    return run_daemon(partial(_node, options, as_json), as_json=as_json)


async def _node(options: dict[str, str], as_json: bool) -> None:
    home = chosen_home(options.get("home"), default=node_home())
    home.create()
    settings = load(
        NodeSettings,
        home.settings,
        options={"discovery.mdns": options.get("mdns"), "log.level": options.get("log-level")},
    )
    with home.hold():
        logs.start(home.logs, settings.log)
        keystore = KeyStore(home.keys)
        identity, roster = membership(keystore)
        previous = keystore.previous_identity()
        assert roster.current is not None, "a member has a roster"
        out = why_out(identity, previous, roster.current)
        if out is not None:
            raise out
        node_id = _name_of(identity)
        clock = SystemClock()
        inbox = Inbox(settings.link.inbox_messages_max)
        link = mqtt_link(node_id, roster, keystore, settings, inbox, clock, lambda: agent.broker_addresses())  # noqa: PLW0108  made below
        agent = Agent(
            node_id=node_id,
            home=home,
            settings=settings,
            keys=identity.keys,
            keystore=keystore,
            roster=roster,
            inbox=inbox,
            link=link,
            runtime=worker_pool(settings),
            journal=journal_of(home, roster, node_id),
            clock=clock,
            mdns=mdns_interface(settings),
        )
        standing = Standing(
            node_id,
            roster,
            keys=lambda: agent.keys.spki_sha256,
            previous=previous.keys.spki_sha256 if previous is not None else None,
            linked=lambda: agent.link.up,
            ask=partial(_roster_of_gateway, agent),
            adopt=lambda signed: agent.soon(partial(agent.adopt_roster, signed=signed)),
        )
        await serve(agent, AgentBackend(agent), home, ready={}, as_json=as_json, standing=standing)


async def _roster_of_gateway(agent: Agent) -> bytes:
    from edge_node import joining  # only while there is no broker: it and what it needs take 2 MB

    sighted = [a for s in agent.sightings.gateways(agent.mesh_id) for a in s.joins]
    return await joining.roster_of_gateway(agent.keystore, addresses=sighted)


def options_of(argv: Sequence[str] | None, names: Sequence[str]) -> dict[str, str]:
    """`--name VALUE` pairs and `--json`; `edge-node up` has checked them. argparse would cost 0.5 MB.

    Raises: SystemExit: with one line.
    """
    words = iter(sys.argv[1:] if argv is None else argv)
    found: dict[str, str] = {}
    for word in words:
        name, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or (name not in names and name != "json"):
            raise SystemExit(f"error: {word!r} is no option here: see `edge-node up --help`")
        if name == "json":
            found[name] = "yes"
        elif has_value:
            found[name] = value
        else:
            found[name] = next(words, "")
    return found


# ── parts that the gateway's house builds alike ───────────────────────────────────────────────────────


def membership(keystore: KeyStore) -> tuple[StoredIdentity, RosterView]:
    """Who this home is, and the roster it last saw. Raises: BadInput: it has not joined, or is damaged."""
    identity = keystore.identity()
    pin = keystore.root_spki_sha256()
    signed = keystore.roster()
    if identity is None or pin is None or signed is None:
        raise BadInput(
            f"this home ({keystore.directory.parent}) has not joined a mesh",
            fix="run `edge-gateway invite` on the gateway, then `edge-node join CODE` here",
        )
    try:
        return identity, RosterView(root_spki_sha256=pin, signed=signed)
    except ProtocolViolation as violation:
        raise BadInput(f"the kept roster does not verify: {violation.cause}", fix="join again") from None


def _name_of(identity: StoredIdentity) -> str:
    from cryptography.x509.oid import NameOID

    return str(identity.leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def mdns_interface(settings: NodeSettings) -> str | None:
    return None if settings.discovery.mdns == "auto" else settings.discovery.mdns


def mqtt_link(
    node_id: str,
    roster: RosterView,
    keystore: KeyStore,
    settings: NodeSettings,
    inbox: Inbox,
    clock: Clock,
    addresses: Callable[[], list[tuple[str, int]]],
) -> MqttLink:
    """The link of a member: its certificate towards `broker.<mesh>.mesh`, whatever the address."""
    root = keystore.root()
    assert root is not None and roster.current is not None
    mesh_id = roster.current.mesh_id
    floor_s = keystore.floor_s()

    def check(sock: Any) -> None:
        tls.check_peer(sock, floor_s=max(floor_s, roster.current.issued_s if roster.current else 0))

    return MqttLink(
        addresses=addresses,
        client_id=node_id,
        tls=lambda: tls.node_context(keystore.identity_path, root),
        server_name=dns_name(mesh_id, "broker"),
        inbox=inbox,
        will_topic=topic_for(Presence(mesh_id, node_id)),
        check_peer=check,
        keepalive_s=settings.link.keepalive_s,
    )


def worker_pool(settings: NodeSettings, count: int = 0) -> Callable[[OnDone, OnStarted], Runtime]:
    workers = count or settings.worker.count or os.cpu_count() or 1

    def build(on_done: OnDone, on_started: OnStarted) -> Runtime:
        return WorkerPool(
            workers,
            on_done=on_done,
            on_started=on_started,
            slowdown=settings.board.slowdown,
            settings=PoolSettings(start_timeout_s=settings.worker.start_s_max),
        )

    return build


def journal_of(home: Home, roster: RosterView, node_id: str) -> Journal:
    """The ledger's journal. A damaged file is set aside, loudly, and what can be saved goes on (P6)."""
    assert roster.current is not None
    journal = open_journal(
        home.ledger, mesh_id=roster.current.mesh_id, node_id=node_id, now_ms=SystemClock().wall_ms()
    )
    for losses in journal.losses:
        log.critical(
            "the ledger was damaged: it was set aside, and what could be read of it was saved",
            extra={
                "cause": losses.cause,
                "kept_as": losses.aside,
                "rows_saved": losses.rows_kept,
                "gaps": len(losses.gaps),
                "lost": list(losses.lost[:100]),
            },
        )
    return journal


# ── life ──────────────────────────────────────────────────────────────────────────────────────────────


def run_daemon(house: Callable[[], Any], *, as_json: bool) -> int:
    """Run to the end; one line for what a person can mend, a traceback in the log for what they cannot."""
    os.umask(0o077)  # whatever a daemon writes is its user's alone
    try:
        asyncio.run(_until_told(house))
    except (KeyboardInterrupt, asyncio.CancelledError):  # told to stop before there was anything to drain
        return 0
    except BaseExceptionGroup as group:
        known = _first_known(group)
        if known is None:
            log.exception("the daemon made a mistake")
            raise
        return _say(known, as_json)
    except EdgeweaveError as error:
        return _say(error, as_json)
    return 0


async def _until_told(house: Callable[[], Any]) -> None:
    """SIGTERM while starting ends us as Ctrl-C does; once work is accepted, `serve` drains at it."""
    starting = asyncio.current_task()
    assert starting is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, starting.cancel)
    threads.stand(loop)
    await house()


def _first_known(group: BaseExceptionGroup[BaseException]) -> EdgeweaveError | None:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found = _first_known(error)
            if found is not None:
                return found
        elif isinstance(error, EdgeweaveError):
            return error
    return None


def _say(error: EdgeweaveError, as_json: bool) -> int:
    """The one line with which a daemon ends, as every other command says it."""
    from edge_node.commands.exits import as_json as json_of
    from edge_node.commands.exits import as_line, code_of

    if as_json:
        sys.stdout.write(json_of(error) + "\n")
    else:
        sys.stderr.write(as_line(error, "edge-gateway" if "gateway" in sys.argv[0] else "edge-node") + "\n")
    logs.leave_stderr()
    log.error("stopped", extra={"cause": error.cause, "fix": error.fix})
    return code_of(error)[0]


async def serve(
    agent: Agent,
    backend: AgentBackend,
    home: Home,
    *,
    ready: dict[str, Any],
    as_json: bool,
    standing: Standing | None = None,
) -> None:
    """Run agent and control socket until SIGTERM or SIGINT, then drain.

    Raises: Refused: *standing* found that this member was shut out of its mesh.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as house:
        running = house.create_task(agent.run(), name="agent")
        await _either(agent.ready(), running)
        control = ControlServer(home.socket, backend)
        await control.listen()
        agent.at_turn_end.append(control.flush)
        serving = house.create_task(control.run(), name="control")
        await _linked(agent, stop)
        if not stop.is_set():
            residence.keep_for_good()
            _tell_ready(agent, home, ready, as_json)
            loop.call_later(residence.SETTLED_S, residence.give_back, residence.code_mapped())
        ends = {running, serving, house.create_task(stop.wait(), name="stop")}
        if standing is not None:
            agent.at_turn_end.append(standing.look)
            ends.add(house.create_task(standing.run(), name="standing"))
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            log.info("draining")
            await agent.drain(DRAIN_S)
        for task in ends:
            task.cancel()
    log.info("stopped")


async def _either(wanted: Any, running: asyncio.Task[None]) -> None:
    waiting = asyncio.ensure_future(wanted)
    await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()


async def _linked(agent: Agent, stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_LINK_S):
            while not stop.is_set():
                there = agent.node_id == "gateway" or "gateway" in agent.detector.up()
                if agent.link.up and there:
                    return
                await asyncio.sleep(0.02)


def _tell_ready(agent: Agent, home: Home, ready: dict[str, Any], as_json: bool) -> None:
    facts = {
        "event": "ready",
        "node": agent.node_id,
        "mesh": agent.mesh_id,
        "pid": os.getpid(),
        "home": str(home.path),
        "broker": "connected" if agent.link.up else "not connected",
        **ready,
    }
    if as_json:
        text = json.dumps(facts)
    else:
        extra = "".join(f" · {key} {value}" for key, value in ready.items() if value)
        text = f"ready: {agent.node_id} of mesh {agent.mesh_id} · broker {facts['broker']}{extra}"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    log.info("ready", extra={"node": agent.node_id, "broker": facts["broker"]})


if __name__ == "__main__":
    sys.exit(main())
