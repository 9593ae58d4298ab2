"""What the daemon does with requests of its control socket.

Work is checked here, at the door: the function exists, its arguments fit the signed manifest, the input
is not too large. What passes goes to the agent; its answer becomes the response. Administrative methods
are the same words on a node and on the gateway; the gateway adds its own (`gateway.backend`).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.agent import Agent
from edge_node.control import protocol
from edge_node.tasks import events as desk_events
from edge_node.tasks.asking import task_of
from edge_node.tasks.states import Refusal, Status
from edge_node.tasks.task import LOCAL, Outcome, Task
from edge_node.wire.ids import GATEWAY, is_task_id, task_id
from edge_node.wire.messages import Leaving
from security.certificates import not_after_s
from security.errors import BadInput, EdgeweaveError, Refused, Unavailable

if TYPE_CHECKING:
    from edge_node.log_levels import LogLevels

Reply = Callable[[protocol.Response], None]
Method = Callable[[dict[str, Any]], Awaitable[object]]

PAGE_ROWS_MAX = 500
FIXES: dict[str, str] = {
    Refusal.OUTBOX_FULL: "wait for open tasks to settle, or raise [tasks] outbox_tasks_max",
    Refusal.STORE_FULL: "free disk space; the node takes work again by itself",
    Refusal.DRAINING: "the daemon is shutting down; submit again when it is up",
    Refusal.NO_SUCH_NODE: "see `edge-gateway nodes` for the names",
    Refusal.LABELS: "no member has the labels that the function asks for; join one with --label",
    Refusal.REQUIREMENT: "install there what it lacks, or leave the place open",
    Refusal.TOO_LONG: "ask for less, or raise [tasks] outbox_s_max",
    Refusal.TOO_LARGE: "split the input into smaller windows",
    Refusal.OVER_DEADLINE: "give the seconds from now, more than 0",
    Refusal.DUPLICATE_ID: "submit again; ids are made anew",
}


class AgentBackend:
    """The control socket's ``Backend`` over an agent."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._levels: LogLevels | None = None
        self._methods: dict[str, Method] = {
            "status": self._status,
            "functions": self._functions,
            "history": self._history,
            "tasks": self._tasks,
            "tasks-page": self._tasks_page,
            "task-facts": self._task_facts,
            "placement": self._placement,
            "roster": self._roster,
            "nodes": self._nodes,
            "deploy": self._deploy,
            "leave": self._leave,
            "ping": self._ping,
            "renew": self._renew,
            "why": self._why,
            "events": self._events,
            "methods": self._names,
            "durations": self._durations,
            "log-level": self._log_level,
            **{each: functools.partial(agent.state, each) for each in agent.replication.requests.methods},
        }

    def add(self, name: str, method: Method) -> None:
        """One more administrative method."""
        self._methods[name] = method

    # ── work ──────────────────────────────────────────────────────────────────────────────────────

    def submit(self, request: protocol.Submit, reply: Reply, *, task: str = "") -> None:
        """Args: task: the id that it shall bear; empty: a new one. One that is known is not made twice."""
        made = self._task(request)
        self._submit(msgspec.structs.replace(made, id=task) if task else made, request, reply)

    def _submit(self, task: Task, request: protocol.Submit, reply: Reply) -> None:

        def answered(answer: desk_events.Reply) -> None:
            accepted = answer.accepted
            reply(protocol.Accepted(request.id, task.id) if accepted else self._refused(request.id, answer))

        self.agent.submit(task, answered)

    def run(self, request: protocol.Run, reply: Reply) -> None:
        task = self._task(request)

        def answered(answer: desk_events.Reply) -> None:
            if not answer.accepted:
                reply(self._refused(request.id, answer))

        self.agent.submit(task, answered)
        self.agent.when_settled(task.id, lambda t, outcome: reply(_outcome(request.id, t, outcome)))

    def _task(self, request: protocol.Submit | protocol.Run) -> Task:
        agent = self.agent
        return task_of(
            request,
            origin=agent.node_id,
            known=agent.publisher,
            wall_ms=agent.clock.wall_ms(),
            ttl_ms=agent.settings.tasks.ttl_ms,
            entropy=agent.entropy,
        )

    def result(self, request: protocol.Result, reply: Reply) -> None:
        agent = self.agent
        if not is_task_id(request.task):
            raise BadInput(f"{request.task!r:.60} is not a task id", fix="`submit` prints it: 23 characters")
        task = agent.open_tasks.get(request.task)
        if task is None:
            loop = asyncio.get_running_loop()
            pending = loop.run_in_executor(None, agent.journal.get, request.task)
            pending.add_done_callback(lambda done: self._from_journal(request, reply, done))
            return
        if request.wait_ms <= 0:
            reply(self._pending(request))
            return
        timer: asyncio.TimerHandle | None = None

        def settled(task: Task, outcome: Outcome) -> None:
            if timer is not None:
                timer.cancel()
            reply(_outcome(request.id, task, outcome))

        forget = agent.when_settled(request.task, settled)

        def timed_out() -> None:
            forget()
            reply(self._pending(request))

        wait_s = min(request.wait_ms, protocol.WAIT_MS_MAX) / 1000
        timer = asyncio.get_running_loop().call_later(wait_s, timed_out)

    def _pending(self, request: protocol.Result) -> protocol.Pending:
        state = self.agent.desk.state(request.task)
        text = "accepted" if state is None else f"{state[0]} at {state[1]}" if state[1] else state[0]
        return protocol.Pending(request.id, request.task, text)

    def _from_journal(self, request: protocol.Result, reply: Reply, done: asyncio.Future[Any]) -> None:
        error = done.exception()
        if error is not None:
            reply(protocol.failure_for(request.id, error))
            return
        found = done.result()
        if found is None:
            reply(
                protocol.Failure(
                    request.id,
                    protocol.NOT_FOUND,
                    f"no task {request.task} is known here",
                    "ask the node that accepted it; results are kept for [tasks] results_kept_s",
                )
            )
            return
        if found.outcome is None:
            reply(self._pending(request))
        else:
            reply(_outcome(request.id, found.task, found.outcome))

    def cancel(self, request: protocol.Cancel, reply: Reply) -> None:
        def answered(answer: desk_events.Reply) -> None:
            if answer.accepted:
                reply(protocol.Cancelled(request.id, request.task, True))
            elif answer.reason == Refusal.ALREADY_SETTLED:
                reply(protocol.Cancelled(request.id, request.task, False))
            else:  # the desk has forgotten it, or an earlier life settled it
                loop = asyncio.get_running_loop()
                pending = loop.run_in_executor(None, self.agent.journal.get, request.task)
                pending.add_done_callback(lambda done: _cancelled_before(request, reply, done))

        self.agent.cancel(request.task, answered)

    def function_of(self, task: str) -> str:
        """Of a task that is open here; else empty."""
        found = self.agent.open_tasks.get(task)
        return "" if found is None else found.function

    def _refused(self, request_id: int, answer: desk_events.Reply) -> protocol.Failure:
        cause = f"{answer.reason}: {answer.detail}" if answer.detail else str(answer.reason)
        extra = {"reason": str(answer.reason), "task": answer.task_id}
        if answer.cause:
            program = "edge-gateway" if self.agent.node_id == GATEWAY else "edge-node"
            cause = f"{cause} (why: {program} why {answer.cause})"
            extra["cause"] = answer.cause
        error: EdgeweaveError = Refused(cause, fix=FIXES.get(answer.reason, ""))
        return msgspec.structs.replace(protocol.failure_for(request_id, error), extra=extra)

    # ── administration ────────────────────────────────────────────────────────────────────────────

    async def call(self, method: str, params: dict[str, Any]) -> object:
        handler = self._methods.get(method)
        if handler is None:
            raise BadInput(
                f"this daemon has no method {method!r:.60}", fix="nodes and gateways differ; see --help"
            )
        return await handler(params)

    async def _names(self, params: dict[str, Any]) -> object:
        """Of all methods: a program of another version offers what there is."""
        return sorted(self._methods)

    async def _status(self, params: dict[str, Any]) -> object:
        return self.agent.status()

    async def _durations(self, params: dict[str, Any]) -> object:
        return self.agent.desk.durations.figures()

    async def _log_level(self, params: dict[str, Any]) -> object:
        if self._levels is None:
            from edge_node.log_levels import LogLevels  # for most daemons the setting is enough

            self._levels = LogLevels(asyncio.get_running_loop().call_later)
        return self._levels.asked(params)

    async def _functions(self, params: dict[str, Any]) -> object:
        rows = []
        for name in self.agent.catalogue.names():
            entry = self.agent.catalogue.current(name)
            manifest = self.agent.publisher.manifest_of(name, entry.digest)
            assert manifest is not None
            rows.append(
                {
                    "name": name,
                    "version": entry.version,
                    "digest": entry.digest.hex(),
                    "signature": manifest.signature(),
                    "doc": manifest.doc,
                    "timeout_s": manifest.timeout_s,
                    "memory_mb": manifest.memory_mb,
                    "requires": list(manifest.requires),
                    "labels": dict(manifest.labels),
                    "issued_at_ms": entry.issued_s * 1000,
                    "here": self.agent.bundles.has(entry.digest),
                }
            )
        return rows

    async def _history(self, params: dict[str, Any]) -> object:
        name = _text(params, "name")
        self.agent.catalogue.current(name)
        return [
            {
                "version": e.version,
                "digest": e.digest.hex(),
                "issued_at_ms": e.issued_s * 1000,
                "signer": getattr(e, "signer", ""),
            }
            for e in self.agent.catalogue.history(name)
        ]

    async def _tasks(self, params: dict[str, Any]) -> object:
        limit = params.get("limit", 50)
        if not isinstance(limit, int) or not 1 <= limit <= 10_000:
            raise BadInput("limit is a whole number from 1 to 10000")
        wanted = params.get("state") or None
        rows = []
        for task in list(self.agent.open_tasks.values()):
            state = self.agent.desk.state(task.id)
            rows.append(_row(task, state[0] if state else "accepting", state[1] if state else "", 0))
        settled = await asyncio.to_thread(self.agent.journal.list, limit)
        known = {row["id"] for row in rows}
        rows += [
            {
                "id": one.id,
                "function": one.function,
                "state": one.state,
                "place": one.place,
                "origin": self.agent.node_id,
                "accepted_at_ms": one.accepted_at_ms,
                "settled_at_ms": one.settled_at_ms,
            }
            for one in settled
            if one.id not in known
        ]
        rows = [row for row in rows if wanted in (None, row["state"])]
        rows.sort(key=lambda row: str(row["id"]), reverse=True)
        return rows[:limit]

    async def _tasks_page(self, params: dict[str, Any]) -> object:
        """Newest first, below the id ``after``: what is accepted meanwhile moves nothing."""
        limit, since_ms = params.get("limit", 100), params.get("since_ms") or 0
        if not isinstance(limit, int) or not 1 <= limit <= PAGE_ROWS_MAX:
            raise BadInput(f"limit is a whole number from 1 to {PAGE_ROWS_MAX}")
        if not isinstance(since_ms, int) or not 0 <= since_ms < 2**48:
            raise BadInput("since is a time in milliseconds since 1970")
        wanted = {key: str(params.get(key) or "") for key in ("after", "state", "function", "node", "begins")}
        if wanted["after"] and not is_task_id(wanted["after"]):
            raise BadInput("after is no task's id", fix="give back `next` as the last page told it")
        least = task_id(since_ms, bytes(8)) if since_ms else ""
        if wanted["begins"]:  # ids ascend, so those that begin alike lie side by side
            first, last = (f"{wanted['begins']:{fill}<23}" for fill in "0z")
            if not (is_task_id(first) and is_task_id(last)):
                raise BadInput("no task's id begins so", fix="they have 23 characters, 0-9 and a-z")
            least, beyond = max(least, first), last + "~"
            wanted["after"] = min(wanted["after"] or beyond, beyond)
        if wanted["state"] not in ("", "open", *Status):
            raise BadInput(
                f"{wanted['state']!r:.60} is no state of a task", fix=f"choose open, {', '.join(Status)}"
            )
        page = await asyncio.to_thread(
            functools.partial(
                self.agent.journal.page,
                wanted["after"],
                limit=limit,
                state=wanted["state"],
                function=wanted["function"],
                node=wanted["node"],
                least=least,
                owner=self.agent.node_id,
            )
        )
        rows = []
        for one in page.found:
            state, place = one.state, one.place
            if state == "open":
                state, place = self.agent.desk.state(one.id) or ("closing", "")
            place = self.agent.node_id if place == LOCAL else place
            if wanted["node"] in ("", place):
                rows.append(
                    {
                        "id": one.id,
                        "function": one.function,
                        "state": str(state),
                        "place": place,
                        "origin": self.agent.node_id,
                        "accepted_at_ms": one.accepted_at_ms,
                        "settled_at_ms": one.settled_at_ms,
                    }
                )
        return {"tasks": rows, "next": page.after}

    async def _task_facts(self, params: dict[str, Any]) -> object:
        """What was asked for and what it took, without arguments and value. Empty: it is not known here."""
        stored = await asyncio.to_thread(self.agent.journal.get, _text(params, "task"))
        if stored is None:
            return {}
        task, outcome = stored.task, stored.outcome
        return {
            "function": task.function,
            "origin": task.origin,
            "accepted_at_ms": task.accepted_at_ms,
            "where": task.where,
            "priority": task.priority,
            "deadline_ms": task.deadline_ms,
            "ttl_ms": task.ttl_ms,
            "labels": task.labels,
            "code": task.digest.hex(),
            "input_sha256": task.input_sha256.hex(),
            "input_bytes": len(task.input),
            "attempts": [
                {
                    "node": each.node,
                    "started_at_ms": each.started_at_ms,
                    "ended_at_ms": each.ended_at_ms,
                    "ended_as": each.ended_as,
                }
                for each in (outcome.attempts if outcome else stored.attempts)
                if each.node  # else its number is only set aside
            ],
            "output_bytes": len(outcome.output) if outcome else None,
            "run_ms": outcome.run_us / 1e3 if outcome and outcome.run_us else None,
            "cpu_ms": outcome.cpu_us / 1e3 if outcome and outcome.cpu_us else None,
        }

    async def _placement(self, params: dict[str, Any]) -> object:
        """Where the last tasks ran, by which figures, and what came of it."""
        from edge_node.tasks import hindsight  # for who looks back

        agent, most = self.agent, hindsight.DECISIONS_MAX
        learned = agent.desk.estimates.learned()

        def look() -> dict[str, Any]:
            ids = [one.id for one in agent.journal.list(most)]
            stored = (agent.journal.get(each) for each in ids)
            return hindsight.hindsight(agent.node_id, (each for each in stored if each is not None), learned)

        return {"at_ms": agent.clock.wall_ms()} | await asyncio.to_thread(look)

    async def _roster(self, params: dict[str, Any]) -> object:
        roster = self.agent.roster.current
        assert roster is not None
        return {
            "mesh": roster.mesh_id,
            "version": roster.version,
            "digest": roster.digest.hex(),
            "issued_at_ms": roster.issued_s * 1000,
            "valid_until_ms": roster.valid_until_s * 1000,
            "brokers": list(roster.brokers),
            "deployers": [d.id for d in roster.deployers],
            "members": [
                {
                    "id": m.id,
                    "roles": list(m.roles),
                    "labels": dict(m.labels),
                    "status": m.status,
                    "keys": [k.spki_sha256.hex() for k in m.keys],
                }
                for m in roster.members
            ],
        }

    async def _nodes(self, params: dict[str, Any]) -> object:
        roster = self.agent.roster.current
        assert roster is not None
        up = set(self.agent.detector.up()) | {self.agent.node_id}
        versions = self.agent.abilities.versions() | {self.agent.node_id: self.agent.abilities.own.version}
        return [
            {
                "id": m.id,
                "state": m.status if m.status != "active" else "up" if m.id in up else "unseen",
                "roles": list(m.roles),
                "labels": dict(m.labels),
                "version": versions.get(m.id, ""),
            }
            for m in roster.members
        ]

    async def _deploy(self, params: dict[str, Any]) -> object:
        source, stem = params.get("source"), _text(params, "stem")
        if not isinstance(source, bytes):
            raise BadInput("deploy needs the file's bytes")
        rows = await self.agent.publisher.deploy(
            source, stem, only_if_new=bool(params.get("only_if_new", True))
        )
        return {"functions": rows}

    async def _leave(self, params: dict[str, Any]) -> object:
        """Tell the gateway that this node withdraws; the caller forgets the keys afterwards."""
        agent = self.agent
        if not agent.is_member:
            return {"told": False}
        agent.soon(lambda now_ns, _: agent.tell(now_ns, GATEWAY, Leaving("the operator asked")))
        await asyncio.sleep(0)
        for _ in range(50):
            # The broker may shut us out before the new roster reaches us: the acknowledgement is enough.
            await asyncio.sleep(0.1)
            if not agent.is_member or agent.channels.backlog(GATEWAY) == 0:
                return {"told": True}
        return {"told": False}

    async def _renew(self, params: dict[str, Any]) -> object:
        if self.agent.node_id == GATEWAY:
            raise BadInput("a gateway renews itself", fix="restart it: what is due is renewed at its start")
        identity = await self.agent.renewal.renew()
        return {"valid_until_ms": 1000 * not_after_s(identity.leaf)}

    async def _why(self, params: dict[str, Any]) -> object:
        return await self.agent.why(_text(params, "about"), alone=bool(params.get("alone")))

    async def _events(self, params: dict[str, Any]) -> object:
        after, limit, wait_ms = params.get("after"), params.get("limit", 100), params.get("wait_ms", 0)
        if not (after is None or isinstance(after, str)):
            raise BadInput("after is a cursor, as it was told, or null")
        if not isinstance(limit, int) or not isinstance(wait_ms, int):
            raise BadInput("limit and wait_ms are whole numbers")
        page = await self.agent.feed.page(after, limit, wait_ms)
        return {"events": [each.told() for each in page.found], "next": page.cursor, "missed": page.missed}

    async def _ping(self, params: dict[str, Any]) -> object:
        peer = _text(params, "node")
        if self.agent.roster.current is None or self.agent.roster.current.member(peer) is None:
            raise BadInput(f"no member is named {peer!r:.60}", fix="see `edge-gateway nodes`")
        try:
            return {"rtt_ms": 1000 * await self.agent.round_trip_s(peer)}
        except TimeoutError:
            raise Unavailable(f"{peer} does not answer", fix="is it up, and is the broker?") from None


