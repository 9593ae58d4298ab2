"""One replica: what it refuses, what it keeps back, what it tells; the mesh around it is real."""

from __future__ import annotations

import msgspec
import pytest

from edge_node.store.batch import AMENDS_MAX, VERSION, Amend, Batch, Count, Put, Tag, encoded
from edge_node.store.cells import FIELD, CellId
from edge_node.store.replica import (
    AHEAD,
    EXCUSED_EACH,
    FORBIDDEN,
    QUOTA,
    WRITERS_FIELD,
    WRITERS_TABLE,
    Arrived,
    Members,
    NotWritten,
    PolicyChanged,
    Written,
)
from edge_node.store.replication import BROADCAST_BYTES_MAX
from tests.support.replicas import DAY, KEYS, MESH, OWNERS, SECOND, START_MS, Known, ReplicaMesh

X = CellId(FIELD, "t", "k", "f")


def written(mesh, name, *changes):
    token = mesh.write(name, *changes)
    mesh.peers[name].fsync()
    return mesh.peers[name].said.get(token)


def test_a_write_is_acknowledged_and_sent_only_once_it_is_safe():
    mesh = ReplicaMesh(1)
    token = mesh.write("n1", Put("t", "k", "f", b"v"))
    assert token not in mesh.peers["n1"].said and not mesh.bag

    mesh.peers["n1"].fsync()

    assert mesh.peers["n1"].said[token] == Written(token)
    assert len(mesh.bag) == 3


def test_writes_of_one_turn_share_a_batch_and_each_sees_the_one_before():
    mesh = ReplicaMesh(1, joint=True)
    writer = mesh.peers["n1"]
    tokens = [mesh.write("n1", Put("t", "k", "f", b"%d" % n), Count("c", n)) for n in range(1, 4)]
    tokens.append(mesh.write("n1", Tag("s", "e", True)))
    tokens.append(mesh.write("n1", Tag("s", "e", False)))
    assert writer.replica.cells.document("t", "k") == {"f": b"3"} and not writer.unsynced

    writer.fsync()

    assert [writer.said[token] for token in tokens] == [Written(token) for token in tokens]
    assert len(mesh.bag) == 3, "one batch for each of the others"
    mesh.drain()
    assert len(set(mesh.canonical().values())) == 1
    other = mesh.peers["n2"].replica.cells
    assert other.document("t", "k") == {"f": b"3"} and not other.conflicts
    assert other.counted("c") == 6 and other.elements("s") == []


def test_a_refused_write_leaves_the_others_of_its_turn():
    mesh = ReplicaMesh(1, joint=True)
    writer = mesh.peers["n1"]
    first = mesh.write("n1", Put("t", "k", "f", b"1"))
    refused = mesh.write("n1", Put("t", "k" * 300, "f", b"2"))
    last = mesh.write("n1", Put("t", "k", "g", b"3"))
    assert isinstance(writer.said[refused], NotWritten)

    writer.fsync()
    mesh.drain()

    assert writer.said[first] == Written(first) and writer.said[last] == Written(last)
    assert mesh.peers["n2"].replica.cells.document("t", "k") == {"f": b"1", "g": b"3"}


@pytest.mark.parametrize(("count", "value"), [(600, b"v"), (40, b"v" * 3000)], ids=["many", "large"])
def test_a_turn_of_many_writes_makes_batches_that_can_be_said_to_everybody(count, value):
    mesh = ReplicaMesh(1, joint=True)
    for n in range(count):
        mesh.write("n1", Put("t", f"k{n}", "f", value))
    mesh.peers["n1"].fsync()

    assert 3 * 3 <= len(mesh.bag) <= 3 * 5
    assert all(len(data) <= BROADCAST_BYTES_MAX for _, _, data in mesh.bag)
    mesh.drain()
    assert len(set(mesh.canonical().values())) == 1
    assert len(mesh.peers["n2"].replica.cells.keys("t")) == count


