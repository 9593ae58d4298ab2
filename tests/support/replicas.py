"""A mesh of replicas in one process: messages lie in a bag, disks lose what was not fsynced, clocks jump."""

from __future__ import annotations

import hashlib
import random
from collections import deque

from cryptography.hazmat.primitives.asymmetric import ec

from edge_node.store.antientropy import AntiEntropy, Apply, Diverged, Send, SendSnapshot
from edge_node.store.authorship import Authorship
from edge_node.store.cell_store import MemoryCellStore
from edge_node.store.replica import (
    Append,
    Arrived,
    Broadcast,
    Failed,
    Limits,
    Members,
    Noted,
    NotWritten,
    Orphaned,
    Persisted,
    Reload,
    Replica,
    Snapshot,
    Trusted,
    Write,
    Written,
)  # fmt: skip
from security.identity import spki_der

SECOND = 1_000_000_000
DAY = 24 * 3600 * SECOND
MESH = "0123456789abcdef"
START_MS = 1_790_000_000_000
KEYS = {f"n{i}": ec.derive_private_key(1000 + i, ec.SECP256R1()) for i in range(10)}
KEYS["gateway"] = ec.derive_private_key(99, ec.SECP256R1())
OWNERS = {hashlib.sha256(spki_der(key.public_key())).digest(): name for name, key in KEYS.items()}
_OPENED: dict[bytes, tuple[str, bytes]] = {}


class Known(Authorship):
    """Authorship that verifies the same bytes once for all members of a process."""

    def open(self, data):
        found = _OPENED.get(data)
        if found is None:
            if len(_OPENED) > 4096:
                _OPENED.clear()
            found = _OPENED[data] = super().open(data)
        return found


class Rules:
    """May write everything that is not forbidden; the gateway is believed, and believes everybody."""

    def __init__(self, me, forbidden=()):
        self.me, self.forbidden = me, set(forbidden)

    def may_write(self, node, table):
        return (node, table) not in self.forbidden

    def believed(self, node):
        return "gateway" in (node, self.me)


class Peer:
    """One member: its disk, its clock and its present life."""

    def __init__(self, mesh, name, limits):
        self.mesh, self.name, self.limits = mesh, name, limits
        self.disk = MemoryCellStore()
        self.skew_ms = 0
        self.trusted = True
        self.said = {}  # token -> Written or NotWritten
        self.notes = []
        self.diverged = []
        self.orphans = []
        self.restored = False
        self.start()

    @property
    def wall_ms(self):
        return self.mesh.wall_ms + self.skew_ms

    def start(self):
        self.unsynced = []
        author = Known(MESH, KEYS[self.name], OWNERS.get)
        mesh = self.mesh
        policy = Rules(self.name, mesh.forbidden)
        self.replica = Replica(self.name, author, policy, self.disk.load(), mesh.rng.randbytes, self.limits)
        self.entropy = AntiEntropy(self.name, self.replica, policy, mesh.rng, mesh.now_ns)
        self.tell(Members(frozenset(mesh.names)))
        if self.trusted:
            self.trust()
        self.entropy.up(mesh.names)
        self.entropy._at_once.clear()

    def trust(self):
        self.trusted = True
        self.tell(Trusted(-self.skew_ms))

    def tell(self, event):
        if self.mesh.joint and isinstance(event, Write):  # as `Replication` does, which signs at a turn's end
            self.perform(self.replica.write(self.wall_ms, event))
            return
        self.perform(self.replica.handle(self.mesh.now_ns, self.wall_ms, event))

    def perform(self, effects):
        for effect in effects:
            match effect:
                case Append():
                    self.unsynced.append(effect)
                case Written(token) | NotWritten(token, _):
                    self.said[token] = effect
                case Broadcast(data):
                    for other in self.mesh.names:
                        if other != self.name:
                            self.mesh.bag.append((self.name, other, data))
                case Send(peer, message):
                    self.mesh.bag.append((self.name, peer, message))
                case SendSnapshot(peer):
                    self.mesh.bag.append((self.name, peer, effect))
                case Apply(batches, more):
                    for data in batches:
                        self.tell(Arrived(data))
                    if more:
                        self.perform(self.entropy.go_on(self.mesh.now_ns, more))
                case Noted():
                    self.notes.append(effect)
                case Diverged():
                    self.diverged.append(effect)
                case Orphaned():
                    self.orphans.append(effect)
                case Reload():
                    self.start()

    def sign(self):
        """A turn is over, or somebody is to be told what we hold."""
        self.perform(self.replica.close())

    def fsync(self):
        self.sign()
        if self.unsynced:
            self.disk.commit([each.commit for each in self.unsynced])
            last, self.unsynced = self.unsynced[-1].serial, []
            self.tell(Persisted(last))

    def fail(self):
        """The disk refuses."""
        self.sign()
        if self.unsynced:
            first, self.unsynced = self.unsynced[0].serial, []
            self.tell(Failed(first, "no space left"))

    def receive(self, source, message):
        match message:
            case bytes():
                self.tell(Arrived(message))
            case SendSnapshot():
                self.tell(Snapshot(message.data, self.entropy.wish))
                self.entropy.installed()
            case _:
                self.sign()
                self.perform(self.entropy.handle(self.mesh.now_ns, source, message))

    def tick(self):
        self.perform(self.replica.tick(self.mesh.now_ns, self.wall_ms))

    def ask(self, other):
        self.sign()
        self.entropy._at_once = deque([other])
        self.perform(self.entropy.tick(self.mesh.now_ns))

    def restore(self, backup):
        self.disk = backup.copy()
        self.restored = True
        self.start()


