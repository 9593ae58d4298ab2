"""``edge-gateway``: the command line of a gateway.

Its own commands are about the fleet; giving work is the same as on a node (``edge_node.commands.work``).
"""

from __future__ import annotations

import asyncio
import getpass
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from edge_node import doctor as examination
from edge_node.cli import LogLevel, Mdns, examined, report
from edge_node.client import Mesh
from edge_node.commands import completion, events, exits, launch, measuring, state, store, why, work
from edge_node.commands.door import Program
from edge_node.commands.inputs import parse_duration
from edge_node.commands.terminal import Terminal
from edge_node.home import Home, gateway_home
from edge_node.settings import load
from gateway import access_commands, backup_commands
from gateway import doctor as gateway_examination
from gateway.settings import GatewaySettings
from security.certificates import pem_of, spki_sha256_of
from security.enrolment import checked_token_id
from security.errors import BadInput, Unavailable
from security.identity import GATEWAY, mesh_id_of
from security.keystore import KeyStore
from security.roster import BY_MAX, ROLES

NODE_COLUMNS = (
    "id", "status", "state", "up", "roles", "labels", "workers", "load", "address", "last_seen_at_ms",
    "fingerprint", "since_at_ms", "by", "reason",
)  # fmt: skip
PINGS_MAX = 16
"""At once: each is a sealed message and its answer."""
MEMBER_COLUMNS = ("id", "status", "roles", "labels", "keys")

# Of the extra [gateway]; amqtt may be missing beside mosquitto.
GATEWAY_LIBRARIES = ("fastapi", "uvicorn", "argon2")

FLAGS = {"broker.kind": "--broker", "broker.port": "--broker-port", "log.level": "--log-level"}


def afar(url: str, token: str, token_file: str, ca: str, home: Home) -> Callable[[], Mesh]:
    """A way to a gateway on another machine. Raises: BadInput."""
    from gateway.afar.line import AfarMesh  # only where it is asked for: HTTP takes a while to load
    from gateway.afar.trust import reach_of

    reach = reach_of(url, token=token, token_file=token_file, ca=ca)
    return lambda: AfarMesh(home, reach)


program = Program(
    "edge-gateway",
    default_home=gateway_home,
    help_text="The front door of an edgeweave mesh: broker, joining, member list, code, offloaded work.",
    afar=afar,
)
app = program.app


@program.command("up", here="it starts the daemon")
def up(
    terminal: Terminal,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="ADDR", help="Address to listen on; default by settings (every interface)."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="PORT", min=0, max=65535, help="TCP port for joining; default 8443, 0: any."
        ),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            "--broker",
            metavar="auto|mosquitto|embedded",
            help="Which broker to run; auto: mosquitto if installed.",
        ),
    ] = None,
    broker_port: Annotated[
        int | None,
        typer.Option(
            "--broker-port",
            metavar="PORT",
            min=0,
            max=65535,
            help="TCP port of the broker; default 8883, 0: any.",
        ),
    ] = None,
    mdns: Mdns = None,
    log_level: LogLevel = None,
) -> None:
    """Run the gateway's daemon in the foreground; the first time, it makes the mesh."""
    options = {
        "joining.listen": listen,
        "joining.port": port,
        "broker.kind": broker,
        "broker.port": broker_port,
        "discovery.mdns": mdns,
        "log.level": log_level,
    }
    settings = load(GatewaySettings, terminal.home.settings, options=options, flags=FLAGS)
    missing = [name for name in GATEWAY_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"a gateway needs {' and '.join(missing)}, which this environment lacks",
            fix="pip install 'edgeweave[gateway]'",
        )
    terminal.home.create()
    launch.check_free(terminal.home)
    taken = examination.port_free("joining", settings.joining.listen, settings.joining.port)
    if taken.failed:
        raise Unavailable(taken.detail, fix=taken.fix)
    launch.become(
        "gateway.daemon",
        terminal.home,
        {
            "listen": listen,
            "port": port,
            "broker": broker,
            "broker-port": broker_port,
            "mdns": mdns,
            "log-level": log_level,
            "json": terminal.json,
        },
    )


