"""Links and their broker in virtual time: when a death is noticed, what survives, what is bounded."""

from __future__ import annotations

import pytest

from device_sim.virtual import broker as broker_room
from device_sim.virtual import link as link_room
from device_sim.virtual.broker import QUEUED_MAX, kind_of
from device_sim.virtual.link import VirtualLink
from device_sim.virtual.network import LinkModel
from device_sim.virtual.world import MS, SECOND
from edge_node.transport import mqtt
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import LINK_DOWN, Delivery, LinkDown, LinkUp, Sent
from gateway.broker import access
from tests.support.wires import MESH, ROOT, Wires


def reasons(member):
    return [event.reason for event in member.of(LinkDown)]


def wills(member, of):
    topic = f"{ROOT}/p/{of}"
    return [at_ns for at_ns, event in member.heard if event == Delivery(topic, b"", False)]


def test_its_times_and_bounds_are_those_of_the_real_link_and_the_real_broker():
    for name in ("CONNECT", "BACKOFF", "TICK"):
        ours = {key: value for key, value in vars(link_room).items() if key.startswith(f"{name}_NS")}
        real = {key: getattr(mqtt, key.replace("_NS", "_S")) for key in ours}
        assert ours and ours == {key: round(value * SECOND) for key, value in real.items()}
    assert link_room.USER_TIMEOUT_NS == mqtt.USER_TIMEOUT_MS * MS
    assert (link_room.QUEUE_BYTES_MAX, link_room.QUEUE_ITEMS_MAX) == (
        mqtt.QUEUE_BYTES_MAX,
        mqtt.QUEUE_ITEMS_MAX,
    )
    defaults = mqtt.MqttLink.__init__.__kwdefaults__
    ours = VirtualLink.__init__.__kwdefaults__
    assert (ours["keepalive_s"], ours["queue_max"]) == (defaults["keepalive_s"], defaults["queue_max"])
    listener = access.Listener(MESH, "::1", 8883, *"abcde")
    conf = access.mosquitto_conf(listener, plugin="", as_root=False).splitlines()
    assert f"max_inflight_messages {broker_room.INFLIGHT_MAX}" in conf
    assert f"max_queued_messages {QUEUED_MAX}" in conf
    assert f"max_queued_bytes {broker_room.QUEUED_BYTES_MAX}" in conf


def test_an_acknowledgement_takes_a_round_trip_and_a_delivery_both_ways():
    wires = Wires("a", "b", a=LinkModel(delay_ms=30), b=LinkModel(delay_ms=5))
    a, b = wires.up("a"), wires.up("b")
    began_ns = wires.world.now_ns
    token = a.send("b", b"hello")
    wires.run_s(1)

    assert a.tokens_told == [token]
    assert a.at(Sent) == [began_ns + 60 * MS]
    assert b.at(Delivery) == [began_ns + 35 * MS]


def test_connecting_takes_a_round_trip_each_for_tcp_tls_mqtt_and_subscriptions():
    wires = Wires("a", a=LinkModel(delay_ms=50))
    a = wires.up("a")
    wires.run_ms(1)

    assert a.at(LinkUp) == [400 * MS]
    assert a.of(LinkUp) == [LinkUp(1)]


def test_what_is_sent_in_one_turn_leaves_in_one_segment():
    wires = Wires("a", "b")
    a, b = wires.up("a"), wires.up("b")
    path = wires.network.ports["a"].up
    before = path.segments
    for _ in range(50):
        a.send("b", b"x" * 100)
    wires.run_ms(0.5)
    assert path.segments == before + 1

    a.beat()
    a.link.flush()
    assert path.segments == before + 2, "a flush does not wait for the end of the moment"
    wires.run_s(1)
    assert path.segments == before + 2, "and nothing is left for it to do"
    assert len(b.payloads) == 50


