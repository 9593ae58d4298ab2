"""Calls: requests of the control protocol as requests of the HTTP API, and its answers as responses.

    Call("nodes", {}) ─► GET /v1/nodes?limit=500 ─► {"nodes": […], "next": "kq…"}
                      ─► GET /v1/nodes?limit=500&cursor=kq… ─► … ─► Answer([…])

A command gives the same work to a gateway beside it and to one afar; only the line differs. An exchange is a
generator: it yields what is asked next, is sent what was answered, and returns the response. A problem (RFC
9457) becomes the failure that the socket would tell, with the same exit code.

What HTTP cannot carry is refused before it is sent (``bytes``, NaN: JSON has none), and what only somebody at
the gateway may do has no route (``HERE``). Of a task that failed the traceback is not told: it names files of
a node. Not here: sockets, TLS, who may ask (``line``, ``trust``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote

from edge_node.control import protocol
from edge_node.functions import values
from edge_node.functions.invocation import TaskError
from edge_node.tasks.states import Status
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable

ROWS: Final = 500
"""Of a page: as many as the API gives."""
WAIT_S_MAX: Final = 30.0
"""As long as the API waits for something before it answers that there is nothing yet."""
URN: Final = "urn:edgeweave:problem:"
KEY_HEADER: Final = "idempotency-key"
AGAIN_S: Final = (0.5, 2.0, 5.0)
"""Pauses before work is sent once more: a gateway that restarts is back within them."""
AGAIN_WITHIN_S: Final = 90.0
"""No further try begins after that: one that got no answer has waited a minute."""
LOCAL: Final = "local"
LAST: Final = 2**53 - 1

CALLERS_FAULT: Final = frozenset(
    {"malformed", "not-found", "method", "too-large", "media-type", "invalid", "key-reused"}
)
POLICY: Final = frozenset({"not-authenticated", "forbidden", "refused", "stale"})
"""Kinds of problems; those in neither pass by themselves, or are told as if they did."""
FIXES: Final = {
    "see /v1/nodes": "see `edge-gateway nodes`",
    "see /v1/pending": "see `edge-gateway pending`",
    "see /v1/functions": "see `edge-gateway functions`",
    "see /v1/users": "see `edge-gateway users`",
    "it has 23 characters; see /v1/tasks": "`submit` prints it: 23 characters",
    "make one with `edge-gateway tokens add`": "make one there with `edge-gateway tokens add`",
    "set [api] lan = true on the gateway": "give it [api] lan = true in its settings, and restart it",
}
"""What the API advises programs, as people at a command line do it."""
HERE: Final = {
    "settle": "what is lost by it, somebody at the gateway decides",
    "user-link": "the link is for a browser on the gateway's machine",
}
"""Methods that no route serves, on purpose."""

T = TypeVar("T")
Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request. body: plain data, sent as JSON; content: bytes instead.

    wait_s: how long the gateway may wait before it answers, beside the time of the work itself.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    body: bytes
    retry_after: str = ""


Exchange = Generator[Asked, Answered, T]
Method = Callable[[Params], Exchange[Any]]


def exchange(request: protocol.Request, key: str = "") -> Exchange[protocol.Response]:
    """Args: key: of this request alone; work that bears one is taken once, however often it is sent.

    Returns: the response to *request*; a Failure where the gateway told a problem.
    """
    try:
        match request:
            case protocol.Call():
                params = protocol.unpack(request.params)
                assert isinstance(params, dict), "Mesh.call packs a mapping"
                answer = yield from _method(request.method)(params)
                return protocol.Answer(request.id, protocol.pack(answer))
            case protocol.Submit():
                return protocol.Accepted(request.id, (yield from _submitted(request, key)))
            case protocol.Run():
                task = yield from _submitted(request, key)
                while True:
                    found = yield from _result(request.id, task, WAIT_S_MAX)
                    if isinstance(found, protocol.Outcome):
                        return found
            case protocol.Result():
                return (yield from _result(request.id, request.task, request.wait_ms / 1000))
            case protocol.Cancel():
                told = yield from _post(f"/v1/tasks/{_part(request.task)}/cancel")
                return protocol.Cancelled(request.id, request.task, bool(told["cancelled"]))
    except ProtocolViolation as error:
        return protocol.failure_for(request.id, _strange(error.cause))
    except EdgeweaveError as error:
        return protocol.failure_for(request.id, error)
    except (KeyError, TypeError, IndexError, AttributeError):
        return protocol.failure_for(request.id, _strange("its answer has another shape"))


def again_in_s(asked: Asked, answered: Answered | None, *, tries: int, since_s: float) -> float | None:
    """Seconds until *asked* is sent once more; None: what came of it is told.

    Args: answered: None: it was sent and no answer came, so nobody here knows whether it was taken.
        tries: so far.   since_s: from the first of them.
    """
    if KEY_HEADER not in asked.headers or tries > len(AGAIN_S) or since_s > AGAIN_WITHIN_S:
        return None
    if answered is not None and not (answered.status == 409 and _kind(answered) == "in-progress"):
        return None
    return AGAIN_S[tries - 1]


def _kind(answered: Answered) -> str:
    """Of a problem; empty: it is none."""
    try:
        return str(json.loads(answered.body)["type"]).removeprefix(URN)
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""


def error_of(answered: Answered) -> EdgeweaveError:
    """What a problem is at a command line: cause, fix and, by its kind, the exit code."""
    try:
        told = json.loads(answered.body)
        kind, cause = str(told["type"]), str(told["detail"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return _strange(f"HTTP {answered.status}")
    if not kind.startswith(URN):
        return _strange(f"HTTP {answered.status}, {kind:.80}")
    kind, fix = kind.removeprefix(URN), str(told.get("fix", ""))
    fix = FIXES.get(fix, fix)
    if kind in CALLERS_FAULT:
        return BadInput(cause, fix=fix)
    if kind in POLICY:
        return Refused(cause, fix=fix)
    after = answered.retry_after
    wait_s = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 1.0
    return Unavailable(cause, fix=fix, retry_after_s=wait_s)


def _strange(what: str) -> Unavailable:
    return Unavailable(
        f"what answers there is no gateway of this version ({what})",
        fix="check the URL; use the same edgeweave version on both machines",
    )


def _method(name: str) -> Method:
    """Raises: Refused: it is not served over HTTP."""
    found = METHODS.get(name)
    if found is None:
        why = HERE.get(name, "the HTTP API does not serve it")
        raise Refused(f"{name} cannot be asked from afar: {why}", fix="run the command on the gateway")
    return found


# ── one request ───────────────────────────────────────────────────────────────────────────────────────


def _told(asked: Asked) -> Exchange[bytes]:
    """Raises: EdgeweaveError: a problem was answered."""
    answered = yield asked
    if not 200 <= answered.status < 300:
        raise error_of(answered)
    return answered.body


def _json(asked: Asked) -> Exchange[Any]:
    body = yield from _told(asked)
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _strange("its answer is no JSON") from None


def _get(path: str, **query: object) -> Exchange[Any]:
    return (yield from _json(Asked("GET", path, _query(query))))


def _post(path: str, body: object = None, *, method: str = "POST", wait_s: float = 0.0) -> Exchange[Any]:
    return (yield from _json(Asked(method, path, body=body, wait_s=wait_s)))


def _query(given: Mapping[str, object]) -> dict[str, str]:
    """Without what was left out."""
    told = {}
    for name, value in given.items():
        if isinstance(value, bool):
            told[name] = "true" if value else "false"
        elif value is not None and value != "":
            told[name] = str(value)
    return told


def _part(value: object) -> str:
    """One part of a path. Raises: BadInput: it is none."""
    text = value if isinstance(value, str) else ""
    if text in ("", ".", ".."):
        raise BadInput(f"{text!r} names nothing", fix="give a name")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise BadInput("a name is not valid Unicode", fix="write it as UTF-8") from None


def _paged(path: str, rows: str, most: int | None = None, **query: object) -> Exchange[list[Any]]:
    """All rows of a list, or the first *most*."""
    found: list[Any] = []
    cursor = ""
    while True:
        limit = ROWS if most is None else min(ROWS, most - len(found))
        page = yield from _get(path, limit=limit, cursor=cursor, **query)
        found += page[rows]
        cursor = page["next"]
        if not cursor or (most is not None and len(found) >= most):
            return found


# ── work ──────────────────────────────────────────────────────────────────────────────────────────────


def _submitted(request: protocol.Submit | protocol.Run, key: str) -> Exchange[str]:
    args, kwargs = values.decode_call(request.input)
    body: dict[str, Any] = {
        "function": request.function,
        "args": args,
        "kwargs": kwargs,
        "where": request.where,
        "priority": request.priority,
        "labels": request.labels,
        "deadline_s": None if request.deadline_ms is None else request.deadline_ms / 1000,
        "ttl_s": None if request.ttl_ms is None else request.ttl_ms / 1000,
    }
    headers = _query({"traceparent": request.traceparent, "tracestate": request.tracestate, KEY_HEADER: key})
    return str((yield from _json(Asked("POST", "/v1/tasks", body=body, headers=headers)))["task"])


def _result(number: int, task: str, wait_s: float) -> Exchange[protocol.Outcome | protocol.Pending]:
    wait_s = min(wait_s, WAIT_S_MAX)
    path, query = f"/v1/tasks/{_part(task)}/result", {"wait_s": f"{wait_s:g}"}
    row = yield from _json(Asked("GET", path, query, wait_s=wait_s))
    if not row["settled"]:
        return protocol.Pending(number, row["id"], row["state"])
    error = row["error"]
    return protocol.Outcome(
        id=number,
        task=row["id"],
        status=row["state"],
        output=values.encode(row["value"]) if row["state"] == protocol.DONE else b"",
        error=b"" if error is None else TaskError(error["kind"], error["type"], error["message"]).encode(),
        log=row["log"].encode("utf-8", "replace"),
        place=_place(row),
        attempts=[
            protocol.Attempt(each["node"], 0, each["started_at_ms"], each["ended_at_ms"], each["ended_as"])
            for each in row["attempts"]
        ],
        function=row["function"],
        origin=row["origin"],
        accepted_at_ms=row["accepted_at_ms"],
        settled_at_ms=row["settled_at_ms"],
        reason=row["reason"],
    )


def _place(row: Mapping[str, Any]) -> str:
    """The API names the gateway itself; its socket says ``local``."""
    return LOCAL if row["place"] == row["origin"] else str(row["place"])


def _tasks(params: Params) -> Exchange[list[Any]]:
    """The API tells apart how tasks ended; what an open one is at, its row says."""
    state = params.get("state") or ""
    most = int(params.get("limit", 50))
    asked = state if state in ("", *Status) else "open"
    if asked == state:
        rows = yield from _paged("/v1/tasks", "tasks", most, state=asked)
    else:
        rows = yield from _paged("/v1/tasks", "tasks", state=asked)
    found = [row for row in rows if state in ("", row["state"])][:most]
    return [row | {"place": _place(row)} for row in found]


def _tasks_page(params: Params) -> Exchange[dict[str, Any]]:
    """``after`` is the API's cursor here: whoever leafs gives back what it was told."""
    query = {name: params.get(name) for name in ("state", "function", "node", "since_ms", "begins", "limit")}
    page: dict[str, Any] = yield from _get("/v1/tasks", cursor=params.get("after"), **query)
    return page


