"""Which methods are noted in the audit log, and what of each: nothing that changes the mesh is forgotten."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edge_node.backend import AgentBackend
from edge_node.clock import ManualClock
from edge_node.store.requests import Requests
from gateway.access.access import Access, asking
from gateway.access.passwords import Cost
from gateway.access.roles import Principal, Role
from gateway.backend import GatewayBackend
from gateway.changes import CHANGES, Change, noted, whoever
from gateway.resting import Resting
from security.enrolment import OpenInvite
from security.errors import BadInput, Unavailable
from security.keystore import KeyStore

NOW_S = 1_795_000_000
ANN = Principal("ann", Role.OPERATOR, "session")

# Methods that change nothing. A new method belongs here or in CHANGES.
READS = {
    *(
        "status",
        "functions",
        "history",
        "tasks",
        "tasks-page",
        "roster",
        "nodes",
        "node",
        "pending",
        "ping",
        "why",
    ),
    *(
        "invites",
        "deploy-look",
        "source",
        "events",
        "users",
        "tokens",
        "audit",
        "metrics",
        "durations",
        "methods",
        "fleet",
        "nodes-page",
    ),
    *("placement", "task-facts"),
    *(
        "state.find",
        "state.count",
        "state.watch",
        "state.tables",
        "state.conflicts",
        "state.fresh",
        "state.clock",
    ),
}
NOTED_BY_ACCESS = {
    "user-add",
    "user-passwd",
    "user-role",
    "user-remove",
    "user-link",
    "token-add",
    "token-revoke",
}
NOT_ON_A_GATEWAY = {"leave", "renew"}


@pytest.fixture
async def house(tmp_path):
    tmp_path.chmod(0o700)
    access = Access(tmp_path, clock=ManualClock(), cost=Cost(memory_kib=64, passes=1))
    await access.open()
    yield SimpleNamespace(access=access, things={})
    await access.close()


@pytest.fixture
def by_ann():
    token = asking.set(ANN)
    yield
    asking.reset(token)


def entries(house):
    return [(e.who, e.what, e.target, e.before, e.after, e.cause) for e in house.access.audit.read(1, 100)]


def methods() -> set[str]:
    """Of a gateway's control socket; only the names are made."""
    replication = SimpleNamespace(requests=Requests(None, None))
    agent = SimpleNamespace(state=print, replication=replication)
    return set(GatewayBackend(SimpleNamespace(agent=agent, clock=ManualClock()))._methods)


def test_every_method_is_noted_or_known_to_change_nothing():
    unknown = methods() - set(CHANGES) - READS - NOTED_BY_ACCESS - NOT_ON_A_GATEWAY

    assert unknown == set(), "add it to CHANGES in gateway/changes.py, or to READS here"
    assert not READS & set(CHANGES)


async def test_what_changed_is_noted_with_before_and_after(house, by_ann):
    change = Change("thing.set", "thing", lambda house, name: house.things.get(name))

    async def call(method, params):
        house.things[params["thing"]] = {"value": params["value"]}
        return {"done": True}

    params = {"thing": "a", "value": 1, "reason": "wanted"}
    assert await noted(house, change, "set", params, call) == {"done": True}
    await noted(house, change, "set", params | {"value": 2}, call)
    await noted(house, change, "set", params | {"value": 2}, call)

    assert entries(house) == [
        ("ann", "thing.set", "a", None, {"value": 1}, "wanted"),
        ("ann", "thing.set", "a", {"value": 1}, {"value": 2}, "wanted"),
    ], "the third changed nothing"


async def test_only_named_parameters_are_noted(house, by_ann):
    async def call(method, params):
        return {"code": "ew1.secret", "ids": list(range(100))}

    await noted(
        house, CHANGES["invite"], "invite", {"name": "pi-1", "ttl_s": 60, "code": "ew1.s", "roles": []}, call
    )

    ((who, what, target, before, after, _),) = entries(house)
    assert (who, what, target, before) == ("ann", "node.invite", "pi-1", None)
    assert (after["name"], after["ttl_s"], after["documents"], len(after["ids"])) == ("pi-1", 60, 100, 64)
    assert "ew1" not in (house.access.directory / "audit.log").read_text()


