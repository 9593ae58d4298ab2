"""One device at work: it replays its plan through the public client of the daemon beside it.

Where a task runs is the placement's decision, unless a call says otherwise. While the daemon is away,
``submit`` is repeated and windows wait, as in a sensor's own memory; what had been accepted is waited for.
A machine that is too busy is given less rather than a queue that outlives the run. A daemon that refuses (its
node was revoked, say) ends the device's day.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Final

from device_sim.devices.plan import SECOND, Planned
from device_sim.devices.series import Series
from device_sim.report.account import Promise
from edge_node.client import Mesh, MeshUnavailable, Refused, TaskHandle
from edge_node.functions import values
from edge_node.tasks.states import Refusal
from security.errors import BadInput, EdgeweaveError

IN_FLIGHT_MAX: Final = 64  # a device has little memory: it waits with more until some have ended
RETRY_S: Final = 0.1
LATE_S_MAX: Final = 4.0  # a replay that is this late is on a busy machine: the rest of it is left out


class Driver:
    """One device.

    Args: promised: called at every acceptance and every end.
    """

    def __init__(
        self,
        node: str,
        mesh: Mesh,
        series: Series,
        promised: Callable[[Promise], None],
    ) -> None:
        self.node = node
        self.series = series
        self.handed = 0  # tasks that the daemon has promised
        self.retries = 0
        self.refused = ""  # why its day ended early
        self._mesh = mesh
        self._promised = promised
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def replay(self, planned: Iterable[Planned], *, begun: float, last_s: float) -> None:
        """Hand everything over when it is due; return when all of it has ended.

        Args: begun: of the replay, on time.monotonic.   last_s: the end of the replay, after that.
        Raises: EdgeweaveError: a task cannot be asked for at all (a mistake in the scenario).
        """
        async with asyncio.TaskGroup() as group:
            for each in planned:
                due = begun + each.due_ns / SECOND
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._room.acquire()
                late = time.monotonic() > begun + last_s + LATE_S_MAX
                if late and not each.call.whole:
                    self._room.release()
                    continue
                told = await self._submit(each, begun + last_s)
                if told is None:
                    self._room.release()
                    return
                self.handed += 1
                group.create_task(self._follow(*told), name=f"follow {told[0].id}")

    async def _submit(self, each: Planned, end: float) -> tuple[TaskHandle, Promise, float] | None:
        """None: this device has nothing more to ask for."""
        argument = self.series.window(each.first, each.last)
        call = each.call
        while True:
            asked = time.monotonic()
            try:
                handle = await self._mesh.submit(
                    call.function,
                    argument,
                    deadline_s=call.deadline_s,
                    ttl_s=call.ttl_s,
                    priority=call.priority,
                    where=call.where,
                    kwargs=call.arguments,
                )
            except MeshUnavailable as away:
                if asked > end + LATE_S_MAX:
                    self.refused = away.cause
                    return None
                self.retries += 1
                await asyncio.sleep(RETRY_S)
                continue
            except BadInput as mistake:  # of the scenario: nothing that waiting could heal
                raise BadInput(
                    f"{self.node} asks for {call.function}: {mistake.cause}", fix=mistake.fix
                ) from None
            except Refused as refused:
                if refused.reason == Refusal.OUTBOX_FULL:  # the node is busy: its sensor waits
                    self.retries += 1
                    await asyncio.sleep(RETRY_S)
                    continue
                self.refused = refused.cause
                return None
            promise = Promise(
                id=handle.id,
                driver=self.node,
                node=self.node,
                function=call.function,
                rows=(each.first, each.last),
                input_sha256=hashlib.sha256(values.encode_call((argument,), call.arguments)).hexdigest(),
                arguments=call.arguments,
            )
            self._promised(promise)
            return handle, promise, asked

    async def _follow(self, handle: TaskHandle, promise: Promise, asked: float) -> None:
        try:
            outcome = await handle.outcome()
        except EdgeweaveError:
            return  # its daemon is gone for good: what became of the task, the ledger tells
        finally:
            self._room.release()
        promise.status, promise.place = outcome.status, outcome.place
        promise.output_sha256 = hashlib.sha256(outcome.output).hexdigest()
        promise.latency_ms = round(1000 * (time.monotonic() - asked), 3)
        self._promised(promise)
