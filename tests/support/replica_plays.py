"""Plays: a mesh of replicas, everything that can go wrong drawn from one seed, then healed and judged.

What is judged: the canonical bytes of all members are equal (some of them never collect anything); what was
acknowledged by a member whose disk was never restored is there; counters lie between what was acknowledged
and what was asked for; a field that one member alone writes is never in conflict; conflicts are read as the
last writer wins.
"""

from __future__ import annotations

import random

import msgspec

from edge_node.store.batch import Count, Put, Tag
from edge_node.store.cells import FIELD, CellId
from edge_node.store.replica import Written
from tests.support.replicas import DAY, SECOND, ReplicaMesh

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
JUMPS_MS = (0, HOUR_MS, -HOUR_MS, 10 * YEAR_MS, -10 * YEAR_MS, -300_000)
KINDS = (
    *("write", "write", "write", "fsync", "fsync", "deliver", "deliver", "double", "lose", "ask", "crash"),
    *("tick", "time", "days", "backup", "restore", "jump", "distrust", "trust", "count", "element", "fail"),
)


class Violation(AssertionError):
    """A promise was broken."""


class Play:
    """One mesh, and what its clients were told."""

    def __init__(self, seed, names=("gateway", "n1", "n2", "n3"), hoarders=()):
        self.mesh = ReplicaMesh(seed, names, hoarders, joint=seed % 2 == 1)
        self.backups = {}
        self.adds, self.own, self.elements = {}, {}, {}
        self.steps = 0

    def step(self, kind, name, draw):
        """draw: a random.Random for what a step leaves open."""
        self.steps += 1
        getattr(self, f"_{kind}")(name, self.mesh.peers[name], draw)
        self.mesh.check()

    def _write(self, name, peer, draw):
        value = b"%d" % self.steps
        changes = [Put("t", draw.choice("ab"), draw.choice("xy"), draw.choice([None, value, value]))]
        if draw.random() < 0.3:
            changes.append(Put("t", name, "own", value))
        token = self.mesh.write(name, *changes)
        if len(changes) > 1:
            self.own.setdefault(name, []).append((token, value))

    def _count(self, name, peer, draw):
        amount = draw.randint(1, 9)
        self.adds.setdefault(name, []).append((self.mesh.write(name, Count("c", amount)), amount))

    def _element(self, name, peer, draw):
        if draw.random() < 0.6:
            element = f"e{self.steps}"
            token = self.mesh.write(name, Tag("s", element, True))
            self.elements.setdefault(name, []).append((token, element))
        else:
            self.mesh.write(name, Tag("m", draw.choice("pq"), draw.random() < 0.5))

    def _fsync(self, name, peer, draw):
        peer.fsync()

    def _fail(self, name, peer, draw):
        peer.fail()

    def _deliver(self, name, peer, draw):
        for _ in range(draw.randint(1, 6)):
            self.mesh.deliver(draw.randrange(1 << 30))

    def _double(self, name, peer, draw):
        self.mesh.deliver(draw.randrange(1 << 30), keep=True)

    def _lose(self, name, peer, draw):
        self.mesh.deliver(draw.randrange(1 << 30), drop=True)

    def _ask(self, name, peer, draw):
        peer.ask(draw.choice([each for each in self.mesh.names if each != name]))
        for _ in range(draw.choice([0, 6])):
            self.mesh.deliver(len(self.mesh.bag) - 1)
            for each in self.mesh.peers.values():
                each.fsync()

    def _crash(self, name, peer, draw):
        peer.start()

    def _tick(self, name, peer, draw):
        peer.tick()

    def _time(self, name, peer, draw):
        self.mesh.now_ns += draw.randint(1, 100) * SECOND

    def _days(self, name, peer, draw):
        self.mesh.now_ns += 8 * DAY

    def _backup(self, name, peer, draw):
        self.backups[name] = peer.disk.copy()

    def _restore(self, name, peer, draw):
        if name in self.backups:
            peer.restore(self.backups[name])

    def _jump(self, name, peer, draw):
        peer.skew_ms = draw.choice(JUMPS_MS)
        if draw.random() < 0.5:
            peer.trust()

    def _distrust(self, name, peer, draw):
        peer.trusted = False
        peer.skew_ms = draw.choice([HOUR_MS, -HOUR_MS, 0])
        if draw.random() < 0.5:
            peer.start()

    def _trust(self, name, peer, draw):
        peer.trust()

    # -- the verdict ------------------------------------------------------------------------------------

    def judge(self):
        """Raises: Violation."""
        self.mesh.heal()
        self.mesh.check()
        canonical = self.mesh.canonical()
        if len(set(canonical.values())) != 1:
            rows = {name: msgspec.msgpack.decode(data) for name, data in canonical.items()}
            raise Violation(f"replicas differ: {rows}")
        cells = self.mesh.peers["gateway"].replica.cells
        kept = {name for name, peer in self.mesh.peers.items() if not peer.restored}
        self._judge_counter(cells.counted("c"), kept)
        present = set(cells.elements("s"))
        for name in kept:
            for token, element in self.elements.get(name, ()):
                if self._acknowledged(name, token) and element not in present:
                    raise Violation(f"{element} was acknowledged by {name} and is lost")
            self._judge_own(cells, name)
        for cell, state in cells.all():
            if cell.kind == FIELD and cells.document(cell.table, cell.key).get(cell.field) != (
                max(state, key=lambda each: (each.stamp, each.node, each.epoch, each.seq)).value
            ):
                raise Violation(f"the last writer of {cell} did not win")

    def _acknowledged(self, name, token):
        return isinstance(self.mesh.peers[name].said.get(token), Written)

    def _judge_counter(self, value, kept):
        least = sum(
            amount
            for name in kept
            for token, amount in self.adds.get(name, ())
            if self._acknowledged(name, token)
        )
        most = sum(amount for each in self.adds.values() for _, amount in each)
        if not least <= value <= most:
            raise Violation(f"counter at {value}, not within {least} and {most}")

    def _judge_own(self, cells, name):
        written = [value for token, value in self.own.get(name, ()) if self._acknowledged(name, token)]
        if written:
            found = cells.document("t", name).get("own")
            if found is None or int(found) < int(written[-1]):
                raise Violation(f"{name} wrote {written[-1]}, all read {found}")
        if CellId(FIELD, "t", name, "own") in cells.conflicts:
            raise Violation(f"{name} is in conflict with itself")


