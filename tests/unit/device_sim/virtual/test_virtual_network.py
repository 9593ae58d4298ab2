"""The network: delay, bandwidth, loss, order, partitions, and what becomes of a silent connection."""

from __future__ import annotations

import itertools

import pytest

from device_sim.virtual.network import (
    EOF,
    RTO_NS_MIN,
    WINDOW_BYTES,
    LinkModel,
    Network,
)
from device_sim.virtual.world import MS, SECOND, World
from security.errors import BadInput


class Ends:
    """A connection between "a" and a host that takes whatever comes."""

    def __init__(self, model: LinkModel, *, seed: int = 1, user_timeout_ns: int = 0) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        self.network.attach("a", model)
        self.network.acceptor = self.accept
        self.came_up: list[tuple[int, object]] = []
        self.came_down: list[tuple[int, object]] = []
        self.ended_client: list[str] = []
        self.ended_server: list[str] = []
        self.connection = self.network.connect(
            "a", self.down, self.ended_client.append, user_timeout_ns=user_timeout_ns
        )

    def accept(self, connection, packets):
        connection.accept(self.up, self.ended_server.append)
        self.up(packets)

    def up(self, packets):
        self.came_up += [(self.world.now_ns, packet) for packet in packets]

    def down(self, packets):
        self.came_down += [(self.world.now_ns, packet) for packet in packets]

    def opened(self):
        self.connection.up.send(["hello"], 0)
        self.world.run_until(10 * SECOND)
        assert [packet for _, packet in self.came_up] == ["hello"]
        self.came_up.clear()
        return self


def at(moments):
    return [moment for moment, _ in moments]


def packets(moments):
    return [packet for _, packet in moments]


def test_a_segment_takes_the_delay_and_the_hop():
    ends = Ends(LinkModel(delay_ms=20, hop_ms=3)).opened()
    began_ns = ends.world.now_ns
    ends.connection.up.send(["x"], 100)
    ends.connection.down.send(["y"], 100)
    ends.world.run_until(began_ns + SECOND)

    assert ends.came_up == [(began_ns + 23 * MS, "x")]
    assert ends.came_down == [(began_ns + 23 * MS, "y")]


def test_jitter_is_spread_evenly_and_never_changes_the_order():
    ends = Ends(LinkModel(delay_ms=10, jitter_ms=8)).opened()
    began_ns = ends.world.now_ns
    for n in range(2000):
        ends.world.at(began_ns + n * 20 * MS, ends.connection.up.send, [n], 100)
    ends.world.run_until(began_ns + 60 * SECOND)
    delays = [at_ns - began_ns - n * 20 * MS for at_ns, n in ends.came_up]

    assert packets(ends.came_up) == list(range(2000))
    assert min(delays) >= 10 * MS and max(delays) <= 18 * MS
    assert sum(delays) / 2000 == pytest.approx(14 * MS, rel=0.03)
    for n in range(500):
        ends.connection.up.send([n], 10)  # all at once: each draws another delay
    ends.world.run_until(began_ns + 61 * SECOND)
    assert packets(ends.came_up)[2000:] == list(range(500))


@pytest.mark.parametrize("kbps", [64, 1000, 80_000])
def test_bytes_are_never_faster_than_the_bandwidth_and_no_slower(kbps):
    ends = Ends(LinkModel(delay_ms=5, up_kbps=kbps)).opened()
    path = ends.network.ports["a"].up
    began_ns, before = ends.world.now_ns, path.bytes
    for n in range(60):
        ends.connection.up.send([n], 2000)
    ends.world.run_until(began_ns + 60 * SECOND)
    took_ns = at(ends.came_up)[-1] - began_ns - 5 * MS

    assert path.bytes - before > 60 * 2000
    assert took_ns == pytest.approx((path.bytes - before) * 8e6 / kbps, rel=1e-4)
    bytes_each = (path.bytes - before) / 60
    gaps = [b - a for a, b in itertools.pairwise(at(ends.came_up))]
    assert min(gaps) == pytest.approx(bytes_each * 8e6 / kbps, rel=1e-4)