def test_a_beat_reaches_its_followers_and_is_counted_once_in_and_once_for_each():
    wires = Wires(*"abcd")
    followers = [wires.up(name, "p/a") for name in "bc"]
    a, d = wires.up("a"), wires.up("d", "p/b")
    framed, reached = [], []
    wires.broker.on_framed = lambda *one: framed.append(one)
    wires.broker.on_reached = lambda *one: reached.append(one)
    a.beat()
    a.send("d", b"direct")
    wires.run_s(1)

    assert [member.payloads for member in followers] == [[b"beat"], [b"beat"]]
    assert d.payloads == [b"direct"]
    assert framed == [("a", f"{ROOT}/p/a", b"beat"), ("a", f"{ROOT}/d/d/a", b"direct")]
    assert sorted(reached) == [
        ("b", f"{ROOT}/p/a", b"beat"),
        ("c", f"{ROOT}/p/a", b"beat"),
        ("d", f"{ROOT}/d/d/a", b"direct"),
    ]
    presence, direct = wires.broker.counts["presence"], wires.broker.counts["direct"]
    assert (presence.messages_in, presence.messages_out) == (1, 2)
    assert (direct.messages_in, direct.messages_out) == (1, 1)
    assert presence.bytes_out == 2 * presence.bytes_in > 0


@pytest.mark.parametrize(
    ("topic", "kind"),
    [("d/a/b", "direct"), ("g/x/b", "group"), ("p/a", "presence"), ("roster", "roster"), ("x", "other")],
)
def test_topics_are_counted_by_kind(topic, kind):
    assert kind_of(f"{ROOT}/{topic}") == kind
    assert kind_of("$SYS") == "other"


# ── a hostile broker's faults ─────────────────────────────────────────────────────────────────────────


def test_a_lost_parcel_is_acknowledged_all_the_same():
    wires = Wires("a", "b", a=LinkModel(parcel_loss=0.3))
    a, b = wires.up("a"), wires.up("b")
    framed = []
    wires.broker.on_framed = lambda sender, topic, payload: framed.append(payload)
    for n in range(1000):
        wires.world.after(n * MS, a.send, "b", b"%d" % n)
    wires.run_s(2)

    assert len(a.tokens_told) == len(framed) == 1000
    assert len(b.payloads) == pytest.approx(700, abs=60)
    assert b.payloads == sorted(b.payloads, key=int), "the others are not touched"


def test_doubled_and_overtaken_parcels_arrive_so_within_a_topic_and_across():
    wires = Wires("a", "b", a=LinkModel(duplicate=0.2, reorder=0.2, reorder_ms=20))
    a, b = wires.up("a"), wires.up("b", "g/x/+")
    for n in range(500):
        wires.world.after(n * MS, a.send, "b", b"%d" % n)
        wires.world.after(n * MS, a.link.send, 0, f"{ROOT}/g/x/a", b"%d" % n)
    wires.run_s(2)

    for kind in ("/d/", "/g/"):
        numbers = [int(one.payload) for one in b.of(Delivery) if kind in one.topic]
        assert set(numbers) == set(range(500))
        assert len(numbers) == pytest.approx(600, abs=50)
        assert numbers != sorted(numbers)
    moments = [int(one.payload) for one in b.of(Delivery)]
    assert moments != sorted(moments)


def test_a_block_stops_one_way_between_two_and_nothing_else():
    wires = Wires(*"abc")
    a, b, c = (wires.up(name, "p/a", "p/b", "p/c") for name in "abc")
    block = wires.network.block(["a"], ["b"])
    again = wires.network.block(["a", "c"], ["b"])
    wires.network.heal(again)
    for sender in (a, b, c):
        sender.beat(sender.name.encode())
        for to in "abc":
            sender.send(to, b"direct from " + sender.name.encode())
    wires.run_s(1)

    assert b"a" not in b.payloads and b"direct from a" not in b.payloads
    assert sorted(b.payloads) == [b"b", b"c", b"direct from b", b"direct from c"]
    assert len(a.payloads) == len(c.payloads) == 6
    assert len(a.tokens_told) == 3
    wires.network.heal(block)
    a.beat(b"healed")
    wires.run_s(1)
    assert b.payloads[-1] == b"healed"


