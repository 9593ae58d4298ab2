"""Who may write and read what: one table for both brokers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.wire.topics import subscriptions
from gateway.broker import access
from gateway.broker.access import Access, Listener, matches
from security.identity import bearer

MESH = "0123456789abcdef"
ROOT = f"ew/1/{MESH}"
RULES = Access(MESH, frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/b/c", True),
        ("+", "a", True),
        ("+", "a/b", False),
        ("#", "a/b", True),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "b", False),
        ("a/#/c", "a/b/c", False),
        ("a+", "ab", False),
        ("a/b#", "a/bc", False),
        ("", "", True),
        ("+/+", "/", True),
    ],
)
def test_a_filter_matches_exactly(pattern, topic, expected):
    assert matches(pattern, topic) is expected


levels = st.lists(st.sampled_from(["a", "b", "", "c"]), min_size=1, max_size=5)


@given(levels, st.data())
def test_a_filter_made_from_a_topic_matches_it(names, data):
    """Any level may become `+`; any tail may become `#`."""
    pattern = ["+" if data.draw(st.booleans()) else name for name in names]
    keep = data.draw(st.integers(0, len(names)))

    assert matches("/".join(pattern), "/".join(names))
    assert matches("/".join([*pattern[:keep], "#"]), "/".join(names))
    assert not matches("/".join([*pattern, "+"]), "/".join(names))


@pytest.mark.parametrize(
    ("me", "topic", "allowed"),
    [
        ("a", "d/b/a", True),
        ("a", "g/climate/a", True),
        ("a", "p/a", True),
        ("gateway", "roster", True),
        ("gateway", "d/a/gateway", True),
        ("a", "roster", False),
        ("a", "d/b/b", False),
        ("a", "p/b", False),
        ("a", "g/climate/b", False),
        ("a", "d/b/a/a", False),
        ("a", "d/b", False),
        ("a", "x/b/a", False),
        ("a", "d/+/a", False),
        ("a", "#", False),
        ("c", "d/b/c", False),
        ("c", "p/c", False),
        ("", "p/", False),
    ],
)
def test_a_member_writes_only_as_itself(me, topic, allowed):
    assert RULES.may_write(me, f"{ROOT}/{topic}") is allowed


def test_another_mesh_is_nobodys():
    other = "ew/1/ffffffffffffffff"

    assert not RULES.may_write("a", f"{other}/p/a")
    assert not RULES.may_subscribe("a", f"{other}/p/+")
    assert not RULES.may_receive("a", f"{other}/d/a/b")


@pytest.mark.parametrize(
    ("me", "pattern", "allowed"),
    [
        ("a", "d/a/+", True),
        ("a", "p/+", True),
        ("a", "p/b", True),
        ("a", "p/gateway", True),
        ("a", "p/stranger", True),
        ("a", "p/#", False),
        ("a", "p/b/+", False),
        ("a", "p/", False),
        ("a", "p/+b", False),
        ("c", "p/b", False),
        ("a", "roster", True),
        ("a", "g/climate/+", True),
        ("a", "g/+/+", True),
        ("a", "d/b/+", False),
        ("a", "d/+/+", False),
        ("a", "d/+/a", False),
        ("a", "d/a/#", False),
        ("a", "#", False),
        ("a", "g/#", False),
        ("a", "g/+/#", False),
        ("a", "g//+", False),
        ("a", "g/x/b", False),
        ("a", "+", False),
        ("a", "d/b/a", False),
        ("c", "p/+", False),
        ("c", "d/c/+", False),
        ("gateway", "d/a/+", False),
    ],
)
def test_a_member_reads_only_what_is_for_it(me, pattern, allowed):
    assert RULES.may_subscribe(me, f"{ROOT}/{pattern}") is allowed


def test_what_every_member_subscribes_to_is_granted():
    assert all(RULES.may_subscribe("a", pattern) for pattern in subscriptions(MESH, "a"))


@given(st.text(alphabet="ew1/+#dgprostab0123456789cf", max_size=60))
def test_a_granted_subscription_never_reaches_another_inbox(pattern):
    if RULES.may_subscribe("a", f"{ROOT}/{pattern}"):
        assert not matches(f"{ROOT}/{pattern}", f"{ROOT}/d/b/a")


def test_a_delivery_is_checked_by_itself():
    assert RULES.may_receive("a", f"{ROOT}/d/a/b")
    assert not RULES.may_receive("a", f"{ROOT}/d/b/a")
    assert not RULES.may_receive("c", f"{ROOT}/p/a")


def listener(**changes):
    options = {
        "mesh": MESH,
        "host": "127.0.0.1",
        "port": 8883,
        "ca_file": "/ca",
        "cert_file": "/cert",
        "key_file": "/key",
        "folder": "/home/broker",
        "log_file": "/home/log/broker.log",
    }
    return Listener(**options | changes)


def test_mosquitto_lets_nobody_in_without_a_certificate():
    lines = access.mosquitto_conf(listener(), plugin="/p.so", as_root=False).splitlines()

    for line in (
        "require_certificate true",
        "use_subject_as_username true",
        "use_username_as_clientid true",
        "tls_version tlsv1.3",
        "allow_anonymous false",
        "set_tcp_nodelay true",
        "persistence false",
        "listener 8883 127.0.0.1",
    ):
        assert line in lines
    assert "user root" not in lines
    assert "user root" in access.mosquitto_conf(listener(), plugin="/p.so", as_root=True).splitlines()


def test_a_path_cannot_smuggle_a_setting_in():
    with pytest.raises(AssertionError):
        access.mosquitto_conf(listener(key_file="/key\nallow_anonymous true"), plugin="/p.so", as_root=False)


def test_everything_is_denied_that_no_role_allows():
    document = json.loads(
        access.mosquitto_access(
            MESH, [who("gateway"), who("a", 1), who("a", 2)], password="x", salt=bytes(12)
        )
    )

    assert document["defaultACLAccess"] == {
        "publishClientSend": False,
        "publishClientReceive": False,
        "subscribe": False,
        "unsubscribe": False,
    }
    sends = {
        role["rolename"]: {acl["topic"] for acl in role["acls"] if acl["acltype"] == "publishClientSend"}
        for role in document["roles"]
    }
    assert sends["a"] == {f"{ROOT}/d/+/a", f"{ROOT}/g/+/a", f"{ROOT}/p/a"}
    assert f"{ROOT}/roster" in sends["gateway"]
    clients = {one["username"]: [role["rolename"] for role in one["roles"]] for one in document["clients"]}
    assert clients == {
        access.CONTROL_USER: [access.CONTROL_USER],
        who("gateway"): ["gateway"],
        who("a", 1): ["a"],
        who("a", 2): ["a"],
    }
    assert "x" not in [client.get("password") for client in document["clients"]]


def test_changes_lead_to_the_wanted_members_and_spare_the_supervisor():
    present = [access.CONTROL_USER, who("gateway"), who("a"), who("b")]
    wanted = [who("gateway"), who("b"), who("c")]

    assert told(changes(present, wanted)) == [
        ("deleteClient", who("a")), ("deleteRole", "a"), ("createRole", "c"), ("createClient", who("c"))
    ]  # fmt: skip
    assert changes([access.CONTROL_USER, *wanted], wanted[::-1]) == []


@given(st.data())
def test_any_beginning_of_the_changes_may_be_all_that_is_carried_out(data):
    """A gateway is killed, or the broker answers no more, in the middle of a long list."""
    bearers = st.sets(st.sampled_from([who(name, key) for name in "abcd" for key in (0, 1)]))
    before, wanted = data.draw(bearers), data.draw(bearers)
    clients, roles = {access.CONTROL_USER, *before}, {access.CONTROL_USER, *map(access.name_of, before)}
    first = access.mosquitto_changes(MESH, clients, roles, wanted)
    carry_out(clients, roles, first[: data.draw(st.integers(0, len(first)))])
    carry_out(clients, roles, access.mosquitto_changes(MESH, clients, roles, wanted))

    assert clients == {access.CONTROL_USER, *wanted}
    assert roles == {access.CONTROL_USER, *map(access.name_of, wanted)}


def carry_out(clients, roles, commands):
    """As the plugin does: what is there already, or is not there, is an error."""
    for command in commands:
        match command:
            case {"command": "createRole", "rolename": name}:
                assert name not in roles
                roles.add(name)
            case {"command": "deleteRole", "rolename": name}:
                roles.remove(name)
            case {"command": "createClient", "username": one, "roles": [{"rolename": name}]}:
                assert one not in clients and name in roles
                clients.add(one)
            case {"command": "deleteClient", "username": one}:
                clients.remove(one)


def test_another_key_under_a_name_is_another_client_of_the_same_role():
    """A renewal lists two keys and drops one later; a replaced board's key goes at once."""
    old, both, new = [who("a", 1)], [who("a", 1), who("a", 2)], [who("a", 2)]

    assert told(changes(old, both)) == [("createClient", who("a", 2))]
    assert told(changes(both, new)) == [("deleteClient", who("a", 1))]
    assert told(changes(old, new)) == [
        ("deleteClient", who("a", 1)), ("createClient", who("a", 2))
    ]  # fmt: skip


def who(name, key=0):
    return bearer(name, bytes([key]) * 32)


def changes(present, wanted):
    return access.mosquitto_changes(MESH, present, {access.name_of(one) for one in present}, wanted)


def told(commands):
    return [(command["command"], command.get("username") or command["rolename"]) for command in commands]
