"""Two members, a channel that loses, doubles and delays, restarts at any time: sessions come about again.

One script is a list of (milliseconds to wait, what happens). Then the channel heals, and within a while
both directions must carry. All the time: no number is used twice under a key, no parcel opens twice, and
nothing of a former life opens after the new one is ready.
"""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.control import FIRST_BYTE, UNKNOWN_KID, Control
from security.envelope import peek_kid
from security.errors import ProtocolViolation
from security.handshake import public_of
from security.session import (
    BootSeen,
    Confirm,
    FrameReceived,
    NoSession,
    PeerForgotten,
    Ready,
    RosterChanged,
    SendFrame,
    SessionLost,
    Sessions,
    Unwanted,
    Wanted,
)

MS = 1_000_000
SECOND = 1_000 * MS
HEAL_NS = 25 * SECOND  # the longest pauses: 4 s between sends, 10 s between hints, 3 s of old delay
OTHER = {"a": "b", "b": "a"}


class World:
    def __init__(self, seed: int, loss: float, doubling: float, delay_ms: int) -> None:
        self.rng = random.Random(seed)
        self.loss, self.doubling, self.delay_ms = loss, doubling, delay_ms
        self.now_ns = 0
        self.air: list[tuple[int, int, str, bytes]] = []  # (when, tie, to whom, frame)
        self.count = 0
        self.statics = {name: [self.rng.randbytes(32)] for name in "ab"}
        self.publics = {name: (public_of(keys[0]),) for name, keys in self.statics.items()}
        self.version = 1
        self.boots: dict[str, bytes] = {}
        self.members = {}
        self.ready_boot: dict[str, bytes | None] = {}
        for name in "ab":
            self.restart(name)
        self.numbers: set[tuple[bytes, bytes]] = set()
        self.opened: set[bytes] = set()
        self.readies = {"a": 0, "b": 0}
        self.arrived = {"a": 0, "b": 0}  # when the last text of the other arrived

    def restart(self, name: str) -> None:
        self.boots[name] = boot_id = self.rng.randbytes(8)
        self.ready_boot[name] = None
        self.members[name] = Sessions(
            me=name,
            mesh_id="0123456789abcdef",
            boot_id=boot_id,
            static=self.statics[name],
            keys_of=lambda peer: self.publics[peer],
            context=lambda src, dst, kid, role: f"{src}>{dst}:{role}".encode() + kid,
            entropy=self.rng.randbytes,
            roster_version=lambda: self.version,
            wall_ms=lambda: self.rng.randrange(2**41),
        )

    def cast(self, to: str, frame: bytes) -> None:
        copies = 0 if self.rng.random() < self.loss else 2 if self.rng.random() < self.doubling else 1
        for _ in range(copies):
            self.count += 1
            at_ns = self.now_ns + self.rng.randint(0, self.delay_ms) * MS
            heapq.heappush(self.air, (at_ns, self.count, to, frame))

    def say(self, name: str) -> None:
        """A text that names its speaker's life, or a wish for a session."""
        self.count += 1
        self.seal(name, self.boots[name] + self.count.to_bytes(4, "big"))

    def seal(self, name: str, text: bytes) -> None:
        try:
            parcel = self.members[name].seal(self.now_ns, OTHER[name], text)
        except NoSession:
            self.follow(name, self.members[name].handle(self.now_ns, Wanted(OTHER[name])))
            return
        number = peek_kid(parcel), parcel[19 : 20 + parcel[19] - 0x40]
        assert number not in self.numbers, "a (key, nonce) pair was used twice"
        self.numbers.add(number)
        self.cast(OTHER[name], parcel)
        self.follow(name, self.members[name].drain())

    def follow(self, name: str, effects: list) -> None:
        for effect in effects:
            match effect:
                case SendFrame(peer, frame):
                    self.cast(peer, frame)
                case Ready(peer, boot_id, fresh):
                    assert fresh == (boot_id != self.ready_boot[name])
                    self.ready_boot[name] = boot_id
                    self.readies[name] += 1
                    assert self.members[name].has(peer)
                case Confirm():
                    self.seal(name, b"")
                case SessionLost(peer):
                    assert not self.members[name].has(peer)
        self.members[name].check()

    def receive(self, name: str, frame: bytes) -> None:
        member, src = self.members[name], OTHER[name]
        if frame[0] == FIRST_BYTE:
            self.follow(name, member.handle(self.now_ns, FrameReceived(src, frame)))
            return
        try:
            text = member.open(self.now_ns, src, frame)
        except ProtocolViolation:
            self.follow(name, member.drain())
            return
        self.follow(name, member.drain())
        if text:
            assert text not in self.opened, "a parcel was opened twice"
            self.opened.add(text)
            assert text[:8] == self.ready_boot[name], "a text of another life than the one that is ready"
            self.arrived[name] = self.now_ns

    def run_until(self, end_ns: int) -> None:
        """Deliver and tick in the order of time; a timer that does not move on is a fault."""
        turns = 0
        while True:
            turns += 1
            assert turns < 20_000, "the world does not come to rest"
            dues = {name: m.deadline_ns() for name, m in self.members.items()}
            next_ns = min(
                [d for d in dues.values() if d is not None] + [at for at, *_ in self.air[:1]], default=end_ns
            )
            if next_ns > end_ns:
                break
            self.now_ns = max(self.now_ns, next_ns)
            if self.air and self.air[0][0] <= self.now_ns:
                _, _, to, frame = heapq.heappop(self.air)
                self.receive(to, frame)
            for name, due in dues.items():
                if due is not None and due <= self.now_ns:
                    self.follow(name, self.members[name].tick(self.now_ns))
            if not self.air and all(d is None for d in dues.values()):
                break
        self.now_ns = end_ns

    def act(self, action: str, name: str) -> None:
        member, peer = self.members[name], OTHER[name]
        match action:
            case "say":
                self.say(name)
            case "restart":
                self.restart(name)
            case "unwanted":
                self.follow(name, member.handle(self.now_ns, Unwanted(peer)))
            case "boot seen":
                self.follow(name, member.handle(self.now_ns, BootSeen(peer, self.boots[peer])))
            case "new roster":
                self.version += 1
                self.follow(name, member.handle(self.now_ns, RosterChanged()))
            case "renew":  # as if worn out
                session = member._sealing.get(peer)
                if session is not None:
                    session.rekey_seq = session.seq + 1
                    self.say(name)
            case "hint":  # forged, with the kid in use: the worst that the path can say
                session = member._sealing.get(peer)
                if session is not None:
                    frame = Control(UNKNOWN_KID, bytes(8), 0, bytes(8), bytes(8), session.peer_kid)
                    self.follow(name, member.handle(self.now_ns, FrameReceived(peer, frame.encode())))
            case "replay":  # whatever is in the air once more, later
                for _, _, to, frame in list(self.air)[:3]:
                    self.cast(to, frame)

    def heal(self) -> None:
        self.loss = self.doubling = 0.0
        self.delay_ms = 30
        end_ns = self.now_ns + HEAL_NS
        while self.now_ns < end_ns:
            self.say("a"), self.say("b")
            self.run_until(self.now_ns + SECOND // 2)

    def talks(self, name: str) -> bool:
        return self.now_ns - self.arrived[name] <= SECOND


actions = st.sampled_from(
    ["say"] * 6 + ["restart", "renew", "hint", "replay", "boot seen", "unwanted", "new roster"]
)
scripts = st.lists(st.tuples(st.integers(0, 4000), actions, st.sampled_from("ab")), max_size=25)


@settings(deadline=None, max_examples=60)
@given(
    scripts,
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.1, 0.3, 0.7]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([1, 100, 3000]),
)
@pytest.mark.slow
def test_sessions_come_about_whatever_happened_before(script, seed, loss, doubling, delay_ms):
    world = World(seed, loss, doubling, delay_ms)
    for wait_ms, action, name in script:
        world.run_until(world.now_ns + wait_ms * MS)
        world.act(action, name)

    world.heal()
    assert world.talks("a") and world.talks("b")