async def test_an_open_code_is_noted_by_its_id_and_its_end_by_what_it_was_for(house, by_ann):
    """The id leads from one entry to the other; the code is in neither."""
    codes = [OpenInvite("k7q2mz", NOW_S, "auto", "pi-1", ("store",), False)]
    house.joining = SimpleNamespace(desk=SimpleNamespace(open_invites=lambda: codes))

    async def call(method, params):
        if method == "withdraw":
            codes.clear()
        return {"id": "k7q2mz", "code": "ew1.secret"}

    await noted(house, CHANGES["invite"], "invite", {"name": "pi-1"}, call)
    for _ in range(2):
        await noted(house, CHANGES["withdraw"], "withdraw", {"id": "k7q2mz"}, call)

    facts = {
        "id": "k7q2mz", "name": "pi-1", "approval": "auto", "roles": ["store"], "replaces": False,
        "expires_at_ms": NOW_S * 1000,
    }  # fmt: skip
    assert entries(house) == [
        ("ann", "node.invite", "pi-1", None, {"name": "pi-1", "id": "k7q2mz"}, ""),
        ("ann", "node.withdraw", "k7q2mz", facts, None, ""),
    ], "the second withdrawal ended nothing"
    assert "ew1" not in (house.access.directory / "audit.log").read_text()


async def test_who_was_told_to_rest_is_noted_with_what_held_before_and_why(house, by_ann, tmp_path):
    house.resting = Resting(KeyStore(tmp_path / "keys"), lambda node, wish: None)

    async def call(method, params):
        mode = {"resume": "work"}.get(method, method)
        await house.resting.ask(params["node"], mode, {"pi-1"}, by="ann", reason=params.get("reason", ""))

    for method, params in (
        ("pause", {"node": "pi-1", "reason": "new disk"}),
        ("pause", {"node": "pi-1", "reason": "new disk"}),
        ("drain", {"node": "pi-1"}),
        ("resume", {"node": "pi-1"}),
    ):
        await noted(house, CHANGES[method], method, params, call)

    told = [(what, before, after, cause) for _, what, _, before, after, cause in entries(house)]
    working, paused = {"work": "work", "reason": ""}, {"work": "pause", "reason": "new disk"}
    drained = {"work": "drain", "reason": ""}
    assert told == [
        ("node.pause", working, paused, "new disk"),
        ("node.drain", paused, drained, ""),
        ("node.resume", drained, working, ""),
    ], "what was so already is no change"


async def test_what_fails_is_not_noted(house):
    async def call(method, params):
        raise BadInput("no member is named so")

    with pytest.raises(BadInput):
        await noted(house, Change("x", "node"), "x", {}, call)
    assert entries(house) == []


async def test_nothing_is_begun_while_something_done_is_not_noted_yet(house, monkeypatch):
    done = []

    async def call(method, params):
        done.append(params["node"])
        return {}

    def full(data: bytes) -> None:
        raise Unavailable("no space left on device")

    monkeypatch.setattr(house.access.audit, "_save", full)
    await noted(house, Change("x", "node"), "x", {"node": "a"}, call)
    with pytest.raises(Unavailable, match="no space"):
        await noted(house, Change("x", "node"), "x", {"node": "b"}, call)
    monkeypatch.undo()
    await noted(house, Change("x", "node"), "x", {"node": "c"}, call)

    assert done == ["a", "c"]
    assert [target for _, _, target, *_ in entries(house)] == ["a", "c"]


def test_who_asks_is_the_principal_or_the_owner_of_the_socket(by_ann):
    assert whoever() is ANN


def test_without_a_principal_it_is_the_owner_of_the_socket():
    assert whoever().kind == "local" and whoever().role is Role.ADMIN


def test_what_programs_write_into_tables_is_noted_for_people_only():
    insert, counter = CHANGES["state.insert"], CHANGES["state.counter"]

    assert not insert.concerns({}) and CHANGES["revoke"].concerns({})
    token = asking.set(ANN)
    assert insert.concerns({}) and counter.concerns({"add": 1}) and not counter.concerns({"name": "n"})
    asking.reset(token)


def test_the_nodes_own_methods_go_through_the_same_door():
    assert GatewayBackend.call is not AgentBackend.call