@program.command("invite")
def invite(
    terminal: Terminal,
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="TIME", help="How long the code is good, as 15m, 1h or 2d.")
    ] = "1h",
    approval: Annotated[
        str,
        typer.Option(
            "--approval",
            metavar="auto|pending",
            help="auto: the code is enough; pending: each node waits for `approve`.",
        ),
    ] = "auto",
    name: Annotated[
        str | None, typer.Option("--name", metavar="N", help="The only name that the joining node may take.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="deployer: may publish code; store: its copy of the tables is believed. Repeatable.",
        ),
    ] = None,
) -> None:
    """Print a join code for one node; shown once, good for one use."""
    unknown = sorted(set(role or []) - set(ROLES))
    if unknown:
        raise BadInput(f"role {unknown[0]!r} cannot be given", fix=f"there are {', '.join(ROLES)}")
    show_code(terminal, "invite", {"name": name, "roles": role or []}, ttl=ttl, approval=approval)


def show_code(
    terminal: Terminal,
    method: str,
    params: dict[str, object],
    *,
    ttl: str,
    approval: str,
    approved_as: str = "NODE",
) -> None:
    """Ask for a join code and print it. Raises: BadInput: *ttl* or *approval* does not fit."""
    ttl_s = parse_duration(ttl)
    if not 0 < ttl_s <= 30 * 86400:
        raise BadInput(f"a ttl of {ttl}", fix="choose more than 0 and at most 30d")
    if approval not in ("auto", "pending"):
        raise BadInput(f"approval {approval!r} is not known", fix="choose auto or pending")
    answer = terminal.call(method, {"ttl_s": ttl_s, "approval": approval, **params})
    if terminal.json:
        terminal.value(answer)
        return
    terminal.text(str(answer["code"]))
    more = (
        ""
        if approval == "auto"
        else f"; then compare its six words here with `edge-gateway approve {approved_as}`"
    )
    terminal.note(f"on the device, within {ttl}: edge-node join CODE{more}")
    if answer.get("id"):  # a gateway before this program's version tells none
        terminal.note(f"to take it back before it is used: edge-gateway withdraw {answer['id']}")


@program.command("invites")
def invites(terminal: Terminal) -> None:
    """List the join codes that are open, by their ids: for whom, until when. The codes are not kept."""
    terminal.table(
        terminal.call("invites"),
        ("id", "name", "approval", "roles", "replaces", "expires_at_ms"),
        empty="no join code is open; make one with `edge-gateway invite`",
    )


@program.command("withdraw")
def withdraw(
    terminal: Terminal,
    code: Annotated[
        str, typer.Argument(metavar="ID", help="The open code's id, as `invites` lists it; not the code.")
    ],
) -> None:
    """Take an open join code back, at once; whoever comes with it is told."""
    answer = terminal.call("withdraw", {"id": checked_token_id(code)})
    if terminal.json:
        terminal.value(answer)
    else:
        terminal.text(f"{code} is withdrawn: nobody joins with that code")


@program.command("approve")
def approve(
    terminal: Terminal,
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="Name of the waiting node, as `nodes` lists it.")
    ],
) -> None:
    """Let a waiting node in, after comparing its six words with those it shows."""
    answer = terminal.call("approve", {"node": node})
    if terminal.json:
        terminal.value(answer)
    else:
        terminal.text(f"{node} is a member now")


@program.command("deny")
def deny(
    terminal: Terminal,
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="Name of the waiting node, as `pending` lists it.")
    ],
) -> None:
    """Turn a waiting node down; its code is used up."""
    answer = terminal.call("deny", {"node": node})
    if terminal.json:
        terminal.value(answer)
    else:
        terminal.text(f"{node} is turned down")


@program.command("pending")
def pending(terminal: Terminal) -> None:
    """List the nodes that wait for approval, with the six words to compare and since when."""
    terminal.table(
        terminal.call("pending"),
        ("id", "fingerprint", "address", "asked_at_ms", "age_s", "expires_at_ms"),
        empty="nobody waits for approval",
    )


@program.command("replace")
def replace(
    terminal: Terminal,
    node: Annotated[str, typer.Argument(metavar="NODE", help="The member whose board is dead or lost.")],
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="TIME", help="How long the code is good, as 15m, 1h or 2d.")
    ] = "1h",
    approval: Annotated[
        str, typer.Option("--approval", metavar="auto|pending", help="As for `invite`.")
    ] = "auto",
) -> None:
    """Print a join code for another board that takes a node's place; it keeps name, labels and roles.

    The old keys are out the moment the code is used. A lost board should be revoked at once.
    """
    show_code(terminal, "replace", {"node": node}, ttl=ttl, approval=approval, approved_as=node)