def test_connections_of_one_member_share_its_bandwidth_and_the_other_direction_is_free():
    ends = Ends(LinkModel(delay_ms=5, up_kbps=100)).opened()
    other = ends.network.connect("a", ends.down, ends.ended_client.append)
    other.up.send(["hello"], 0)
    ends.world.run_until(20 * SECOND)
    began_ns = ends.world.now_ns
    ends.connection.up.send(["first"], 12_500)  # a second
    other.up.send(["second"], 12_500)
    ends.connection.down.send(["down"], 12_500)
    ends.world.run_until(began_ns + 10 * SECOND)

    came = {packet: (at_ns - began_ns) / SECOND for at_ns, packet in ends.came_up + ends.came_down}
    assert came["down"] == pytest.approx(0.005)
    assert came["first"] == pytest.approx(1.05, abs=0.05)
    assert came["second"] == pytest.approx(2.1, abs=0.1)


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.3])
def test_as_many_segments_are_late_as_packets_are_lost(loss):
    ends = Ends(LinkModel(delay_ms=10, loss=loss)).opened()
    began_ns = ends.world.now_ns
    count = 4000
    for n in range(count):
        ends.world.at(began_ns + n * 200 * SECOND, ends.connection.up.send, [n], 100)
    ends.world.run_until(began_ns + (count + 1) * 200 * SECOND)
    delays = [at_ns - began_ns - n * 200 * SECOND for at_ns, n in ends.came_up]
    rto_ns = 20 * MS + RTO_NS_MIN
    late = [delay for delay in delays if delay > 10 * MS]

    assert len(delays) == count, "loss delays, it loses nothing"
    assert len(late) / count == pytest.approx(loss, rel=0.3)
    once, twice = 10 * MS + rto_ns, 10 * MS + 3 * rto_ns  # the time-out doubles
    assert {delay for delay in late if delay < 4 * rto_ns} <= {once, twice}
    assert sum(delay > once for delay in late) / len(late) == pytest.approx(loss, abs=0.08)


def test_what_follows_a_lost_packet_waits_for_it():
    ends = Ends(LinkModel(delay_ms=10, loss=0.2)).opened()
    began_ns = ends.world.now_ns
    for n in range(400):
        ends.world.at(began_ns + n * 10 * MS, ends.connection.up.send, [n], 100)
    ends.world.run_until(began_ns + 60 * SECOND)

    assert packets(ends.came_up) == list(range(400))
    held = sum(1 for a, b in itertools.pairwise(at(ends.came_up)) if a == b)
    assert held > 100, "many come at once, behind the one that was sent again"


def test_a_reader_that_stops_reading_fills_the_window_and_frees_it():
    ends = Ends(LinkModel(delay_ms=10)).opened()
    down = ends.connection.down
    down.pause()
    sent, room = 0, []
    while down.room:
        down.send([sent], 1000)
        sent += 1
    down.when_room(lambda: room.append(ends.world.now_ns))
    ends.world.run_until(20 * SECOND)
    assert sent == WINDOW_BYTES // 1000 + 1
    assert ends.came_down == [] and room == []

    down.resume()
    assert packets(ends.came_down) == list(range(sent))
    assert room == [20 * SECOND]
    assert down.flying == 0


# ── partitions ────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_sent_into_a_partition_arrives_after_it_in_order_and_once():
    ends = Ends(LinkModel(delay_ms=10)).opened()
    began_ns = ends.world.now_ns
    cut = ends.network.partition(["a"])
    for n in range(20):
        ends.world.at(began_ns + n * SECOND, ends.connection.up.send, [n], 100)
        ends.world.at(began_ns + n * SECOND, ends.connection.down.send, [n], 100)
    ends.world.run_until(began_ns + 10 * SECOND - 1)
    assert ends.came_up == ends.came_down == []

    ends.network.heal(cut)
    healed_ns = ends.world.now_ns
    ends.world.run_until(began_ns + 60 * SECOND)
    for came in (ends.came_up, ends.came_down):
        assert packets(came) == list(range(20))
        assert healed_ns < at(came)[0] < healed_ns + 8 * SECOND, "the time-out has doubled meanwhile"
    assert ends.ended_client == ends.ended_server == []