# ── deaths ────────────────────────────────────────────────────────────────────────────────────────────


def followed(*, model=None, **options):
    """A member "a" with a will, and who hears of it."""
    wires = Wires("a", "b", a=model or LinkModel(delay_ms=1))
    b = wires.up("b", "p/a")
    a = wires.up("a", will=f"{ROOT}/p/a", **options)
    wires.run_s(3)
    return wires, a, b


def test_a_killed_process_is_known_after_half_a_round_trip():
    wires, a, b = followed()
    killed_ns = wires.world.now_ns
    a.send("b", b"last words")
    a.link.flush()
    a.link.crash()
    heard = len(a.heard)
    wires.run_s(20)

    assert wills(b, "a") == [killed_ns + 2 * MS]
    assert b.payloads == [b"last words", b""]
    assert len(a.heard) == heard, "the dead hear nothing"
    assert wires.broker.clients == ["b"]


def test_a_goodbye_leaves_no_will():
    wires, a, b = followed()
    token = a.send("b", b"last words")
    a.link.stop()
    a.link.stop()
    wires.run_s(30)

    assert b.payloads == [b"last words"]
    assert a.of(Sent) == [Sent(token, LINK_DOWN)]
    assert reasons(a) == ["stopped"]
    assert wires.broker.clients == ["b"]


def test_a_machine_without_power_is_missed_after_one_and_a_half_keepalives():
    wires, a, b = followed()
    a.beat()
    last_ns = wires.world.now_ns
    wires.run_s(1)
    a.link.crash(power=True)
    wires.run_s(60)

    assert wills(b, "a") == [last_ns + 15 * SECOND + 2 * MS]


def test_a_machine_that_comes_back_takes_its_own_place():
    wires, a, b = followed()
    a.link.crash(power=True)
    wires.run_s(4)
    assert wires.broker.clients == ["a", "b"], "nobody has noticed"
    again = wires.up("a", will=f"{ROOT}/p/a")
    wires.run_s(60)

    assert len(wills(b, "a")) == 1, "of the life that was taken over"
    assert wires.broker.clients == ["a", "b"]
    assert reasons(again) == []


def test_a_cut_link_that_sends_is_down_after_the_users_timeout():
    wires, a, b = followed()
    cut = wires.network.partition(["a"])
    wires.run_s(1)
    token = a.send("b", b"into the void")
    sent_ns = wires.world.now_ns
    wires.run_s(30)

    assert a.of(Sent) == [Sent(token, LINK_DOWN)]
    assert reasons(a) == ["Connection timed out", "the broker does not answer"]
    assert a.at(LinkDown)[0] == sent_ns + 5 * SECOND
    assert len(wills(b, "a")) == 1, "the broker has noticed by itself"
    wires.network.heal(cut)
    healed_ns = wires.world.now_ns
    wires.run_s(10)
    assert a.of(LinkUp) == [LinkUp(1), LinkUp(2)]
    assert a.at(LinkUp)[1] - healed_ns < 6 * SECOND
    assert b.payloads == [b""], "what was in the old connection is gone"


def test_a_cut_link_that_is_silent_is_down_when_its_ping_is_not_acknowledged():
    wires, a, _ = followed()
    wires.network.partition(["a"], up=False)  # it is heard, and hears nothing
    cut_ns = wires.world.now_ns
    wires.run_s(40)

    assert reasons(a)[0] == "Connection timed out"
    assert 5 * SECOND < a.at(LinkDown)[0] - cut_ns <= 16 * SECOND


