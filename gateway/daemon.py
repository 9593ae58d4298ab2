"""The gateway daemon: `python -m gateway.daemon`, what `edge-gateway up` becomes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial

from edge_node import logs, residence
from edge_node.clock import SystemClock
from edge_node.daemon import options_of, run_daemon, serve
from edge_node.home import chosen_home, gateway_home
from edge_node.settings import load
from gateway.backend import GatewayBackend
from gateway.backup import check_whole
from gateway.house import House, open_trust
from gateway.renewal import gateway_clock
from gateway.settings import GatewaySettings
from security.keystore import KeyStore


def main(argv: Sequence[str] | None = None) -> int:
    options = options_of(argv, ("home", "listen", "port", "broker", "broker-port", "mdns", "log-level"))
    as_json = "json" in options
    residence.bound_heap()
    return run_daemon(partial(_gateway, options, as_json), as_json=as_json)


async def _gateway(options: dict[str, str], as_json: bool) -> None:
    home = chosen_home(options.get("home"), default=gateway_home())
    home.create()
    settings = load(
        GatewaySettings,
        home.settings,
        options={
            "joining.listen": options.get("listen"),
            "joining.port": options.get("port"),
            "broker.kind": options.get("broker"),
            "broker.port": options.get("broker-port"),
            "discovery.mdns": options.get("mdns"),
            "log.level": options.get("log-level"),
        },
    )
    with home.hold():
        logs.start(home.logs, settings.log)
        check_whole(home)
        keystore = KeyStore(home.keys)
        clock = gateway_clock(keystore, SystemClock())
        trust = await asyncio.to_thread(open_trust, keystore, clock)
        house = House(home, settings, keystore, trust, clock=clock)
        try:
            agent = await house.open()
            backend = GatewayBackend(house)
            house.serve_api(backend)
            async with house.doors():
                assert house.joining is not None and house.broker is not None
                host, port = house.broker.address
                ready = {
                    "broker_kind": house.broker.kind,
                    "broker_address": f"{host}:{port}",
                    "joining": f"{settings.joining.listen}:{house.joining.port}",
                }
                if link := house.setup_link():  # told once, here: whoever reads it becomes administrator
                    ready["setup"] = link
                async with asyncio.TaskGroup() as group:
                    running = group.create_task(house.run(), name="house")
                    await serve(agent, backend, home, ready=ready, as_json=as_json)
                    running.cancel()
        finally:
            await house.close()


if __name__ == "__main__":
    sys.exit(main())