@pytest.mark.parametrize("seed", range(20))
def test_flapping_loses_doubles_and_reorders_nothing(seed):
    """Whatever it does to acknowledgements and repetitions."""
    ends = Ends(LinkModel(delay_ms=30, jitter_ms=20, loss=0.05), seed=seed).opened()
    rng, began_ns = ends.world.rng("test"), ends.world.now_ns
    for n in range(300):
        ends.world.at(began_ns + n * 50 * MS, ends.connection.up.send, [n], 100)
        ends.world.at(began_ns + n * 50 * MS, ends.connection.down.send, [n], 100)
    for _ in range(20):
        begin_ns = began_ns + rng.randrange(15 * SECOND)
        up, down = rng.choice([(True, False), (False, True), (True, True)])

        def strike(up=up, down=down, length_ns=rng.randrange(2 * SECOND)):
            cut = ends.network.partition(["a"], up=up, down=down)
            ends.world.after(length_ns, ends.network.heal, cut)

        ends.world.at(begin_ns, strike)
    ends.world.run_until(began_ns + 200 * SECOND)

    assert packets(ends.came_up) == packets(ends.came_down) == list(range(300))
    assert ends.connection.up.flying == ends.connection.down.flying == 0


def test_a_one_way_partition_stops_one_way_and_the_others_window():
    ends = Ends(LinkModel(delay_ms=10)).opened()
    began_ns = ends.world.now_ns
    cut = ends.network.partition(["a"], up=True, down=False)
    ends.connection.up.send(["not heard"], 100)
    ends.connection.down.send(["heard"], 100)
    ends.world.run_until(began_ns + 3 * SECOND)

    assert packets(ends.came_down) == ["heard"], "and never twice"
    assert ends.came_up == []
    assert ends.connection.down.flying == 100, "its acknowledgement does not come back"
    ends.network.heal(cut)
    ends.world.run_until(began_ns + 20 * SECOND)
    assert ends.connection.down.flying == 0
    assert packets(ends.came_up) == ["not heard"]
    assert packets(ends.came_down) == ["heard"]


def test_overlapping_partitions_are_over_when_the_last_is_healed():
    ends = Ends(LinkModel(delay_ms=1)).opened()
    path = ends.network.ports["a"].up
    first, second, host = (
        ends.network.partition(["a"]),
        ends.network.partition(["a"], down=False),
        ends.network.isolate_host(),
    )
    for cut in (first, first, host):
        ends.network.heal(cut)
        assert path.cut
    ends.network.heal(second)
    assert not path.cut


def test_an_isolated_host_is_cut_from_all_but_those_on_it_and_from_newcomers():
    network = Network(World(1))
    network.attach("a", LinkModel())
    network.attach("gateway", LinkModel(), local=True)
    cut = network.isolate_host()
    network.attach("late", LinkModel())

    assert [network.ports[name].up.cut for name in ("a", "gateway", "late")] == [1, 0, 1]
    network.heal_all()
    assert cut.healed
    assert [network.ports[name].down.cut for name in ("a", "gateway", "late")] == [0, 0, 0]


def test_data_that_is_not_acknowledged_for_the_users_timeout_ends_the_connection():
    ends = Ends(LinkModel(delay_ms=10), user_timeout_ns=5 * SECOND).opened()
    began_ns = ends.world.now_ns
    cut = ends.network.partition(["a"])
    ends.connection.up.send(["lost"], 100)
    ends.world.run_until(began_ns + 5 * SECOND - 1)
    assert ends.ended_client == []
    ends.world.run_until(began_ns + 5 * SECOND)
    assert ends.ended_client == ["Connection timed out"]

    ends.connection.down.send(["late"], 100)
    ends.network.heal(cut)
    ends.world.run_until(began_ns + 20 * SECOND)
    assert ends.came_up == ends.came_down == []
    assert ends.ended_server == ["Connection reset by peer"], "its first data after that is refused"


