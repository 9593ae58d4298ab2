"""Fault 3: kill -9 of the broker under traffic, its files kept, or wiped before anybody can look.

Node n1 gives work to n2 and the gateway, n2 to n1: everything goes over the broker. Wiped means: all that it
keeps in its folder is removed while it stands still, then it is killed; the new one starts from nothing. The
figure is the time from the kill to the end of the first task over the broker that was asked for after it.
"""

from __future__ import annotations

import asyncio
import signal
import time

from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.fleet import GATEWAY, Driver, Fleet, signal_to

FAULT = Fault(
    number=3,
    name="kill-broker",
    title="kill -9 of the broker, its database kept and wiped",
    brokers=BOTH,
    full=50,
    small=2,
    unit="kills",
    round_max=10,
    round_s=35,
    bounds={"resume, s p99": 10.0},
)
STALL_S = 60.0
"""Without any work over the broker: a stall, which a promise forbids."""
EVERY_S = 0.25
RECORDS = ("running.json",)  # by which a gateway that was killed too would find its broker: no database


async def run(context: Context) -> Outcome:
    rng = context.rng
    context.drawn["wiped"] = share = round(rng.uniform(0.3, 0.7), 2)
    context.drawn["twice"] = twice = round(rng.uniform(0, 0.3), 2)
    resumes: list[float] = []
    kills = wiped = 0
    stop = asyncio.Event()
    async with Fleet(context, nodes=3) as fleet:
        n1, n2 = fleet.driver(fleet.members["n1"]), fleet.driver(fleet.members["n2"])
        routes = {n1: ("n2", GATEWAY), n2: ("n1", "n3")}
        driving = [
            asyncio.create_task(driver.steadily(EVERY_S, lambda: rng.uniform(0.0, 0.1), stop, where=where))
            for driver, where in routes.items()
        ]
        try:
            while kills < context.count:
                await asyncio.sleep(rng.uniform(0.3, 1.5))
                wipe = rng.random() < share
                wiped += wipe
                at = await _kill(fleet, wipe=wipe)
                kills += 1
                if kills < context.count and rng.random() < twice:
                    await asyncio.sleep(rng.uniform(0.05, 1.0))
                    at = await _kill(fleet, wipe=False)
                    kills += 1
                for driver in routes:
                    resumes.append(await _resumed(fleet, driver, at))
        finally:
            stop.set()
            await asyncio.gather(*driving)
        await fleet.settled()
    return fleet.outcome(kills, {"wiped": wiped}, {"resume, s": resumes})


async def _kill(fleet: Fleet, *, wipe: bool) -> float:
    async def there() -> object:
        return fleet.broker_record()

    record = await fleet.until("a broker runs", there)
    assert record is not None
    pid, started = record.pid, record.started
    if wipe:
        signal_to(pid, started, signal.SIGSTOP)  # nothing of it can be written behind our back
        for path in (fleet.gateway.home / "broker").iterdir():
            if path.is_file() and path.name not in RECORDS:
                path.unlink()
    at = time.monotonic()
    signal_to(pid, started, signal.SIGKILL)
    return at


async def _resumed(fleet: Fleet, driver: Driver, at: float) -> float:
    """Seconds from *at* to the end of the first task that was asked for after it."""
    while (end := driver.first_end_after(at)) is None:
        if time.monotonic() - at > STALL_S:
            fleet.violations.append(
                f"P7: no work of {driver.member.name} over the broker for {STALL_S:g} s after it was killed"
            )
            return STALL_S
        await asyncio.sleep(0.02)
    return end - at
