"""`make mesh-hosts`: a mesh on several hosts of this machine, real multicast, weather to order.

    python -m examples.hosts [--hosts 6] [--seconds 30] [--loss 5] [--bandwidth 10mbit] [--delay 20ms]
                             [--jitter 5ms] [--partition] [--broker auto|mosquitto|embedded]

Hosts are network namespaces on a switch without an uplink; nothing leaves this machine. The gateway runs on
one, a node on every other; the nodes get join codes that name no address and find the gateway by mDNS. Every
host submits small tasks, host-1 more than it can do; a table shows who sees whom and where they ran. With
--partition the last host is cut off for a third of the time. Needs root (exit 0 with the reason where it
cannot run).
Exit 0: everything accepted was settled once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_node.client import Mesh
from edge_node.commands.rendering import plain_table
from examples.hosts.mesh import GATEWAY, HostsMesh, Member, one_error
from examples.hosts.network import Network, lacking
from security.errors import BadInput, EdgeweaveError

WORK = Path(__file__).with_name("work.py")
EVERY_S = 0.2  # a task a host of 0.05 s
BUSY_EVERY_S = 0.03  # one host asks for more than its one worker can do: the rest goes elsewhere
BUSY = "host-1"
SETTLE_S_MAX = 60.0
PINGS = 5
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Tally:
    """What one host asked for and what came of it."""

    def __init__(self) -> None:
        self.asked = self.done = self.refused = self.wrong = 0
        self.places: Counter[str] = Counter()


class Story:
    def __init__(self, options: argparse.Namespace, network: Network, mesh: HostsMesh) -> None:
        self.options = options
        self.network = network
        self.mesh = mesh
        self.tallies = {name: Tally() for name in network.hosts}
        self.apart: list[str] = []
        self.lines = 0

    async def tell(self) -> int:
        """The whole story; the exit code."""
        options = self.options
        await self.mesh.start(WORK)
        weather = {
            "loss_percent": options.loss, "bandwidth": options.bandwidth or "", "delay_ms": options.delay,
            "jitter_ms": options.jitter,
        }  # fmt: skip
        for missing in self.network.weather(**weather):
            say(f"not available here, left out: {missing}")
        asked = ", ".join(f"{name.split('_')[0]} {value}" for name, value in weather.items() if value)
        say(f"weather: {asked or 'fair'}")
        await self.tell_round_trips()
        stop = asyncio.Event()
        async with one_error(), asyncio.TaskGroup() as group:
            drivers = [
                group.create_task(self.drive(m, stop), name=m.name) for m in self.mesh.members.values()
            ]
            watch = group.create_task(self.watch(), name="watch")
            third_s = options.seconds / 3
            await asyncio.sleep(third_s)
            if options.partition:
                self.apart = [self.network.hosts[-1]]
                say(f"partition: {self.apart[0]} is alone")
                self.network.split(self.apart)
            await asyncio.sleep(third_s)
            if options.partition:
                self.network.heal()
                say(f"healed: {self.apart[0]} is back")
                self.apart = []
            await asyncio.sleep(third_s)
            stop.set()
            await asyncio.wait(drivers, timeout=SETTLE_S_MAX)
            for task in [*drivers, watch]:
                task.cancel()
        return self.verdict()

    async def tell_round_trips(self) -> None:
        """The mesh's own pings: through the broker, which runs beside the gateway."""
        members = self.mesh.members
        for peer in [name for name in members if name != BUSY][:2]:
            with contextlib.suppress(EdgeweaveError):  # not in reach yet, in such weather
                async with Mesh.open(members[BUSY].home) as mesh:
                    trips = [(await mesh.call("ping", {"node": peer}))["rtt_ms"] for _ in range(PINGS)]
                say(f"round trip {BUSY} to {peer}: {min(trips):.1f} ms at best of {PINGS}")

    async def drive(self, member: Member, stop: asyncio.Event) -> None:
        """A task every moment, as a program on that host would."""
        tally, n = self.tallies[member.name], 0
        async with Mesh.open(member.home) as mesh, asyncio.TaskGroup() as group:
            while not stop.is_set():
                n += 1
                group.create_task(self.one(mesh, member.name, tally, n))
                await asyncio.sleep(BUSY_EVERY_S if member.name == BUSY else EVERY_S)

    async def one(self, mesh: Mesh, me: str, tally: Tally, n: int) -> None:
        try:
            task = await mesh.submit("work.step", n, ttl_s=SETTLE_S_MAX * 2)
        except EdgeweaveError:
            tally.refused += 1
            return
        tally.asked += 1
        outcome = await task.outcome()
        tally.done += outcome.status == "done"
        tally.wrong += outcome.status != "done"
        tally.places["here" if outcome.place in (me, "local") else outcome.place] += 1

    async def watch(self) -> None:
        """Who sees whom, and where tasks ran: in place on a terminal, every five seconds elsewhere."""
        live = sys.stdout.isatty()
        while True:
            text = plain_table(*await self.table())
            if live and self.lines:
                sys.stdout.write(f"\x1b[{self.lines}A\x1b[J")
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            self.lines = text.count("\n") + 1
            await asyncio.sleep(1 if live else 5)

    async def table(self) -> tuple[list[str], list[list[str]]]:
        heads = ["host", "address", "broker", "sees", "asked", "done", "open", "where its tasks ran"]
        rows = []
        for member in self.mesh.members.values():
            tally = self.tallies[member.name]
            status = await self.status(member)
            places = ", ".join(f"{place} {n}" for place, n in tally.places.most_common(4))
            rows.append(
                [
                    member.name + (" (apart)" if member.name in self.apart else ""),
                    self.network.address(member.name),
                    status["broker"]["address"] if status["broker"]["connected"] else "-",
                    ", ".join(status["peers_up"]) or "nobody",
                    str(tally.asked),
                    str(tally.done),
                    str(tally.asked - tally.done - tally.wrong),
                    places,
                ]
            )
        return heads, rows

    async def status(self, member: Member) -> dict[str, Any]:
        try:
            return await self.mesh.status(member)
        except EdgeweaveError:
            return {"broker": {"connected": False}, "peers_up": []}

    def verdict(self) -> int:
        asked = sum(tally.asked for tally in self.tallies.values())
        done = sum(tally.done for tally in self.tallies.values())
        refused = sum(tally.refused for tally in self.tallies.values())
        say(f"{asked} tasks accepted, {done} done, {refused} refused at the door")
        return int(done != asked)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def milliseconds(text: str) -> int:
    found = re.fullmatch(r"(\d{1,5})(ms)?", text)
    if not found:
        raise argparse.ArgumentTypeError("write a delay as 20ms")
    return int(found[1])