def _cancelled_before(request: protocol.Cancel, reply: Reply, done: asyncio.Future[Any]) -> None:
    """The journal's word on a task that is not open: the answer to a cancel is the same for ever."""
    error = done.exception()
    if error is not None:
        reply(protocol.failure_for(request.id, error))
        return
    found = done.result()
    if found is None or found.outcome is None:
        cause = f"no open task {request.task!r:.60} is known here"
        reply(protocol.Failure(request.id, protocol.NOT_FOUND, cause, "ask the node that accepted it"))
    else:
        cancelled = found.outcome.status == Status.CANCELLED
        reply(protocol.Cancelled(request.id, request.task, cancelled))


def _text(params: dict[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise BadInput(f"{key} is missing or not a short text")
    return value


def _row(task: Task, state: str, place: str, settled_at_ms: int) -> dict[str, object]:
    return {
        "id": task.id,
        "function": task.function,
        "state": state,
        "place": place,
        "origin": task.origin,
        "accepted_at_ms": task.accepted_at_ms,
        "settled_at_ms": settled_at_ms,
    }


def _outcome(request_id: int, task: Task, outcome: Outcome) -> protocol.Outcome:
    return protocol.Outcome(
        id=request_id,
        task=task.id,
        status=outcome.status,
        output=outcome.output,
        error=outcome.error,
        log=outcome.log,
        place=outcome.place,
        attempts=[
            protocol.Attempt(a.node, a.pid, a.started_at_ms, a.ended_at_ms, a.ended_as)
            for a in outcome.attempts
        ],
        function=task.function,
        origin=task.origin,
        accepted_at_ms=task.accepted_at_ms,
        settled_at_ms=outcome.settled_at_ms,
        reason=outcome.cause,
    )
