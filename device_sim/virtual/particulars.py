"""The particulars of a drawn scenario: what is switched on in it and how strong, in a few lines.

In: a scenario that was drawn from a seed. Out: text for whoever has to understand why this seed fails.
"""

from __future__ import annotations

from device_sim.faults import HOURLY
from device_sim.report.quantities import counted
from device_sim.scenario.tables import Arrivals, DevicesTable, LinkTable, Scenario


def particulars(scenario: Scenario) -> list[str]:
    """One line each: links, classes of nodes with their work, services, rates of faults."""
    used = {table.link for table in scenario.devices}
    lines = [f"link {name}: {_link(table)}" for name, table in scenario.links.items() if name in used]
    lines += [f"{table.cls}: {_class(table)}" for table in scenario.devices]
    asked = {each.function for table in scenario.devices for each in table.arrivals}
    for name, service in scenario.services.items():
        if name in asked:
            output = f", {service.output_bytes} bytes out" if service.output_bytes else ""
            lines.append(f"{name}: {service.mean_ms or 0:g} ms {service.distribution}{output}")
    rates = scenario.rates
    on = [f"{name} {getattr(rates, name):.0f}" for name in HOURLY if getattr(rates, name)]
    lines.append(f"gateway: {counted(scenario.gateway.workers or 0, 'worker')}")
    lines.append(
        "faults an hour (of each node, or of the one broker or gateway): " + (", ".join(on) or "none")
    )
    if on:
        means = ("dead_s", "paused_s", "cut_s", "full_s", "slow_s", "gateway_dead_s", "step_s", "slow_factor")
        lines.append("mean lengths: " + ", ".join(f"{name} {getattr(rates, name):g}" for name in means))
    return lines


def _link(table: LinkTable) -> str:
    parts = [f"{table.delay_ms:g} ms"]
    if table.jitter_ms:
        parts.append(f"jitter {table.jitter_ms:g} ms")
    parts += [
        f"{word} {getattr(table, name) * 100:g} %"
        for name, word in (
            ("loss", "packets lost"),
            ("parcel_loss", "parcels lost"),
            ("duplicate", "doubled"),
        )
        if getattr(table, name)
    ]
    if table.reorder:
        parts.append(f"{table.reorder * 100:g} % up to {table.reorder_ms:g} ms late")
    if table.up_kbps or table.down_kbps:
        parts.append(f"{table.up_kbps or 0:g} kbit/s up, {table.down_kbps or 0:g} down")
    return ", ".join(parts)


def _class(table: DevicesTable) -> str:
    parts = [
        counted(len(table.ids), "node"),
        f"{counted(table.workers, 'worker')} on {counted(table.cores or table.workers, 'core')}",
    ]
    parts.append(f"speed {table.pace:g}")
    if table.link:
        parts.append(f"link {table.link}")
    if table.clock_drift_ppm:
        parts.append(f"clock drifts {table.clock_drift_ppm:g} ppm")
    if not table.rtc:
        parts.append("no RTC")
    return ", ".join(parts) + "; asks " + ("; ".join(map(_asks, table.arrivals)) or "nothing")


def _asks(each: Arrivals) -> str:
    parts = [f"{each.function} {each.rate_hz:g} Hz {each.kind}"]
    if each.kind == "bursty":
        parts.append(f"bursts of {each.burst}")
    parts.append(f"{each.input_bytes} bytes")
    parts.append(f"ttl {each.ttl_s:g} s" if each.ttl_s is not None else "default ttl")
    if each.deadline_s is not None:
        parts.append(f"deadline {each.deadline_s:g} s")
    if each.priority:
        parts.append(f"priority {each.priority}")
    if each.where != "any":
        parts.append(f"{each.where} only")
    return ", ".join(parts)