@program.command("revoke")
def revoke(
    terminal: Terminal,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Name of the member, as `nodes` lists it.")],
    reason: Annotated[
        str,
        typer.Option(
            "--reason", metavar="TEXT", help="Why; every member can read it. At most 80 characters."
        ),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")] = False,
) -> None:
    """Shut a node out for good, at once; it can come back only with a new code and under new keys."""
    if not yes:
        confirmed(terminal, f"revoke {node}", node)
    answer = terminal.call("revoke", {"node": node, "reason": reason, "by": operator()})
    if terminal.json:
        terminal.value(answer)
        return
    if answer["already"]:
        terminal.note(f"{node} had been revoked before")
    if not answer["cut"]:
        terminal.note("the broker does not answer now: it is told as soon as it does")
    terminal.text(f"{node} is revoked")


NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of the member, as `nodes` lists it.")]
RestReason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; `why NODE` tells it.")]


@program.command("pause")
def pause(terminal: Terminal, node: NodeName, reason: RestReason = "") -> None:
    """Let a node take no work of others; what waits and runs there goes on, its own work too."""
    _rest(terminal, "pause", node, reason, "takes no work of others")


@program.command("drain")
def drain(terminal: Terminal, node: NodeName, reason: RestReason = "") -> None:
    """As pause, and what waits there goes back to its owners: before a board is unplugged."""
    _rest(terminal, "drain", node, reason, "hands back what waits; `nodes` shows when it is idle")


@program.command("resume")
def resume(terminal: Terminal, node: NodeName, reason: RestReason = "") -> None:
    """Let a node take work of others again, after pause or drain."""
    _rest(terminal, "resume", node, reason, "takes work of others")


def _rest(terminal: Terminal, method: str, node: str, reason: str, what: str) -> None:
    answer = terminal.call(method, {"node": node, "reason": reason})
    if terminal.json:
        terminal.value(answer)
        return
    if not answer["told"]:
        terminal.note(f"{node} is away: it is told when it comes")
    terminal.text(f"{node} {what}")


def confirmed(terminal: Terminal, what: str, name: str) -> None:
    """Have the name typed again. Raises: BadInput: another one, or nobody is there to ask."""
    if not sys.stdin.isatty():
        raise BadInput(f"to {what} wants a confirmation and this is no terminal", fix="give --yes")
    terminal.note(f"to {what}, type its name again:")
    if sys.stdin.readline().strip() != name:
        raise BadInput("that is another name: nothing was changed", fix=f"type {name}, or give --yes")


def operator() -> str:
    """The account that gives the command: what the member list notes as *by*."""
    try:
        return getpass.getuser()[:BY_MAX]
    except (KeyError, OSError):  # an account without a name
        return f"uid {os.getuid()}"


@program.command("nodes")
def nodes(terminal: Terminal) -> None:
    """List the members: whether they are up, how busy they are, who waits for approval."""
    terminal.table(
        terminal.call("nodes"), NODE_COLUMNS, empty="no nodes; invite one with `edge-gateway invite`"
    )


@program.command("roster")
def roster(terminal: Terminal) -> None:
    """Show the signed member list: version, validity, brokers, members and their keys."""
    answer = terminal.call("roster")
    if terminal.json:
        terminal.value(answer)
        return
    members = answer.get("members", [])
    terminal.facts({name: value for name, value in answer.items() if name != "members"})
    terminal.text("")
    terminal.table(members, MEMBER_COLUMNS, empty="no members")


@program.command("ping")
def ping(
    terminal: Terminal,
    node: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="Name of the member; none: everybody who is up.")
    ] = None,
) -> None:
    """Ask a member, or all that are up, for a sign of life; exit code 0 only if each one answers."""
    if node is not None:
        answer = {"node": node} | terminal.call("ping", {"node": node})
        if terminal.json:
            terminal.value(answer)
        else:
            terminal.text(f"{node} answered in {answer['rtt_ms']:.1f} ms")
        return
    rows = terminal.with_mesh(_pings)
    terminal.table(rows, ("node", "rtt_ms", "reason"), empty="nobody else is up")
    if any(row["rtt_ms"] is None for row in rows):
        raise typer.Exit(exits.UNAVAILABLE)