@settings(deadline=None, max_examples=30)
@given(scripts, st.integers(0, 2**32), st.sampled_from("ab"))
@pytest.mark.slow
def test_one_side_that_only_listens_is_reached_too(script, seed, speaker):
    """After any script, only one side has something to say; it arrives, and goes on arriving."""
    world = World(seed, 0.3, 0.3, 500)
    for wait_ms, action, name in script:
        world.run_until(world.now_ns + wait_ms * MS)
        world.act(action, name)

    world.loss = world.doubling = 0.0
    world.delay_ms = 30
    end_ns = world.now_ns + HEAL_NS
    while world.now_ns < end_ns:
        world.say(speaker)
        world.run_until(world.now_ns + SECOND // 2)
    assert world.talks(OTHER[speaker])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_in_a_quiet_world_one_handshake_suffices(seed):
    """Both sides speak at the same moment, nothing is lost: one session, and no hint is ever needed. (The
    loser's m1 may arrive late and be answered; that answer is ignored.)"""
    world = World(seed, 0.0, 0.0, 40)
    frames = []
    cast = world.cast
    world.cast = lambda to, frame: (frames.append(frame[:2]), cast(to, frame))
    for _ in range(20):
        world.say("a"), world.say("b")
        world.run_until(world.now_ns + SECOND)

    assert len(world.opened) >= 36
    assert [f for f in frames if f[0] == FIRST_BYTE and f[1] == UNKNOWN_KID] == []
    assert sum(f == b"\x86\x02" for f in frames) <= 2
    assert world.readies == {"a": 1, "b": 1}


def test_forgetting_both_ways_starts_anew():
    world = World(1, 0.0, 0.0, 5)
    world.heal()
    for name in "ab":
        world.follow(name, world.members[name].handle(world.now_ns, PeerForgotten(OTHER[name])))
        world.ready_boot[name] = None

    world.heal()
    assert world.talks("a") and world.talks("b")