def test_a_broker_that_hangs_is_given_up_when_it_answers_no_ping():
    """Its kernel goes on acknowledging."""
    wires, a, _ = followed()
    a.link._conn.up.receive = lambda packets: None
    wires.broker._sessions["a"].unwatch()
    hung_ns = wires.world.now_ns
    wires.run_s(25)

    assert reasons(a)[0] == "[code:141] Keep alive timeout"
    assert 10 * SECOND < a.at(LinkDown)[0] - hung_ns <= 21 * SECOND


def test_an_idle_link_pings_and_stays():
    wires, a, b = followed()
    path = wires.network.ports["a"].up
    before = path.segments
    wires.run_s(300)

    assert path.segments - before == pytest.approx(30, abs=3)
    assert reasons(a) == wills(b, "a") == []


def test_a_stopped_process_answers_nothing_and_reads_it_all_when_it_goes_on():
    wires, a, b = followed()
    a.link.freeze()
    for n in range(10):
        b.send("a", b"%d" % n)
    wires.run_s(8)
    assert a.payloads == []
    assert len(b.tokens_told) == 10, "its kernel has them, the broker has said so"
    a.link.thaw()
    wires.run_s(1)

    assert a.payloads == [b"%d" % n for n in range(10)]
    assert reasons(a) == wills(b, "a") == []


def test_a_process_that_is_stopped_for_long_finds_its_connection_closed():
    wires, a, b = followed()
    stopped_ns = wires.world.now_ns
    a.link.freeze()
    a.link.freeze()
    b.send("a", b"unread")
    wires.run_s(40)
    assert reasons(a) == []
    [missed_ns] = wills(b, "a")
    assert 10 * SECOND < missed_ns - stopped_ns <= 15 * SECOND + 2 * MS
    a.link.thaw()
    a.link.thaw()
    wires.run_s(5)

    assert a.payloads == [b"unread"]
    assert reasons(a) == ["the broker closed the connection"]
    assert a.of(LinkUp) == [LinkUp(1), LinkUp(2)]


def test_a_process_that_is_stopped_in_the_middle_of_connecting_connects_later():
    for stop_after_ms in range(0, 14, 1):
        wires = Wires("a", "b")
        wires.broker.stop("kill")
        a = wires.joined("a")
        wires.run_s(5)
        wires.broker.start()
        while wires.network.acceptor is None or not wires.broker._greeting:
            wires.run_ms(1)
        wires.run_ms(stop_after_ms)
        a.link.freeze()
        wires.run_s(20)
        a.link.thaw()
        wires.run_s(10)
        assert a.link.up, stop_after_ms


def test_a_short_partition_ends_nothing_and_loses_nothing():
    wires, a, b = followed()
    cut = wires.network.partition(["a", "b"])
    for n in range(10):
        wires.world.after(n * 100 * MS, a.send, "b", b"%d" % n)
    wires.run_s(3)
    wires.network.heal(cut)
    wires.run_s(10)

    assert b.payloads == [b"%d" % n for n in range(10)]
    assert len(a.tokens_told) == 10
    assert reasons(a) == reasons(b) == []


# ── the broker's own ──────────────────────────────────────────────────────────────────────────────────


def test_a_killed_broker_is_known_at_once_and_found_again_within_the_back_off():
    wires, a, b = followed()
    wires.broker.stop("kill")
    stopped_ns = wires.world.now_ns
    wires.run_s(30)
    assert reasons(a) == ["the broker closed the connection", "Connection refused"]
    assert a.at(LinkDown)[0] == stopped_ns + MS
    assert not a.link.up

    wires.broker.start()
    started_ns = wires.world.now_ns
    wires.run_s(5)
    assert a.at(LinkUp)[1] - started_ns < 2 * SECOND + 20 * MS
    assert wires.broker.clients == ["a", "b"]
    assert wills(b, "a") == [], "kill -9 publishes none"