# ── members ───────────────────────────────────────────────────────────────────────────────────────────


def _nodes(params: Params) -> Exchange[list[Any]]:
    rows = yield from _paged("/v1/nodes", "nodes")
    waiting = [row for row in rows if row["status"] == "pending"]
    waiting.sort(key=lambda row: row["last_seen_at_ms"])
    return [row for row in rows if row["status"] != "pending"] + waiting


def _at_node(what: str, *told: str) -> Method:
    """What is done to a member. told: parameters that go into the body."""

    def method(params: Params) -> Exchange[Any]:
        body = {name: params[name] for name in told if name in params}
        return (yield from _post(f"/v1/nodes/{_part(params['node'])}/{what}", body if told else None))

    return method


def _waiting(what: str) -> Method:
    def method(params: Params) -> Exchange[Any]:
        return (yield from _post(f"/v1/pending/{_part(params['node'])}/{what}"))

    return method


def _invite(params: Params) -> Exchange[Any]:
    body = {
        "ttl_s": params.get("ttl_s", 3600),
        "approval": params.get("approval") or "auto",
        "name": params.get("name") or "",
        "roles": params.get("roles") or [],
    }
    return (yield from _post("/v1/invites", body))


def _withdraw(params: Params) -> Exchange[Any]:
    yield from _post(f"/v1/invites/{_part(params['id'])}", method="DELETE")
    return {"id": params["id"]}


