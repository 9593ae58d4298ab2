"""Sightings: bounded, checked, and kind to members."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.discovery.sightings import (
    ADDRESSES_MAX,
    Advert,
    Appeared,
    Changed,
    Gone,
    Members,
    Seen,
    Sighting,
    Sightings,
    Vanished,
    format_address,
    parse_address,
    properties_of,
    sighting_from,
)
from security.errors import BadInput, ProtocolViolation

MESH = "0123456789abcdef"
SECOND = 1_000_000_000


def sighting(name="pi-1", *, instance="", mesh=MESH, role="node", ip="10.0.0.1", join=0, brokers=(), link=""):
    return Sighting(instance or f"{name}.x", mesh, name, role, ((ip, join),), tuple(brokers), link)


def as_bytes(properties):
    return {key.encode(): value.encode() for key, value in properties.items()}


def test_an_announcement_appears_changes_and_vanishes():
    table = Sightings()
    first, moved = sighting(), sighting(brokers=[("10.0.0.9", 8883)])

    assert table.handle(1, Seen(first)) == [Appeared(table.all()[0])]
    assert table.handle(2, Seen(first)) == []
    assert table.handle(3, Seen(moved)) == [Changed(table.all()[0])]
    assert table.all()[0].seen_ns == 3
    assert table.handle(4, Gone("pi-1.x")) == [Vanished(Sighting("pi-1.x", *_rest(moved), seen_ns=3))]
    assert table.handle(5, Gone("pi-1.x")) == []


def _rest(s):
    return (s.mesh_id, s.node_id, s.role, s.addresses, s.brokers, s.link_interface)


def test_gateways_are_those_that_take_joining_requests_newest_first():
    table = Sightings()
    table.handle(1, Seen(sighting("gateway", role="gateway", join=8443)))
    table.handle(2, Seen(sighting("gateway", instance="b", mesh="f" * 16, role="gateway", join=8443)))
    table.handle(3, Seen(sighting("pi-1")))

    assert [s.mesh_id for s in table.gateways()] == ["f" * 16, MESH]
    assert [s.mesh_id for s in table.gateways(MESH)] == [MESH]


def test_brokers_put_the_gateways_word_first_and_name_each_address_once():
    table = Sightings()
    table.handle(1, Seen(sighting("gateway", role="gateway", brokers=[("10.0.0.1", 8883)])))
    table.handle(2, Seen(sighting("pi-1", brokers=[("10.0.0.2", 8883), ("10.0.0.1", 8883)])))
    table.handle(3, Seen(sighting("pi-2", mesh="f" * 16, brokers=[("10.0.0.3", 8883)])))

    assert table.brokers(MESH) == [("10.0.0.1", 8883), ("10.0.0.2", 8883)]


def test_one_source_cannot_fill_the_table():
    table = Sightings(per_source=3)
    for n in range(10):
        table.handle(n, Seen(sighting(f"n{n}", ip="10.6.6.6")))
    table.handle(11, Seen(sighting("honest")))

    assert len(table) == 4
    assert table.refused == 7
    assert table.of(MESH, "honest")


def test_a_member_finds_a_place_in_a_table_full_of_strangers():
    table = Sightings(limit=4)
    table.handle(0, Members(MESH, frozenset({"pi-1"})))
    for n in range(6):
        table.handle(n, Seen(sighting(f"n{n}", ip=f"10.6.6.{n + 1}")))

    effects = table.handle(10, Seen(sighting("pi-1")))

    assert [type(effect) for effect in effects] == [Vanished, Appeared]
    assert effects[0].sighting.node_id == "n0"
    assert len(table) == 4
    table.check()


def test_a_rogue_that_says_a_members_name_does_not_replace_its_announcement():
    table = Sightings(per_id=2)
    table.handle(1, Seen(sighting("gateway", instance="true", role="gateway", join=8443)))
    for n in range(5):
        table.handle(n + 2, Seen(sighting("gateway", instance=f"rogue{n}", ip="10.6.6.6", join=1)))

    assert [s.instance for s in table.of(MESH, "gateway")] == ["rogue0", "true"]


def test_what_is_not_heard_again_is_forgotten():
    table = Sightings(lifetime_ns=10 * SECOND)
    table.handle(0, Seen(sighting("pi-1")))
    table.handle(5 * SECOND, Seen(sighting("pi-2")))

    assert table.deadline_ns() == 10 * SECOND
    assert [effect.sighting.node_id for effect in table.tick(10 * SECOND)] == ["pi-1"]
    assert table.deadline_ns() == 15 * SECOND


def test_a_sighting_on_our_own_network_marks_the_peer_as_local():
    table = Sightings()
    table.handle(0, Seen(sighting("pi-1", link="eth0")))
    table.handle(0, Seen(sighting("pi-2", ip="10.0.0.2")))

    assert table.is_local(MESH, "pi-1")
    assert not table.is_local(MESH, "pi-2")


def test_an_advert_survives_the_record():
    advert = Advert(MESH, "gateway", "gateway", (("10.0.0.1", 8883), ("fd00::1", 8884)), 8443)

    seen = sighting_from("i", as_bytes(properties_of(advert)), ["10.0.0.1"], link_interface="eth0", now_ns=7)

    brokers = (("10.0.0.1", 8883), ("fd00::1", 8884))
    assert seen == Sighting("i", MESH, "gateway", "gateway", (("10.0.0.1", 8443),), brokers, "eth0", 7)


def test_a_record_string_never_exceeds_its_255_bytes():
    long_hosts = tuple((f"{'h' * 60}{n}.example", 8883) for n in range(8))

    properties = properties_of(Advert(MESH, "pi-1", "node", long_hosts))

    assert len("broker=" + properties["broker"]) <= 255
    assert sighting_from("i", as_bytes(properties), ["10.0.0.1"]).brokers == long_hosts[:3]


@pytest.mark.parametrize(
    "change",
    [
        {"v": "2"}, {"mesh": "XYZ"}, {"id": "Bad_Name"}, {"id": "a" * 33}, {"role": "king"},
        {"join": "70000"}, {"join": "-1"}, {"join": ""}, {"broker": "no-port"}, {"broker": "h:0"},
        {"broker": "a b:1"},
        {"broker": "x" * 300 + ":1"},
    ],
)  # fmt: skip
def test_an_impossible_announcement_is_refused(change):
    good = properties_of(Advert(MESH, "pi-1", "node"))

    with pytest.raises(ProtocolViolation):
        sighting_from("i", as_bytes(good | change), ["10.0.0.1"])


def test_addresses_are_counted_and_useless_ones_left_out():
    good = as_bytes(properties_of(Advert(MESH, "pi-1", "node")))

    seen = sighting_from("i", good, ["0.0.0.0", "224.0.0.1", *(f"10.0.0.{n}" for n in range(1, 30))])

    assert [host for host, _ in seen.addresses] == [f"10.0.0.{n}" for n in range(1, ADDRESSES_MAX - 1)]
    with pytest.raises(ProtocolViolation):
        sighting_from("i", good, ["0.0.0.0"])


@given(
    st.text(max_size=300),
    st.dictionaries(
        st.sampled_from([b"v", b"mesh", b"id", b"role", b"join", b"broker"]),
        st.none() | st.binary(max_size=300),
    ),
    st.lists(st.text(max_size=60), max_size=12),
)
def test_random_announcements_only_raise_protocol_violation(instance, properties, hosts):
    for merged in (properties, as_bytes(properties_of(Advert(MESH, "pi-1", "node"))) | properties):
        try:
            seen = sighting_from(instance, merged, hosts)
        except ProtocolViolation:
            continue
        assert len(seen.addresses) <= ADDRESSES_MAX


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=80)
)
def test_the_table_keeps_its_bounds_under_any_script(script):
    table, now_ns = Sightings(limit=8, per_source=4, per_id=2, lifetime_ns=40), 0
    table.handle(0, Members(MESH, frozenset({"n0", "n1"})))
    for wait_ns, name, instance, gone in script:
        now_ns += wait_ns
        table.tick(now_ns)
        event = (
            Gone(f"{name}.{instance}")
            if gone
            else Seen(sighting(f"n{name}", instance=f"{name}.{instance}", ip=f"10.0.0.{instance + 1}"))
        )
        table.handle(now_ns, event)
        table.check()


@pytest.mark.parametrize(
    "text", ["10.0.0.1:80", "[fe80::1]:8443", "[fe80::1%eth0]:1", "pi.local:65535", "a_b:1"]
)
def test_addresses_parse_and_format_as_inverses(text):
    assert format_address(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", ":", "host", "host:", "host:0", "host:65536", "[fe80::1", "fe80::1", "1.2.3:4", "a b:1", "h:¹"],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(BadInput):
        parse_address(text)


def test_a_default_port_fills_in():
    assert parse_address("pi.local", default_port=8443) == ("pi.local", 8443)
    assert parse_address("[::1]", default_port=8443) == ("::1", 8443)