def test_a_broker_whose_host_lost_power_is_missed_by_who_sends():
    wires, a, _ = followed()
    wires.broker.stop("power")
    a.beat()
    stopped_ns = wires.world.now_ns
    wires.run_s(4)
    assert reasons(a) == []
    wires.run_s(26)
    assert reasons(a) == ["Connection timed out", "the broker does not answer"]
    assert a.at(LinkDown)[0] == stopped_ns + 5 * SECOND

    wires.broker.start()
    wires.run_s(8)
    assert wires.broker.clients == ["a", "b"]


def test_a_host_that_is_back_at_once_refuses_the_old_connections():
    wires, a, _ = followed()
    wires.broker.stop("power")
    wires.run_s(1)
    wires.broker.start()
    wires.run_s(1)
    a.beat()
    wires.run_s(5)

    assert reasons(a) == ["Connection reset by peer"]
    assert a.of(LinkUp) == [LinkUp(1), LinkUp(2)]


@pytest.mark.parametrize("database", [True, False])
def test_a_database_keeps_retained_messages_members_and_the_sessions_that_were_to_be_kept(database):
    wires = Wires("a", "b", "c")
    gateway = wires.up("gateway")
    a = wires.up("a", clean=False)
    gateway.link.send(0, f"{ROOT}/roster", b"roster", retain=True)
    wires.run_s(1)
    a.link.crash()
    wires.run_s(1)
    gateway.send("a", b"meanwhile")
    wires.run_s(1)
    wires.broker.stop("kill")
    wires.run_s(1)
    wires.broker.start(database=database)
    if not database:
        assert wires.broker.retained == {}
        wires.run_s(5)
        assert wires.broker.clients == [], "it knows nobody"
        wires.broker.admit(wires.bearers.values())
    wires.run_s(5)
    again, newcomer = wires.up("a", clean=False), wires.up("c", "roster")
    wires.run_s(1)

    assert again.payloads == ([b"meanwhile"] if database else [])
    assert newcomer.of(Delivery) == ([Delivery(f"{ROOT}/roster", b"roster", True)] if database else [])


def test_a_kept_session_gets_what_it_had_not_acknowledged_once_more():
    wires = Wires("a", "b")
    b = wires.up("b")
    a = wires.up("a", clean=False, capacity=2)
    wires.reading = False
    for n in range(6):
        b.send("a", b"%d" % n)
    wires.run_s(1)
    assert a.inbox.room == 0
    a.link.crash()
    wires.run_s(1)
    b.send("a", b"6")
    wires.run_s(1)
    wires.read()
    again = wires.up("a", clean=False)
    wires.run_s(1)

    assert again.payloads == [b"%d" % n for n in range(2, 7)], "the first two were acknowledged"


def test_a_clean_session_forgets_what_came_meanwhile():
    wires = Wires("a", "b")
    b = wires.up("b")
    wires.up("a").link.crash()
    wires.run_s(1)
    b.send("a", b"to nobody")
    wires.run_s(1)

    assert wires.up("a").payloads == []


def test_a_reader_that_takes_nothing_costs_the_broker_no_more_than_its_bounds():
    """The stream fills, then the queue; what comes then is lost and counted, and others are served."""
    wires = Wires("a", "b", "c")
    a, b, c = wires.up("a", capacity=8), wires.up("b"), wires.up("c")
    wires.reading = False
    total = QUEUED_MAX + 3000
    for n in range(total):
        b.send("a", b"%d" % n)
        if n % 200 == 199:
            wires.run_ms(10)
            b.inbox.drain()
    wires.run_ms(10)
    b.inbox.drain()
    lost = wires.broker.dropped
    assert 0 < lost < 3000 and a.inbox.room == 0
    b.send("c", b"others")
    wires.run_ms(10)
    assert [event.payload for event in c.inbox.drain() if isinstance(event, Delivery)] == [b"others"]

    wires.read()
    wires.run_s(20)
    assert [int(one) for one in a.payloads] == list(range(total - lost)), "in order, and the last are lost"


