"""A group of real members under loss, repetition, removal, crashes and restores: they end with one secret."""

from __future__ import annotations

import os
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.transport.groupcast import ASK_NS, ASK_PEER_NS, Adopted, Groupcast, Keep, Tell
from edge_node.wire.messages import Beat, GroupKeys, GroupKeysWanted, Load
from edge_node.wire.topics import Presence
from gateway.epochs import EpochKeeper, Kept, MemberMet, NewEpoch, RosterChanged, Settled, Shown, Started
from security.authority import Authority
from security.roster import Member, MemberKey, Roster

NOW_S = 1_795_000_000
SECOND = 1_000_000_000
MESH = Authority.create(now_s=NOW_S, entropy=os.urandom)
NODES = ["pi-1", "pi-2", "pi-3"]


class Mesh:
    """The cores of a gateway and three nodes; what is told in session may be lost, beats come again."""

    def __init__(self, seed: int) -> None:
        self.entropy = random.Random(seed).randbytes
        self.now_ns = 0
        self.version = 1
        self.listed = set(NODES)
        self.disk: dict[str, bytes] = {}  # group secrets that were persisted
        self.backup: tuple[bytes | None, int] | None = None
        self.settled = 0
        self.away: set[str] = set()
        self.seq = dict.fromkeys(["gateway", *NODES], 0)
        self.heard: dict[str, list[tuple[str, int]]] = {name: [] for name in self.seq}
        self.frames: list[tuple[str, bytes]] = []
        self.members: dict[str, Groupcast] = {}
        self.start_gateway()
        for name in NODES:
            self.start(name)

    def roster(self) -> Roster:
        names = sorted({"gateway"} | self.listed)
        members = tuple(Member(i, (MemberKey(i.ljust(32).encode(), bytes(32), NOW_S),)) for i in names)
        return Roster(MESH.mesh_id, self.version, bytes(32), NOW_S, NOW_S, (), (), members)

    def start(self, name: str) -> None:
        one = Groupcast(
            me=name,
            mesh_id=MESH.mesh_id,
            root_spki_sha256=MESH.root_spki_sha256,
            is_member=lambda src: src == "gateway" or src in self.listed,
            entropy=self.entropy,
        )
        if name in self.disk:
            assert one.restore(self.now_ns, self.disk[name]) is None
        self.members[name] = one
        self.heard[name] = []

    def start_gateway(self) -> None:
        self.start("gateway")

        def sign(epoch: int, secret: bytes, issued_s: int) -> bytes:
            return MESH.sign_grant(group="mesh", epoch=epoch, secret=secret, issued_s=issued_s)

        self.keeper = EpochKeeper(sign=sign, entropy=self.entropy)
        held = self.members["gateway"].current
        wall_s = NOW_S + self.now_ns // SECOND
        started = Started(wall_s, held, self.settled, self.roster())
        self.take("gateway", self.keeper.handle(self.now_ns, started))

    def take(self, me: str, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case NewEpoch(_, keys):
                    self.take("gateway", self.members["gateway"].came(self.now_ns, "gateway", keys))
                    self.take("gateway", self.keeper.handle(self.now_ns, Kept(effect.epoch)))
                case Settled(version):
                    self.settled = version
                case Keep(stored):
                    self.disk[me] = stored
                case Adopted(_, by) if me == "gateway" and by != me:
                    current = self.members[me].current
                    assert current is not None
                    self.take(me, self.keeper.handle(self.now_ns, Shown(current)))
                case Tell(peer, message):
                    self.told(me, peer, message)

    def told(self, me: str, peer: str, message: Any) -> None:
        """A message in session: it arrives when both are there and both are listed, else it is lost."""
        if {me, peer} & self.away or not {me, peer} <= self.listed | {"gateway"}:
            return
        match message:
            case GroupKeys():
                self.take(peer, self.members[peer].came(self.now_ns, me, message))
            case GroupKeysWanted():
                self.take(peer, self.members[peer].asked(self.now_ns, me, message))

    def meet(self, name: str) -> None:
        for one, other in (("gateway", name), (name, "gateway")):
            self.members[one].ready(self.now_ns, other)
        self.take("gateway", self.keeper.handle(self.now_ns, MemberMet(name)))

    def beat(self, name: str) -> None:
        self.seq[name] += 1
        frame = self.members[name].seal(self.now_ns, [Beat(self.seq[name], Load(1, 0), incarnation=1)])
        if frame is not None:
            self.frames.append((name, frame))

    def deliver(self, index: int) -> None:
        src, frame = self.frames[index % len(self.frames)]
        for name, one in self.members.items():
            if name not in self.away and name in self.listed | {"gateway"}:
                got = one.delivered(self.now_ns, Presence(MESH.mesh_id, src), frame)
                self.heard[name] += [(src, heard.message.seq) for heard in got]

    def pass_time(self, ns: int) -> None:
        self.now_ns += ns
        for name, one in self.members.items():
            self.take(name, one.tick(self.now_ns))
            one.check()
        self.take("gateway", self.keeper.tick(self.now_ns))
        self.keeper.check()

    def change(self, name: str) -> None:
        self.version += 1
        self.listed ^= {name}
        if name not in self.listed:
            for one in self.members.values():
                one.forget(name)
        self.take("gateway", self.keeper.handle(self.now_ns, RosterChanged(self.roster())))


steps = st.lists(
    st.tuples(
        st.sampled_from(
            ("beat", "deliver", "meet", "away", "back", "restart", "change", "day",
             "gateway", "backup", "restore")
        ),
        st.sampled_from(NODES),
        st.integers(0, 40),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(0, 2**32))
def test_listed_members_end_with_one_epoch_and_hear_each_other(script, seed):
    mesh = Mesh(seed)
    for what, name, index in script:
        match what:
            case "beat":
                mesh.beat(name)
            case "deliver" if mesh.frames:
                mesh.deliver(index)
            case "meet" if name in mesh.listed and name not in mesh.away:
                mesh.meet(name)
            case "away":
                mesh.away.add(name)
                mesh.members["gateway"].lost(name)
            case "back":
                mesh.away.discard(name)
            case "restart":
                mesh.start(name)
            case "change":
                mesh.change(name)
            case "gateway":
                mesh.start_gateway()
            case "backup":
                mesh.backup = mesh.disk.get("gateway"), mesh.settled
            case "restore" if mesh.backup is not None and mesh.backup[0] is not None:
                mesh.disk["gateway"], mesh.settled = mesh.backup
                mesh.start_gateway()
            case "day":
                mesh.pass_time(24 * 3600 * SECOND)
        mesh.pass_time(SECOND // 10)
        for heard in mesh.heard.values():  # whatever was repeated: in rising order, so none twice
            for src in mesh.seq:
                numbers = [seq for told, seq in heard if told == src]
                assert numbers == sorted(set(numbers))

    mesh.away.clear()
    for name in sorted(mesh.listed):
        mesh.meet(name)
    for _ in range(2 * (ASK_PEER_NS // ASK_NS)):
        for name in ["gateway", *sorted(mesh.listed)]:
            mesh.beat(name)
            mesh.deliver(-1)
        mesh.pass_time(SECOND)

    current = mesh.members["gateway"].current
    for name in mesh.listed:
        assert mesh.members[name].current == current
    for name in mesh.listed | {"gateway"}:
        for src in (mesh.listed | {"gateway"}) - {name}:
            assert (src, mesh.seq[src]) in mesh.heard[name]
    for name in set(NODES) - mesh.listed:
        assert mesh.members[name].current != current, "it was removed before this epoch was made"