def _listed(path: str, rows: str = "") -> Method:
    """A route that takes nothing. rows: what of its answer is meant."""

    def method(params: Params) -> Exchange[Any]:
        told = yield from _get(path)
        return told[rows] if rows else told

    return method


# ── code ──────────────────────────────────────────────────────────────────────────────────────────────


def _functions(params: Params) -> Exchange[list[Any]]:
    return (yield from _paged("/v1/functions", "functions"))


def _history(params: Params) -> Exchange[Any]:
    return (yield from _get(f"/v1/functions/{_part(params['name'])}/history"))["versions"]


def _source(params: Params) -> Exchange[Any]:
    return (yield from _get(f"/v1/functions/{_part(params['name'])}/source", version=params.get("version")))


def _deploy(params: Params, **query: str) -> Exchange[Any]:
    query["file"] = f"{params['stem']}.py"
    return (yield from _json(Asked("POST", "/v1/functions", query, content=params["source"])))


def _deploy_look(params: Params) -> Exchange[Any]:
    return (yield from _deploy(params, look="true"))


def _rollback(params: Params) -> Exchange[Any]:
    return (yield from _post(f"/v1/functions/{_part(params['name'])}/rollback"))


# ── what happens ──────────────────────────────────────────────────────────────────────────────────────


def _why(params: Params) -> Exchange[Any]:
    path, query = f"/v1/why/{_part(params['about'])}", _query({"alone": bool(params.get("alone"))})
    return (yield from _json(Asked("GET", path, query, wait_s=WAIT_S_MAX)))