FORGETFUL = ("write", "write", "fsync", "deliver", "ask", "ask", "tick", "tick")
"""Kinds of a play in which much is collected while much is on the way."""

ABSENT = ("write", "write", "element", "fsync", "ask", "ask", "tick", "tick", "days", "days", "time")
"""Kinds of a play in which members are away for longer than the others wait."""
RESTORED = ("count", "count", "write", "fsync", "ask", "ask", "tick", "backup", "restore", "days")
"""Kinds of a play with old disks."""


def play(seed, kinds=None):
    """Everything of it drawn. Raises: Violation, or what a core raises."""
    draw = random.Random(seed)
    count = draw.choice([2, 3, 4])
    names = ("gateway", *(f"n{i}" for i in range(1, count)))
    game = Play(seed, names, hoarders=[name for name in names if draw.random() < 0.25])
    kinds = kinds or draw.sample(KINDS, k=16)
    for _ in range(draw.choice([20, 60, 150])):
        game.step(draw.choice(kinds), draw.choice(names), draw)
    game.judge()
    return game


def returning(seed):
    """A member writes what the others have deleted and forgotten while it was away; one never forgets."""
    game = Play(seed, hoarders=("n2",))
    mesh = game.mesh
    mesh.write("n1", Put("t", "a", "x", b"old"), Put("t", "a", "y", b"stays"))
    mesh.exchange(2)
    mesh.write("n3", Put("t", "a", "x", b"written far away"), Count("c", 5))
    game.adds["n3"] = [(mesh.token, 5)]
    mesh.peers["n3"].fsync()
    said = mesh.bag[-1][2]
    mesh.bag.clear()
    mesh.write("n1", Put("t", "a", "x", None))
    mesh.peers["n1"].fsync()
    mesh.now_ns += 8 * DAY
    here = ("gateway", "n1", "n2")
    for _ in range(3):
        for name in here:
            for other in here:
                if name != other:
                    mesh.peers[name].ask(other)
                    mesh.bag = [each for each in mesh.bag if "n3" not in each[:2]]
                    mesh.drain()
        for name in here:
            mesh.peers[name].tick()
            mesh.peers[name].fsync()
    assert not mesh.peers["gateway"].replica.cells.tombstones, "the deletion is forgotten"
    mesh.peers["n2"].receive("n3", said)  # who never forgets can take what the others refuse
    assert mesh.peers["n2"].replica.cells.counted("c") == 5
    game.judge()
    return game