async def _pings(mesh: Mesh) -> list[dict[str, object]]:
    """By name, a few at a time."""
    names = [row["id"] for row in await mesh.call("nodes") if row["up"] and GATEWAY not in row["roles"]]
    turns = asyncio.Semaphore(PINGS_MAX)

    async def one(name: str) -> dict[str, object]:
        async with turns:
            try:
                rtt_ms: float | None = round((await mesh.call("ping", {"node": name}))["rtt_ms"], 3)
            except Unavailable as error:
                return {"node": name, "rtt_ms": None, "reason": error.cause}
        return {"node": name, "rtt_ms": rtt_ms, "reason": ""}

    return list(await asyncio.gather(*(one(name) for name in sorted(names))))


@program.command("ca", here="what is to be trusted must not come over the line that it protects")
def ca(terminal: Terminal) -> None:
    """Print the mesh's root certificate and its pin: what `--ca` takes on another machine. Nothing secret."""
    root = KeyStore(terminal.home.keys).root()
    if root is None:
        raise BadInput(f"there is no mesh in {terminal.home.path}", fix="make one: `edge-gateway up`")
    pin = spki_sha256_of(root).hex()
    if terminal.json:
        terminal.value({"mesh": mesh_id_of(bytes.fromhex(pin)), "pin": pin, "pem": pem_of(root).decode()})
        return
    terminal.text(pem_of(root).decode().removesuffix("\n"))
    terminal.note(f"or by its pin: --ca {pin}")


functions = program.group("functions", "List the deployed functions; or roll one back.", work.list_functions)


@program.command("rollback", app=functions)
def rollback(
    terminal: Terminal,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The function, as STEM.NAME.")],
) -> None:
    """Point a function back to the code it had before; that is a new, signed version."""
    answer = terminal.call("rollback", {"name": name})
    if terminal.json:
        terminal.value(answer)
        return
    each = (answer.get("functions") or [answer])[0]
    terminal.text(f"{name} is at version {each.get('version')} now")


@program.command("deploy")
def deploy(
    terminal: Terminal,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Python file with functions marked @function.")],
) -> None:
    """Sign a function file and publish it to the mesh, if it is not there already."""
    functions_there = terminal.with_mesh(lambda mesh: work.deploy(terminal, mesh, file))
    if terminal.json:
        terminal.value({"functions": functions_there})
    elif not any(each.get("new") for each in functions_there):
        terminal.note("nothing to do: exactly this is deployed already")


@program.command("top")
def top(terminal: Terminal) -> None:
    """Watch the mesh live: nodes, tasks, links, events; every action asks for the name first."""
    if terminal.json:
        raise BadInput("top is for people", fix="`nodes`, `tasks`, `status`, `why`, `events` have --json")
    ends = (sys.stdin, sys.stdout, sys.stderr)
    if not all(each.isatty() for each in ends) or os.environ.get("TERM", "dumb") == "dumb":
        raise BadInput("top needs a terminal", fix="over ssh give -t; scripts use `nodes --json`")
    if importlib.util.find_spec("textual") is None:
        raise Unavailable(
            "top needs textual, which this environment lacks", fix="pip install 'edgeweave[gateway]'"
        )
    from gateway.top.asking import Asking  # only here: a third of a second of imports
    from gateway.top.screen import Top

    Top(Asking(terminal.mesh()), operator()).run()


@program.command("doctor", here="it examines the machine")
def doctor(terminal: Terminal, mdns: Mdns = None) -> None:
    """Check this gateway: as `edge-node doctor`, and ports, broker program, the broker's certificate."""
    settings, settings_fault = GatewaySettings(), None
    try:
        settings = load(GatewaySettings, terminal.home.settings, options={"discovery.mdns": mdns})
    except BadInput as fault:
        settings_fault = fault
    with terminal.waiting("examining"):
        findings, status = examined(terminal, settings, settings_fault, mdns)
        findings += gateway_examination.examine(terminal.home, settings, status)
    report(terminal, findings)


work.add_commands(program)
store.add_commands(program)
state.add_commands(program)
why.add_command(program)
events.add_command(program)
completion.add_command(program)
measuring.add_commands(program, measuring.of_gateway)
backup_commands.add_commands(program)
access_commands.add_commands(program, confirmed)


def main() -> None:
    """Console script."""
    sys.exit(program.enter())


if __name__ == "__main__":
    main()