def percent(text: str) -> int:
    if not re.fullmatch(r"\d{1,2}", text):
        raise argparse.ArgumentTypeError("write loss as a number from 0 to 99")
    return int(text)


def bandwidth(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,5}[kmg]?bit", text):
        raise argparse.ArgumentTypeError("write a bandwidth as 10mbit")
    return text


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make mesh-hosts ARGS=…", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--hosts", type=int, choices=range(2, 9), default=4, help="the gateway's among them (4)"
    )
    parser.add_argument("--seconds", type=float, default=30, help="of work (30)")
    parser.add_argument("--loss", type=percent, default=0, help="percent of frames")
    parser.add_argument("--bandwidth", type=bandwidth, help="of every cable, as 10mbit")
    parser.add_argument(
        "--delay",
        type=milliseconds,
        default=0,
        help="of what every host sends, as 20ms: 40 ms there and back",
    )
    parser.add_argument(
        "--jitter", type=milliseconds, default=0, help="by which delays differ, up or down, as 5ms"
    )
    parser.add_argument(
        "--partition", action="store_true", help="cut the last host off for a third of the time"
    )
    parser.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), default="auto")
    return parser.parse_args(argv)


async def hosted(options: argparse.Namespace) -> int:
    """Everything, and at its end nothing is left."""
    me = asyncio.current_task()
    assert me is not None
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, me.cancel)
    names = [GATEWAY, *(f"host-{n}" for n in range(1, options.hosts))]
    with tempfile.TemporaryDirectory(prefix="ewh") as folder, Network(names) as network:
        mesh = HostsMesh(Path(folder), network, say, broker=options.broker)
        try:
            return await Story(options, network, mesh).tell()
        finally:
            for number in SIGNALS:  # whoever is impatient does not stop us from cleaning up
                asyncio.get_running_loop().add_signal_handler(number, lambda: None)
            with contextlib.suppress(asyncio.CancelledError):
                left = await mesh.stop(term_s_max=3.0)
                if left:
                    say(f"had to be killed: {left}")


def main(argv: Sequence[str] | None = None) -> int:
    options = options_of(argv)
    reason = lacking()
    if reason:
        say(f"skipped: {reason}")
        return 0
    try:
        return asyncio.run(hosted(options))
    except asyncio.CancelledError:
        say("stopped; the hosts are gone")
        return 130
    except BadInput as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except EdgeweaveError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
