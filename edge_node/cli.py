"""``edge-node``: the command line of a node.

Commands only parse, ask and print; what they do is in ``edge_node.commands`` and in the daemon.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Annotated, Any

import typer

from edge_node import doctor as examination
from edge_node.commands import completion, events, exits, launch, leaving, measuring, state, store, why, work
from edge_node.commands.door import Program
from edge_node.commands.inputs import parse_labels
from edge_node.commands.terminal import Terminal
from edge_node.home import node_home
from edge_node.settings import NodeSettings, load
from security.errors import BadInput

program = Program(
    "edge-node",
    default_home=node_home,
    help_text="A node of an edgeweave mesh: join, run the daemon, give it work.",
)
app = program.app

FLAGS = {"log.level": "--log-level"}

Mdns = Annotated[
    str | None,
    typer.Option(
        "--mdns",
        metavar="IFACE|lo|none",
        help="Interface for finding members by mDNS; default by settings (auto).",
    ),
]
LogLevel = Annotated[
    str | None,
    typer.Option("--log-level", metavar="LEVEL", help="Least level written: debug, info, warning or error."),
]


@program.command("join")
def join(
    terminal: Terminal,
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="Join code, as `edge-gateway invite` printed it.")
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="N", help="Name of this node, a-z 0-9 and -; default: the gateway chooses."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="K=V", help="A label that functions may require, as site=a. Repeatable."
        ),
    ] = None,
    mdns: Mdns = None,
) -> None:
    """Join a mesh with a code; makes this node's keys and gets its certificate."""
    from edge_node import joining

    launch.check_free(terminal.home)
    settings = load(NodeSettings, terminal.home.settings, options={"discovery.mdns": mdns})
    labels = parse_labels(label or [])
    mdns_on = settings.discovery.mdns

    def on_waiting(words: str) -> None:
        terminal.note(
            f"waiting for approval: compare these words on the gateway (`edge-gateway pending`): {words}"
        )

    with terminal.waiting("joining"):
        joined = asyncio.run(
            joining.join(
                code.strip(),
                terminal.home.path,
                name=name,
                labels=labels,
                mdns=None if mdns_on == "auto" else mdns_on,
                seeds=settings.link.seeds,
                on_waiting=on_waiting,
            )
        )
    if terminal.json:
        terminal.value(
            {
                "node": joined.node_id,
                "mesh": joined.mesh_id,
                "gateway": joined.gateway,
                "roster_version": joined.roster_version,
            }
        )
        return
    terminal.text(f"joined mesh {joined.mesh_id} as {joined.node_id}")
    terminal.note(f"next: edge-node up --home {terminal.home.path}")


@program.command("leave")
def leave(terminal: Terminal) -> None:
    """Leave the mesh for good: off the member list, daemon stopped, keys removed."""
    left = leaving.leave(terminal.home)
    if not left.told:
        terminal.note(f"{left.node} forgot the mesh; tell the operator to `edge-gateway revoke {left.node}`")
    if terminal.json:
        terminal.value({"left": True, "node": left.node, "gateway_told": left.told})
    else:
        terminal.text("left the mesh; to come back, join with a new code")


@program.command("up")
def up(terminal: Terminal, mdns: Mdns = None, log_level: LogLevel = None) -> None:
    """Run the node's daemon in the foreground; prints one ready line once work is accepted."""
    load(
        NodeSettings,
        terminal.home.settings,
        options={"discovery.mdns": mdns, "log.level": log_level},
        flags=FLAGS,
    )
    if not (terminal.home.keys / "identity.pem").exists():
        raise BadInput(
            f"{terminal.home.path} has not joined a mesh",
            fix="get a code with `edge-gateway invite` on the gateway, then `edge-node join CODE`",
        )
    terminal.home.create()
    launch.check_free(terminal.home)
    launch.become(
        "edge_node.daemon",
        terminal.home,
        {"mdns": mdns, "log-level": log_level, "json": terminal.json},
    )


@program.command("functions")
def functions(terminal: Terminal) -> None:
    """List the functions that are deployed on the mesh."""
    work.list_functions(terminal)


@program.command("doctor")
def doctor(terminal: Terminal, mdns: Mdns = None) -> None:
    """Check this node: machine, home, certificates, tasks, workers, daemon, gateway, clock, broker, mDNS."""
    settings, settings_fault = NodeSettings(), None
    try:
        settings = load(NodeSettings, terminal.home.settings, options={"discovery.mdns": mdns})
    except BadInput as fault:
        settings_fault = fault
    with terminal.waiting("examining"):
        findings, _ = examined(terminal, settings, settings_fault, mdns)
    report(terminal, findings)


def examined(
    terminal: Terminal, settings: NodeSettings, settings_fault: BadInput | None, mdns: str | None
) -> tuple[list[examination.Finding], dict[str, Any] | None]:
    """What nodes and gateways are examined for alike; and the daemon's status, None if there is no daemon."""
    from edge_node import probes

    home = terminal.home
    findings = examination.examine(
        home, settings_fault=settings_fault, worker_start_s_max=settings.worker.start_s_max
    )
    told, status = probes.ask_daemon(home)
    findings += told
    # A daemon that was started with --mdns none shall not have its silence broken by us.
    iface = mdns or (status or {}).get("mdns") or settings.discovery.mdns
    findings += probes.around(home, seeds=settings.link.seeds, mdns_iface=iface, status=status)
    return findings, status


def report(terminal: Terminal, findings: list[examination.Finding]) -> None:
    """Print findings; a failed one ends the program with 1."""
    if terminal.json:
        terminal.value(
            {"ok": not any(each.failed for each in findings), "findings": [each.facts() for each in findings]}
        )
    else:
        for each in findings:
            terminal.text(each.line())
    if any(each.failed for each in findings):
        raise typer.Exit(exits.TASK_FAILED)


@program.command("renew")
def renew(terminal: Terminal) -> None:
    """Get new keys and a new certificate now; the daemon does it by itself every ten days."""
    answer = terminal.call("renew")
    if terminal.json:
        terminal.value(answer)
    else:
        days = (answer["valid_until_ms"] / 1000 - time.time()) / 86400
        terminal.text(f"new keys and certificate, good for {days:.0f} days")


work.add_commands(program)
store.add_commands(program)
state.add_commands(program)
why.add_command(program)
events.add_command(program)
completion.add_command(program)
measuring.add_commands(program, measuring.of_node)


def main() -> None:
    """Console script."""
    sys.exit(program.enter())


if __name__ == "__main__":
    main()