def test_a_silent_partition_ends_nothing():
    ends = Ends(LinkModel(delay_ms=10), user_timeout_ns=5 * SECOND).opened()
    ends.network.partition(["a"])
    ends.world.run_until(ends.world.now_ns + 100 * SECOND)

    assert ends.ended_client == ends.ended_server == []


# ── ends ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_closed_end_is_told_after_all_that_was_sent():
    ends = Ends(LinkModel(delay_ms=10, loss=0.3), seed=3).opened()
    for n in range(50):
        ends.connection.up.send([n], 100)
    ends.connection.close_client()
    ends.world.run_until(ends.world.now_ns + 100 * SECOND)

    assert packets(ends.came_up) == list(range(50))
    assert len(ends.ended_server) == 1
    assert ends.ended_client == [], "it closed by itself"


def test_a_port_where_nobody_listens_refuses():
    ends = Ends(LinkModel(delay_ms=10))
    ends.network.acceptor = None
    ends.connection.up.send(["hello"], 0)
    ends.world.run_until(SECOND)

    assert ends.ended_client == ["Connection refused"]


def test_a_vanished_machine_says_nothing_until_it_is_back_and_then_refuses():
    ends = Ends(LinkModel(delay_ms=10)).opened()
    began_ns = ends.world.now_ns
    ends.connection.vanish_client()
    ends.network.ports["a"].off = True
    ends.connection.down.send(["to nobody"], 100)
    ends.world.run_until(began_ns + 30 * SECOND)
    assert ends.ended_server == []

    ends.network.ports["a"].off = False
    ends.world.run_until(began_ns + 90 * SECOND)
    assert ends.ended_server == ["Connection reset by peer"]
    assert ends.came_down == []


def test_an_orphan_gives_up():
    """A process that died in a partition does not keep the agenda busy for ever."""
    ends = Ends(LinkModel(delay_ms=10)).opened()
    ends.network.partition(["a"])
    ends.connection.up.send(["last words"], 100)
    ends.connection.close_client()
    ends.world.run_until(ends.world.now_ns + 600 * SECOND)

    assert ends.world.next_ns is None


def test_the_end_of_a_stream_is_no_packet():
    ends = Ends(LinkModel()).opened()
    ends.connection.up.send([], 0)
    ends.world.run_until(ends.world.now_ns + SECOND)
    assert ends.ended_server == [], "an empty write is not the end"
    ends.connection.up.send(EOF, 0)
    ends.world.run_until(ends.world.now_ns + SECOND)
    assert len(ends.ended_server) == 1


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.0}, {"loss": -0.1}, {"duplicate": 1.5}, {"delay_ms": -1}, {"up_kbps": -5}]
)
def test_a_line_that_cannot_be_is_refused(wrong):
    with pytest.raises(BadInput):
        LinkModel(**wrong)


# ── parcels ───────────────────────────────────────────────────────────────────────────────────────────


def test_parcels_are_lost_doubled_and_held_back_as_often_as_asked():
    network = Network(World(5))
    model = LinkModel(parcel_loss=0.1, duplicate=0.2, reorder=0.3, reorder_ms=40, parcel_delay_ms=7)
    port = network.attach("a", model)
    fates = [port.fates() for _ in range(20_000)]
    kept = [fate for fate in fates if fate]
    first = [fate[0] for fate in kept]
    held = [late for late in first if late > 7 * MS]

    assert 1 - len(kept) / 20_000 == pytest.approx(0.1, rel=0.1)
    assert sum(len(fate) == 2 for fate in kept) / len(kept) == pytest.approx(0.2, rel=0.1)
    assert len(held) / len(first) == pytest.approx(0.3, rel=0.1)
    assert min(first) == 7 * MS and max(first) <= 47 * MS
    assert sum(held) / len(held) == pytest.approx(27 * MS, rel=0.05)


def test_a_line_without_faults_of_parcels_draws_nothing():
    network = Network(World(5))

    assert not network.attach("a", LinkModel(loss=0.5, jitter_ms=5)).faulty
    assert network.attach("a", LinkModel(duplicate=0.1)).faulty
    assert not network.attach("a", LinkModel()).faulty, "the fault is over"