def test_what_came_in_is_known_to_what_is_written_after_it_and_to_nothing_before():
    mesh = ReplicaMesh(1, joint=True)
    here = mesh.peers["n1"]
    mesh.write("n2", Put("t", "a", "f", b"n2"), Put("t", "b", "f", b"n2"))
    mesh.peers["n2"].fsync()
    mesh.write("n1", Put("t", "a", "f", b"n1"))
    mesh.deliver([to for _, to, _ in mesh.bag].index("n1"))
    mesh.write("n1", Put("t", "b", "f", b"n1"))
    here.fsync()
    mesh.drain()

    assert len(set(mesh.canonical().values())) == 1
    for peer in mesh.peers.values():
        assert list(peer.replica.cells.conflicts) == [CellId(FIELD, "t", "a", "f")]
        assert peer.replica.cells.document("t", "b") == {"f": b"n1"}


def test_a_disk_that_fails_acknowledges_nothing_of_the_turn():
    mesh = ReplicaMesh(1, joint=True)
    tokens = [mesh.write("n1", Put("t", "k", "f", b"%d" % n)) for n in range(3)]

    mesh.peers["n1"].fail()

    assert all(isinstance(mesh.peers["n1"].said[token], NotWritten) for token in tokens)
    assert mesh.peers["n1"].replica.cells.document("t", "k") == {} and not mesh.bag


def test_a_member_that_is_alone_keeps_no_log_of_what_it_wrote_between_two_rounds():
    """A gateway before its first node: nobody's reports tell it to look."""
    mesh = ReplicaMesh(1)
    alone = mesh.peers["n1"]
    alone.tell(Members(frozenset({"n1"})))
    for value in (b"before a round", b"after it"):
        written(mesh, "n1", Put("t", "k", "f", value))
        alone.perform(alone.replica.tick(mesh.now_ns, alone.wall_ms))
        alone.fsync()

        assert alone.replica.metadata()["log"] == 0, value


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ((), "nothing to write"),
        ((Put("t", "k", "f", b"v" * 65537),), "value is over 65536 bytes"),
        ((Put("t", "k" * 257, "f", b""),), "key is over 256 bytes"),
        ((Put("t", "\ud800", "f", b""),), "key is over 256 bytes"),
        ((Put("secret", "k", "f", b""),), "n1 is no writer of table 'secret'"),
        ((Put("t", "k", "f", b"v" * 5000),), "n1 would hold more than its 4000 bytes"),
        (tuple(Tag("s", f"{i}", True) for i in range(9)), "the tables would hold more than 8 keys"),
        (tuple(Put("t", f"{i}", "f", None) for i in range(5)), "too many deletions"),
        (tuple(Tag("s", "e", True) for _ in range(21)), "21 changes are over 20"),
    ],
)
def test_what_breaks_a_bound_is_refused_at_the_writers_door(changes, reason):
    limits = {"quota_bytes": 4000, "keys_max": 8, "tombstones_max": 4, "write_changes_max": 20}
    mesh = ReplicaMesh(1, limits=limits, forbidden={("n1", "secret")})

    said = written(mesh, "n1", *changes)

    assert isinstance(said, NotWritten) and reason in said.reason
    assert mesh.peers["n1"].replica.cells.live == 0 and not mesh.bag


def test_replacing_a_value_costs_only_the_difference():
    mesh = ReplicaMesh(1, limits={"quota_bytes": 4000})
    for i in range(5):
        assert isinstance(written(mesh, "n1", Put("t", "k", "f", b"%d" % i * 3900)), Written)


def test_two_that_did_not_know_of_each_other_are_both_on_record_until_somebody_decides():
    mesh = ReplicaMesh(1)
    written(mesh, "n1", Put("t", "k", "f", b"one"))
    written(mesh, "n2", Put("t", "k", "f", b"two"))
    mesh.exchange(2)

    cells = mesh.peers["n3"].replica.cells
    assert list(cells.conflicts) == [X]
    assert [(each.node, each.value) for each in cells.register(X)] == [("n1", b"one"), ("n2", b"two")]
    assert cells.document("t", "k") == {"f": b"two"} and mesh.peers["n3"].replica.conflicts_seen == 1

    written(mesh, "n3", Put("t", "k", "f", b"three"))
    mesh.exchange(2)

    assert all(not peer.replica.cells.conflicts for peer in mesh.peers.values())
    assert {peer.replica.cells.document("t", "k")["f"] for peer in mesh.peers.values()} == {b"three"}