def test_a_slow_line_holds_its_sender_back_and_loses_nothing():
    wires = Wires("a", "b", a=LinkModel(delay_ms=20, up_kbps=1000))
    a, b = wires.up("a"), wires.up("b")
    began_ns = wires.world.now_ns
    for n in range(20):
        a.send("b", bytes([n]) * 50_000)
    wires.run_s(3)
    assert 5 < len(b.payloads) < 10, "one megabyte takes eight seconds"
    wires.run_s(10)

    assert [one[0] for one in b.payloads] == list(range(20))
    assert b.at(Delivery)[-1] - began_ns == pytest.approx(8.3 * SECOND, rel=0.05)
    assert len(a.tokens_told) == 20 and reasons(a) == []


def test_the_back_off_is_spread_and_never_longer_than_its_ceiling():
    wires = Wires(*[f"n{i}" for i in range(50)])
    wires.broker.stop("kill")
    for name in [f"n{i}" for i in range(50)]:
        wires.network.attach(name, LinkModel(delay_ms=1))
    links = [
        VirtualLink(wires.world, wires.network, wires.broker, f"n{i}", wires.bearers[f"n{i}"], Inbox())
        for i in range(50)
    ]
    for link in links:
        link.start()
    wires.run_s(60)
    wires.broker.start()
    began_ns, ups = wires.world.now_ns, []
    while len(ups) < 50:
        wires.run_ms(10)
        ups += [wires.world.now_ns - began_ns for link in links if link.up][len(ups) :]

    assert max(ups) <= 2 * SECOND + 20 * MS
    assert sum(ups) / 50 == pytest.approx(0.9 * SECOND, rel=0.35)


def test_only_whoever_was_removed_is_cut_off_and_its_place_is_free():
    wires, a, b = followed()
    kept = [one for name, one in wires.bearers.items() if name != "a"]
    wires.broker.admit(kept)
    wires.run_s(5)
    assert reasons(a) == ["the broker closed the connection", "[code:135] Not authorized"]
    assert reasons(b) == [] and wills(b, "a") == []

    wires.broker.admit(wires.bearers.values())
    wires.run_s(3)
    assert a.link.up


# ── determinism ───────────────────────────────────────────────────────────────────────────────────────


def story(seed):
    """Thirty members over a bad network, with every kind of fault; all that was heard, and when."""
    names = [f"n{i}" for i in range(30)]
    model = LinkModel(
        delay_ms=10, jitter_ms=5, loss=0.02, up_kbps=500, parcel_loss=0.01, duplicate=0.01, reorder=0.05
    )
    wires = Wires(*names, seed=seed, model=model)
    rng = wires.world.rng("test")
    members = []
    for name in names:
        follows = [f"p/{other}" for other in rng.sample(names, 5)]
        members.append(wires.up(name, "roster", *follows, will=f"{ROOT}/p/{name}"))
    gateway = wires.up("gateway", "p/+")

    def turn(member):
        if member.link.up:
            member.beat()
            if rng.random() < 0.3:
                member.send(rng.choice(names), rng.randbytes(rng.randrange(2000)))
        wires.world.after(SECOND // 2 + rng.randrange(SECOND), turn, member)

    for member in members:
        wires.world.after(rng.randrange(SECOND), turn, member)
    gateway.link.send(0, f"{ROOT}/roster", b"roster", retain=True)
    wires.run_s(5)
    cut = wires.network.partition(names[:10])
    members[12].link.crash()
    wires.run_s(12)
    wires.network.heal(cut)
    wires.broker.stop("kill")
    wires.run_s(2)
    wires.broker.start()
    members[12].link.start()
    wires.run_s(15)
    return wires.world.trace_hash(), wires.world.steps, [member.heard for member in [*members, gateway]]


def test_a_seed_tells_its_story_again_to_the_nanosecond():
    first = story(7)

    assert story(7) == first
    assert story(8)[0] != first[0]
    assert sum(len(heard) for heard in first[2]) > 3000