def _events(params: Params) -> Exchange[Any]:
    wait_s = min(params.get("wait_ms", 0) / 1000, WAIT_S_MAX)
    query = _query({"after": params.get("after"), "limit": params.get("limit"), "wait_s": f"{wait_s:g}"})
    return (yield from _json(Asked("GET", "/v1/events/page", query, wait_s=wait_s)))


def _metrics(params: Params) -> Exchange[dict[str, str]]:
    return {"text": (yield from _told(Asked("GET", "/metrics"))).decode("utf-8", "replace")}


def _log_level(params: Params) -> Exchange[Any]:
    if not params.get("level"):
        return (yield from _get("/v1/log-level", logger=params.get("logger")))
    return (yield from _post("/v1/log-level", dict(params), method="PUT"))


# ── accounts ──────────────────────────────────────────────────────────────────────────────────────────


def _user_add(params: Params) -> Exchange[Any]:
    return (yield from _post("/v1/users", dict(params)))


def _user_passwd(params: Params) -> Exchange[Any]:
    path = f"/v1/users/{_part(params['name'])}"
    yield from _post(f"{path}/password", {"password": params["password"]}, method="PUT")
    return (yield from _get(path))


def _user_role(params: Params) -> Exchange[Any]:
    path = f"/v1/users/{_part(params['name'])}"
    return (yield from _post(path, {"role": params["role"]}, method="PATCH"))