def test_an_addition_that_was_not_known_survives_the_removal():
    mesh = ReplicaMesh(1)
    written(mesh, "n1", Tag("s", "pump", True))
    mesh.exchange(2)
    written(mesh, "n1", Tag("s", "pump", False))
    written(mesh, "n2", Tag("s", "pump", True))
    mesh.exchange(2)

    assert {tuple(peer.replica.cells.elements("s")) for peer in mesh.peers.values()} == {("pump",)}


def test_a_stamp_of_the_future_waits_over_restarts_until_its_time_has_come():
    mesh = ReplicaMesh(1, names=("gateway", "n1"))
    ahead, gateway = mesh.peers["n1"], mesh.peers["gateway"]
    ahead.trusted, ahead.skew_ms = False, 120_000
    ahead.start()
    written(mesh, "n1", Put("t", "k", "f", b"early"))
    mesh.drain()
    assert gateway.replica.cells.document("t", "k") == {}
    assert [each[3] for each in gateway.replica.waits()] == ["its clock is ahead"]

    gateway.start()
    mesh.now_ns += 59 * SECOND
    gateway.tick()
    assert gateway.replica.cells.document("t", "k") == {}
    mesh.now_ns += 2 * SECOND
    gateway.tick()

    assert gateway.replica.cells.document("t", "k") == {"f": b"early"}
    gateway.fsync()
    assert not gateway.replica.waits() and not gateway.disk.load().waiting


def test_a_writer_that_finds_its_clock_ahead_says_it_again_and_is_heard_at_once():
    mesh = ReplicaMesh(1, names=("gateway", "n1"))
    ahead = mesh.peers["n1"]
    ahead.trusted, ahead.skew_ms = False, 10**10
    ahead.start()
    written(mesh, "n1", Put("t", "k", "f", b"early"), Count("c", 3))
    ahead.skew_ms = 0
    ahead.trust()
    mesh.exchange(2)

    gateway = mesh.peers["gateway"].replica
    assert gateway.cells.document("t", "k") == {"f": b"early"} and gateway.cells.counted("c") == 3
    assert gateway.cells.register(X)[0].stamp >> 16 <= mesh.wall_ms
    written(mesh, "gateway", Put("t", "k", "f", b"later"))
    assert gateway.cells.register(X)[0].stamp >> 16 <= mesh.wall_ms, "no clock was moved by it"


def test_who_names_thousands_of_its_epochs_fills_nobodys_memory_and_loses_its_oldest_excuses():
    mesh = ReplicaMesh(1, names=("gateway", "n1"))
    gateway, author = mesh.peers["gateway"], Known(MESH, KEYS["n1"], OWNERS.get)

    def says(epoch, stamp_ms, amends=()):
        batch = Batch(VERSION, "n1", epoch, 1, stamp_ms << 16, (Count("c", 1),), (), amends)
        gateway.tell(Arrived(author.sign(encoded(batch))))

    for epoch in range(1, 4 * EXCUSED_EACH, AMENDS_MAX):
        named = tuple(Amend(each, 1, 1, False) for each in range(epoch, epoch + AMENDS_MAX))
        says(10**6 + epoch, START_MS, named)
    assert gateway.replica.metadata()["excused"] == EXCUSED_EACH
    gateway.replica.check()

    future_ms = START_MS + 10 * DAY // 1_000_000
    counted = gateway.replica.cells.counted("c")
    says(4 * EXCUSED_EACH, future_ms)
    assert gateway.replica.cells.counted("c") == counted + 1
    says(1, future_ms)
    assert gateway.replica.cells.counted("c") == counted + 1
    assert [reason for *_, reason in gateway.replica.waits()] == [AHEAD]


