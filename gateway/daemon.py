"""The gateway daemon: `python -m gateway.daemon`, what `edge-gateway up` becomes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from edge_node import logs
from edge_node.clock import SystemClock
from edge_node.daemon import run_daemon, serve
from edge_node.home import chosen_home, gateway_home
from edge_node.settings import load
from gateway.backend import GatewayBackend
from gateway.house import House, open_trust
from gateway.settings import GatewaySettings
from security.keystore import KeyStore


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="edge-gateway up", description="Run the gateway in the foreground.")
    parser.add_argument("--home")
    parser.add_argument("--listen")
    parser.add_argument("--port")
    parser.add_argument("--broker")
    parser.add_argument("--broker-port")
    parser.add_argument("--mdns")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--log-level")
    options = parser.parse_args(argv)
    return run_daemon(partial(_gateway, options), as_json=options.json)


async def _gateway(options: argparse.Namespace) -> None:
    home = chosen_home(options.home, default=gateway_home())
    home.create()
    settings = load(
        GatewaySettings,
        home.settings,
        options={
            "joining.listen": options.listen,
            "joining.port": options.port,
            "broker.kind": options.broker,
            "broker.port": options.broker_port,
            "discovery.mdns": options.mdns,
            "log.level": options.log_level,
        },
    )
    with home.hold():
        logs.start(home.logs, settings.log)
        keystore = KeyStore(home.keys)
        trust = await asyncio.to_thread(open_trust, keystore, SystemClock())
        house = House(home, settings, keystore, trust)
        try:
            agent = await house.open()
            async with house.doors():
                assert house.joining is not None and house.broker is not None
                host, port = house.broker.address
                ready = {
                    "broker_kind": house.broker.kind,
                    "broker_address": f"{host}:{port}",
                    "joining": f"{settings.joining.listen}:{house.joining.port}",
                }
                async with asyncio.TaskGroup() as group:
                    running = group.create_task(house.run(), name="house")
                    await serve(agent, GatewayBackend(house), home, ready=ready, as_json=options.json)
                    running.cancel()
        finally:
            await house.close()


if __name__ == "__main__":
    sys.exit(main())