def _user_remove(params: Params) -> Exchange[Any]:
    yield from _post(f"/v1/users/{_part(params['name'])}", method="DELETE")
    return {"name": params["name"]}


def _token_add(params: Params) -> Exchange[Any]:
    return (yield from _post("/v1/tokens", {**params, "ttl_s": int(params["ttl_s"])}))


def _token_revoke(params: Params) -> Exchange[Any]:
    yield from _post(f"/v1/tokens/{_part(params['id'])}", method="DELETE")
    return {"id": params["id"]}


def _audit(params: Params) -> Exchange[list[Any]]:
    after, most = params.get("after", 0), params.get("limit", 100)
    found: list[Any] = []
    while len(found) < most:
        limit = min(ROWS, most - len(found))
        if after >= 0:
            page = (yield from _get("/v1/audit", after=after, limit=limit))["entries"]
            found = found + page
            after = page[-1]["n"] if page else after
        else:  # the last ones, from the end backwards
            before = found[0]["n"] if found else LAST
            page = (yield from _get("/v1/audit", before=before, limit=limit))["entries"]
            found = page + found
        if len(page) < limit:
            break
    return found


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────

LOOKS: Final = ("conflicts", "count", "counter", "find", "fresh", "set", "tables", "watch")
CHANGES: Final = ("declare", "insert", "put", "remove", "resolve", "truncate", "update", "upsert")
WRITES: Final = {"counter": ("add",), "set": ("add", "discard")}
"""What looks, unless it is given one of these."""


def _state(name: str) -> Method:
    def method(params: Params) -> Exchange[Any]:
        changes = name in CHANGES or any(params.get(each) for each in WRITES.get(name, ()))
        wait_s = max(params.get("wait_ms", 0) / 1000, params.get("wait_s", 0.0))
        path = "/v1/state/change" if changes else "/v1/state/look"
        return (yield from _post(path, {"method": name, "params": dict(params)}, wait_s=wait_s))

    return method


def _methods(params: Params) -> Exchange[list[str]]:
    """Answered here: what may be asked from afar."""
    return sorted(METHODS)
    yield  # it is an exchange without a request


METHODS: Final[dict[str, Method]] = {
    "status": _listed("/v1/status"),
    "methods": _methods,
    "nodes": _nodes,
    "roster": _listed("/v1/roster"),
    "pending": _listed("/v1/pending", "pending"),
    "invites": _listed("/v1/invites", "invites"),
    "invite": _invite,
    "withdraw": _withdraw,
    "approve": _waiting("approve"),
    "deny": _waiting("deny"),
    "replace": _at_node("replace", "ttl_s", "approval"),
    "revoke": _at_node("revoke", "reason"),
    "pause": _at_node("pause", "reason"),
    "drain": _at_node("drain", "reason"),
    "resume": _at_node("resume", "reason"),
    "ping": _at_node("ping"),
    "functions": _functions,
    "history": _history,
    "source": _source,
    "deploy": _deploy,
    "deploy-look": _deploy_look,
    "rollback": _rollback,
    "tasks": _tasks,
    "tasks-page": _tasks_page,
    "placement": _listed("/v1/placement"),
    "why": _why,
    "events": _events,
    "metrics": _metrics,
    "log-level": _log_level,
    "users": _listed("/v1/users", "users"),
    "user-add": _user_add,
    "user-passwd": _user_passwd,
    "user-role": _user_role,
    "user-remove": _user_remove,
    "tokens": _listed("/v1/tokens", "tokens"),
    "token-add": _token_add,
    "token-revoke": _token_revoke,
    "audit": _audit,
    **{f"state.{name}": _state(name) for name in (*LOOKS, *CHANGES)},
}
"""Administrative methods, as ``edge_node.backend`` and ``gateway.backend`` name them."""