def test_others_writes_to_a_table_of_few_wait_until_they_may():
    mesh = ReplicaMesh(1, names=("gateway", "n1"))
    token = mesh.write("n1", Put("t", "k", "f", b"v"))
    gateway = mesh.peers["gateway"]
    gateway.replica._policy.forbidden.add(("n1", "t"))
    mesh.peers["n1"].fsync()
    assert mesh.peers["n1"].said[token] == Written(token)
    mesh.drain()
    assert [each[3] for each in gateway.replica.waits()] == [FORBIDDEN]

    gateway.replica._policy.forbidden.clear()
    gateway.tell(PolicyChanged())

    assert gateway.replica.cells.document("t", "k") == {"f": b"v"}


def test_a_member_that_ignores_its_quota_is_not_taken_further():
    mesh = ReplicaMesh(1, names=("gateway", "n1"), limits={"quota_bytes": 1000})
    greedy = mesh.peers["n1"].replica
    greedy._limits = type(greedy._limits)()
    written(mesh, "n1", Put("t", "k", "f", b"v" * 900))
    written(mesh, "n1", Put("t", "l", "f", b"v" * 900))
    mesh.drain()

    gateway = mesh.peers["gateway"].replica
    assert gateway.cells.keys("t") == ["k"] and [each[3] for each in gateway.waits()] == [QUOTA]


def test_a_batch_that_was_altered_or_said_in_anothers_name_is_dropped():
    mesh = ReplicaMesh(1)
    written(mesh, "n1", Put("t", "k", "f", b"v"))
    data = mesh.bag.pop()[2]
    gateway = mesh.peers["gateway"]
    for at in range(0, len(data), 7):
        gateway.tell(Arrived(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]))

    assert gateway.replica.cells.live == 0 and not gateway.replica.waits()
    assert {note.what for note in gateway.notes} == {"batch dropped"}


def test_after_a_failed_commit_nothing_is_taken_until_the_disk_is_read_again():
    mesh = ReplicaMesh(1)
    peer = mesh.peers["n1"]
    assert isinstance(written(mesh, "n1", Put("t", "k", "f", b"safe")), Written)
    token = mesh.write("n1", Put("t", "k", "f", b"lost"))
    peer.fail()

    assert isinstance(peer.said[token], NotWritten) and "no space left" in peer.said[token].reason
    assert peer.replica.cells.document("t", "k") == {"f": b"safe"}
    assert isinstance(written(mesh, "n1", Put("t", "k", "f", b"next")), Written)
    mesh.exchange(2)
    assert {each.replica.cells.document("t", "k")["f"] for each in mesh.peers.values()} == {b"next"}


def test_a_restored_member_gets_its_own_writes_back_and_uses_no_dot_again():
    mesh = ReplicaMesh(1)
    peer = mesh.peers["n1"]
    written(mesh, "n1", Count("c", 1))
    backup = peer.disk.copy()
    written(mesh, "n1", Count("c", 10))
    mesh.exchange(1)
    peer.restore(backup)
    written(mesh, "n1", Count("c", 100))
    mesh.exchange(3)

    assert {each.replica.cells.counted("c") for each in mesh.peers.values()} == {111}


def listed(mesh, *writers):
    mesh.write("gateway", Put(WRITERS_TABLE, "t", WRITERS_FIELD, msgspec.json.encode(writers)))
    mesh.peers["gateway"].fsync()