class ReplicaMesh:
    """Args: names; hoarders: those that never collect; joint: writes share batches until a turn is over."""

    def __init__(
        self, seed, names=("gateway", "n1", "n2", "n3"), hoarders=(), limits=None, forbidden=(), joint=False
    ):
        self.rng = random.Random(seed)
        self.joint = joint
        self.names = tuple(names)
        self.now_ns = 0
        self.bag = []
        self.forbidden = forbidden
        self.token = 0
        limits = limits or {}
        self.peers = {}
        for name in self.names:
            self.peers[name] = Peer(self, name, Limits(collect=name not in hoarders, **limits))

    @property
    def wall_ms(self):
        return START_MS + self.now_ns // 1_000_000

    def write(self, name, *changes):
        self.token += 1
        self.peers[name].tell(Write(self.token, changes))
        return self.token

    def deliver(self, index, *, keep=False, drop=False):
        if self.bag:
            index %= len(self.bag)
            source, to, message = self.bag[index] if keep else self.bag.pop(index)
            if not drop:
                self.peers[to].receive(source, message)

    def drain(self):
        while self.bag:
            self.deliver(0)
            for peer in self.peers.values():
                peer.fsync()

    def exchange(self, rounds=8):
        """Everybody with everybody, nothing lost, until all know the same."""
        for _ in range(rounds):
            for name in self.names:
                for other in self.names:
                    if name != other:
                        self.peers[name].ask(other)
                        self.drain()
            for peer in self.peers.values():
                peer.tick()
                peer.fsync()
            self.drain()
            self.now_ns += 31 * SECOND
        return self

    def heal(self):
        """Clocks are right, and everything reaches everybody."""
        for peer in self.peers.values():
            peer.fsync()
            peer.skew_ms = 0
            peer.trust()
            peer.fsync()
        self.drain()
        self.exchange()

    def canonical(self):
        return {name: peer.replica.cells.canonical() for name, peer in self.peers.items()}

    def check(self):
        for peer in self.peers.values():
            peer.replica.check()
            peer.entropy.check()


__all__ = ["DAY", "SECOND", "Peer", "ReplicaMesh", "Rules"]