def test_a_write_that_knew_who_may_write_waits_and_one_that_did_not_is_taken():
    mesh = ReplicaMesh(3)
    mesh.write("n2", Put("t", "early", "f", b"1"))  # knows of no list
    listed(mesh, "n1")
    mesh.peers["n2"].fsync()
    mesh.heal()
    gateway, n2 = mesh.peers["gateway"].replica, mesh.peers["n2"]
    assert gateway.cells.document("t", "early") == {"f": b"1"}

    refused = mesh.write("n2", Put("t", "late", "f", b"2"))
    assert "n2 is no writer of table 't'" in n2.said[refused].reason
    n2.replica._writers = lambda table: None  # it no longer obeys
    mesh.write("n2", Put("t", "late", "f", b"2"))
    n2.fsync()
    mesh.heal()
    assert gateway.cells.document("t", "late") == {}
    assert [reason for *_, reason in gateway.waits()] == [FORBIDDEN]

    del n2.replica._writers
    listed(mesh, "n1", "n2")
    mesh.heal()
    assert gateway.cells.document("t", "late") == {"f": b"2"}


def test_what_is_under_way_bears_the_new_key_after_a_renewal():
    mesh = ReplicaMesh(4)
    n1, n2 = mesh.peers["n1"], mesh.peers["n2"]
    mesh.write("n1", Put("t", "k", "f", b"v"))
    n1.fsync()
    mesh.bag.clear()
    assert n2.name in n1.replica.members_behind()

    renewed = Known(MESH, KEYS["n9"], lambda spki: "n1")
    n1.perform(n1.replica.signed_anew(renewed))
    n1.fsync()

    (data,), more = n1.replica.offers(n2.replica.durable, 10_000, 10)
    assert not more and renewed.open(data)[0] == "n1" and renewed.read(data)
    assert [entry.data for entry in n1.disk.load().logged] == [data]
    n1.replica.check()


def test_a_stamp_of_the_future_that_another_has_taken_parts_nobody_when_its_writer_is_dead():
    """n2 had no trusted clock, took it, and wrote on; n1 never comes back to correct it."""
    mesh = ReplicaMesh(1)
    writer, believer = mesh.peers["n1"], mesh.peers["n2"]
    writer.skew_ms, writer.trusted, believer.trusted = 10 * 365 * 86_400_000, False, False
    for peer in (writer, believer):
        peer.start()
    written(mesh, "n1", Put("t", "k", "f", b"of the future"))
    mesh.drain()
    written(mesh, "n2", Put("t", "k", "g", b"knew of it"))
    waits = mesh.peers["n3"].replica.waits()
    assert [reason for *_, reason in waits] == ["its clock is ahead"]

    mesh.names = ("gateway", "n2", "n3")
    believer.trust()
    mesh.exchange(4)

    assert len({mesh.canonical()[name] for name in mesh.names}) == 1
    held = mesh.peers["n3"].replica
    assert held.cells.document("t", "k") == {"f": b"of the future", "g": b"knew of it"}
    assert held.metadata()["shared"] == 0, "nobody asks for it any more"
    written(mesh, "n3", Put("t", "k", "h", b"now"))
    assert held.cells.register(CellId(FIELD, "t", "k", "h"))[0].stamp >> 16 == mesh.wall_ms, "no clock moved"


def test_who_has_closed_an_epoch_still_tells_that_it_knew_it_to_whom_has_not():
    """Its next batch was taken for one that did not know what everybody knows, and waited for a snapshot."""
    mesh = ReplicaMesh(31, names=("gateway", "n1", "n2"))
    gateway, n1, n2 = mesh.peers.values()

    def heard_by(member):
        for other in mesh.names:
            if other != member.name:
                member.ask(other)
                mesh.drain()
        member.tick()
        member.fsync()

    written(mesh, "gateway", Put("t", "a", "f", b"1"))
    mesh.exchange(2)
    written(mesh, "n1", Put("t", "b", "f", b"1"))
    mesh.drain()
    n1.start()
    heard_by(n2)
    written(mesh, "n1", Put("t", "c", "f", b"1"))
    mesh.drain()
    heard_by(gateway)
    closed = gateway.replica.known.floor("n1")
    assert closed and n2.replica.known.floor("n1") < closed, "the gateway is first"

    written(mesh, "gateway", Put("t", "a", "f", b"2"))
    mesh.drain()

    assert not n2.notes and not n2.replica.waits()
    assert n2.replica.cells.register(CellId(FIELD, "t", "a", "f"))[-1].value == b"2"
