"""No core spins: after a tick at its deadline the next one lies ahead, whatever it was told before."""

from __future__ import annotations

import os
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.functions import prefetch
from edge_node.functions.provision import Authorised, Provision
from edge_node.membership import detector, following
from edge_node.membership.digest import Digest
from edge_node.membership.heartbeat import Heartbeat
from edge_node.membership.presence import Presence
from edge_node.tasks.desk import (
    Append,
    CancelAsked,
    Desk,
    DeskSettings,
    DigestHeard,
    Drain,
    Heard,
    MemberInfo,
    Members,
    OwnAbilities,
    PeerDown,
    PeerUp,
    Persisted,
    PersistFailed,
    Run,
    Submitted,
    Task,
    Tell,
    WorkDone,
    WorkRefused,
    WorkStarted,
)
from edge_node.tasks.events import Run as RunEffect
from edge_node.transport.blobs import Blobs
from edge_node.transport.groupcast import GROUP, Groupcast
from edge_node.wire import topics
from edge_node.wire.messages import (
    About,
    Accept,
    Beat,
    BlobChunk,
    BlobMissing,
    BlobWanted,
    DigestEntry,
    FleetDigest,
    GroupKeys,
    GroupKeysWanted,
    Load,
    Offer,
    Pong,
    Progress,
    Refuse,
    Result,
)
from security.authority import Authority

SECOND = 1_000_000_000
AUTHORITY = Authority.create(now_s=1_700_000_000, entropy=os.urandom)
SECRETS = [os.urandom(32) for _ in range(3)]
GRANTS = [
    GroupKeys(AUTHORITY.sign_grant(group=GROUP, epoch=n + 1, secret=secret, issued_s=1_700_000_000), secret)
    for n, secret in enumerate(SECRETS)
]
PEERS = ("gateway", "a", "b", "c")
peers = st.sampled_from(PEERS)
pauses = st.sampled_from([0, 1, SECOND // 10, SECOND, 12 * SECOND, 61 * SECOND, 700 * SECOND])
loads = st.builds(
    Load, st.integers(0, 4), st.sampled_from([0, 40, 9000]), st.just(0), st.just(1.0), st.booleans()
)
beats = st.builds(
    Beat, st.integers(0, 50), loads, st.just(0), st.sampled_from([b"1" * 8, b"2" * 8]), st.integers(0, 2)
)
digests = st.sampled_from([b"x" * 32, b"y" * 32])
tasks = st.sampled_from([f"t{n}" for n in range(6)])
attempts = st.integers(1, 4)


def not_spinning(core: Any, now_ns: int, tick: Any) -> Any:
    """Tick where the agent would: at a deadline that has come. What it led to."""
    due = core.deadline_ns()
    if due is None or due > now_ns:
        return []
    effects = tick(now_ns)
    after = core.deadline_ns()
    # Once more is allowed where the first tick only tidied up; a third time would be a loop without end.
    if after is not None and after <= now_ns:
        effects = [*(effects or []), *(tick(now_ns) or [])]
        after = core.deadline_ns()
    assert after is None or after > now_ns, (
        f"{type(core).__name__} is due {now_ns - after} ns ago, after its tick"
    )
    if hasattr(core, "check"):
        core.check()
    return effects or []


@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                st.builds(detector.HeardFrom, peers),
                st.builds(detector.WillSeen, peers),
                st.builds(detector.Rumoured, peers),
                st.builds(detector.LinkLost),
                st.builds(detector.Forgotten, peers),
                st.builds(detector.Watch, peers),
                st.builds(detector.Unwatch, peers),
            ),
        ),
        max_size=60,
    ),
    st.booleans(),
)
def test_the_detector_never_spins(story, watch_all):
    core, now_ns = detector.Detector(depends=lambda peer: peer == "b", watch_all=watch_all), 0
    for pause, event in story:
        now_ns += pause
        not_spinning(core, now_ns, core.tick)
        core.handle(now_ns, event)
    for _ in range(40):
        now_ns = max(now_ns, core.deadline_ns() or now_ns)
        not_spinning(core, now_ns, core.tick)


@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                st.builds(
                    following.Members,
                    st.frozensets(st.sampled_from([f"n{n}" for n in range(30)]), max_size=30),
                ),
                st.builds(following.Sighted, st.sampled_from([f"n{n}" for n in range(30)])),
                st.builds(following.Capacity, st.sampled_from([f"n{n}" for n in range(30)]), st.floats()),
                st.builds(following.Came, st.sampled_from([f"n{n}" for n in range(30)])),
                st.builds(following.Went, st.sampled_from([f"n{n}" for n in range(30)])),
            ),
        ),
        max_size=60,
    )
)
def test_the_choice_of_followed_peers_never_spins(story):
    core, now_ns = following.Following(me="me", always="gateway", rng=random.Random(1)), 0
    for pause, event in story:
        now_ns += pause
        not_spinning(core, now_ns, core.tick)
        core.handle(now_ns, event)
        core.check()


@given(st.lists(st.tuples(pauses, peers, st.one_of(loads, st.sampled_from(["left", "forget"]))), max_size=60))
def test_the_digest_never_spins(story):
    core, now_ns = Digest(rng=random.Random(1)), 0
    for pause, peer, what in story:
        now_ns += pause
        not_spinning(core, now_ns, lambda at: [core.tick(at)])
        if what == "forget":
            core.forget()
        elif what == "left":
            core.left(now_ns, peer)
        else:
            core.noted(now_ns, peer, what)


@given(st.lists(st.tuples(pauses, st.sampled_from(["moved", "hasten", "told", "pause"]), loads), max_size=60))
def test_the_heartbeat_never_spins(story):
    core, now_ns, load = Heartbeat(incarnation=1, boot_id=b""), 0, Load(1, 0)
    for pause, what, load in story:
        now_ns += pause
        not_spinning(core, now_ns, lambda at, load=load: [core.tick(at, 0, load)])
        if what == "told":
            core.told(now_ns, 0, load)
        elif what == "pause":
            core.pause(now_ns + SECOND)
        else:
            getattr(core, what)(now_ns)


@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                st.builds(prefetch.Wanted, st.lists(digests, max_size=2).map(tuple), st.integers(1, 1000)),
                st.builds(prefetch.Came, digests),
                st.builds(prefetch.Missed, digests),
                st.builds(prefetch.Reachable),
                st.booleans(),
            ),
        ),
        max_size=60,
    )
)
def test_fetching_ahead_never_spins(story):
    idle, now_ns = True, 0
    core = prefetch.Prefetch(
        has_bundle=lambda digest: False,
        kept_bytes=lambda: 0,
        idle=lambda: idle,
        holders=lambda: ["a"] * idle,
        rng=random.Random(1),
        bytes_max=1,
    )
    for pause, event in story:
        now_ns += pause
        not_spinning(core, now_ns, core.tick)
        if isinstance(event, bool):
            idle = event
        else:
            core.handle(now_ns, event)


@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                st.builds(
                    RunEffect,
                    peers,
                    tasks,
                    attempts,
                    st.just("f.x"),
                    digests,
                    st.sampled_from([b"in", None]),
                    digests,
                ),
                st.tuples(st.sampled_from(["fetched", "missed"]), digests),
                st.just("catalogue"),
                tasks,
            ),
        ),
        max_size=60,
    )
)
def test_providing_never_spins(story):
    signed: list[bytes] = []
    now_ns = 0
    core = Provision(
        me="me",
        gateway="gateway",
        authorised=lambda name, digest: Authorised(1, 1) if digest in signed else None,
        has_bundle=lambda digest: False,
        body=lambda digest: None,
    )
    for pause, what in story:
        now_ns += pause
        not_spinning(core, now_ns, core.tick)
        match what:
            case RunEffect():
                core.run(now_ns, what)
            case ("fetched", digest):
                core.fetched(digest)
            case ("missed", digest):
                core.not_fetched(digest, "gone")
            case "catalogue":
                signed.append(b"x" * 32)
                core.catalogue_changed()
            case str():
                core.stop(what, 1)


@given(
    st.lists(
        st.tuples(
            pauses,
            peers,
            st.one_of(
                st.builds(BlobWanted, digests, st.integers(-1, 3), st.integers(-1, 9)),
                st.builds(
                    BlobChunk,
                    digests,
                    st.integers(-1, 2),
                    st.integers(0, 2),
                    st.integers(0, 70_000),
                    st.binary(max_size=9),
                ),
                st.builds(BlobMissing, digests),
                st.just("down"),
                st.tuples(digests, st.lists(peers, max_size=3)),
            ),
        ),
        max_size=60,
    )
)
def test_transfers_never_spin(story):
    core, now_ns = Blobs(lambda digest: None), 0
    for pause, peer, what in story:
        now_ns += pause
        not_spinning(core, now_ns, core.tick)
        if what == "down":
            core.peer_down(now_ns, peer)
        elif isinstance(what, tuple):
            core.want(now_ns, *what)
        else:
            core.handle(now_ns, peer, what)
        core.check()


@settings(max_examples=60)
@given(
    st.sampled_from(["a", "gateway"]),
    st.booleans(),
    st.lists(
        st.tuples(
            pauses,
            peers,
            st.one_of(
                beats,
                st.builds(
                    FleetDigest,
                    st.integers(0, 9),
                    st.lists(
                        st.builds(DigestEntry, peers, st.just(0), st.just(1), st.just(1.0), st.booleans()),
                        max_size=3,
                    ),
                ),
                st.sampled_from(GRANTS),
                st.builds(GroupKeysWanted, st.just(GROUP), st.integers(0, 4)),
                st.sampled_from(
                    [
                        "ready",
                        "lost",
                        "will",
                        "members",
                        "alone",
                        "link up",
                        "link down",
                        "moved",
                        "frame",
                        "over",
                    ]
                ),
            ),
        ),
        max_size=40,
    ),
)
def test_presence_never_spins(me, keys, story):
    there = frozenset(PEERS)
    cast = [
        Groupcast(
            me=name,
            mesh_id=AUTHORITY.mesh_id,
            root_spki_sha256=AUTHORITY.root_spki_sha256,
            is_member=lambda peer: peer in there,
            entropy=random.Random(name).randbytes,
        )
        for name in (me, "c")
    ]
    core = Presence(
        me=me,
        mesh_id=AUTHORITY.mesh_id,
        incarnation=1,
        boot_id=b"m" * 8,
        groupcast=cast[0],
        load=lambda now_ns: Load(1, now_ns // SECOND % 3),
        depends=lambda peer: peer == "b",
        rng=random.Random(1),
    )
    core.members(0, 0, there)
    cast[1].came(0, "gateway", GRANTS[2])
    if keys:
        core.keys_came(0, 0, "gateway", GRANTS[0])
    now_ns = 0
    for seq, (pause, peer, what) in enumerate(story):
        now_ns += pause
        not_spinning(core, now_ns, lambda at: core.tick(at, 0))
        topic = topics.Presence(AUTHORITY.mesh_id, peer)
        match what:
            case Beat():
                core.beat_heard(now_ns, peer, what)
            case FleetDigest():
                core._told_of(now_ns, 0, what)
            case GroupKeys():
                core.keys_came(now_ns, 0, peer, what)
            case GroupKeysWanted():
                core.keys_wanted(now_ns, peer, what)
            case "ready":
                core.ready(now_ns, 0, peer)
            case "lost":
                core.lost(peer)
            case "will":
                core.delivered(now_ns, 0, topic, b"")
            case "members" | "alone":
                there = frozenset(PEERS if what == "members" else (me,))
                core.members(now_ns, 0, there)
            case "link up":
                core.link_up(now_ns, 0, [peer])
            case "link down":
                core.link_down(now_ns)
            case "moved":
                core.load_moved(now_ns)
            case "over":
                core.say_no_more(now_ns + 60 * SECOND)
            case "frame":
                frame = cast[1].seal(now_ns, [Beat(seq, Load(1, 0), 0, b"c" * 8, 5)])
                core.delivered(now_ns, 0, topics.Presence(AUTHORITY.mesh_id, "c"), frame)


said = st.one_of(
    st.builds(
        Offer,
        tasks.map("x".__add__),
        attempts,
        st.just("f.x"),
        digests,
        st.sampled_from([-1, 0, 900, 10**15]),
        st.sampled_from([None, -5, 0, 300]),
        st.sampled_from([b"in", None]),
        digests,
    ),
    st.builds(Accept, tasks, attempts, st.just(0), loads),
    st.builds(Progress, tasks, attempts, st.booleans()),
    st.builds(
        Refuse, tasks, attempts, st.sampled_from(["queue full", "draining", "unknown function", "odd"]), loads
    ),
    st.builds(
        Result,
        tasks,
        attempts,
        st.sampled_from(["done", "failed", "died", "expired", "cancelled", "odd"]),
        started_at_ms=st.integers(0, 1),
    ),
    loads,
    beats,
    st.builds(Pong, st.just(1), loads),
    st.builds(About, lacks=st.sampled_from([[], ["numpy"]])),
)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                st.builds(
                    Submitted,
                    st.just(1),
                    st.builds(
                        Task,
                        tasks,
                        st.just("f.x"),
                        digests,
                        st.just(b"in"),
                        st.just(b"s" * 32),
                        st.just("me"),
                        where=st.sampled_from(["any", "local", "a", "gateway"]),
                        deadline_ms=st.sampled_from([None, 1, 5000]),
                        ttl_ms=st.sampled_from([2000, 86_400_000]),
                        labels=st.sampled_from([{}, {"zone": "hall"}]),
                        requires=st.sampled_from([(), ("numpy",)]),
                    ),
                ),
                st.builds(Heard, peers, said),
                st.builds(PeerUp, peers, st.just(1_000_000), restarted=st.booleans()),
                st.builds(PeerDown, peers, st.booleans()),
                st.sampled_from(
                    [Members(tuple(map(MemberInfo, names))) for names in (PEERS, ("me", "a"), ("me",))]
                ),
                st.builds(CancelAsked, st.just(2), tasks),
                st.just(Drain()),
                st.builds(OwnAbilities, st.just(("numpy",))),
                st.builds(
                    DigestHeard,
                    st.lists(
                        st.builds(
                            DigestEntry, peers, st.integers(0, 9), st.just(1), st.floats(), st.booleans()
                        ),
                        max_size=3,
                    ).map(tuple),
                ),
                st.sampled_from(["started", "done", "died", "refused", "disk"]),
            ),
        ),
        max_size=60,
    )
)
def test_the_desk_never_spins(story):
    core, now_ns, disk = Desk("me", settings=DeskSettings(), rng=random.Random(1)), SECOND, True
    core.handle(now_ns, 0, Members((*map(MemberInfo, PEERS), MemberInfo("me"))))
    runs: list[Run] = []

    def carry(effects):
        for effect in effects:
            match effect:
                case Append(serial=serial):
                    carry(
                        core.handle(now_ns, 0, Persisted(serial) if disk else PersistFailed(serial, "full"))
                    )
                case RunEffect():
                    runs.append(effect)
                case Tell():
                    pass

    for pause, event in story:
        now_ns += pause
        for _ in range(3):  # writing is part of a tick: what it leads to may be due at once
            due = core.deadline_ns()
            if due is not None and due <= now_ns:
                carry(core.tick(now_ns, 0))
        due = core.deadline_ns()
        assert due is None or due > now_ns, "the desk is due in the past for ever"
        if event == "disk":
            disk = not disk
        elif not isinstance(event, str):
            carry(core.handle(now_ns, 0, event))
        elif runs:
            run = runs.pop(0) if event != "started" else runs[0]
            ends = {
                "started": WorkStarted(run.task, run.attempt, 7),
                "done": WorkDone("", run.task, run.attempt, "done", started_at_ms=1),
                "died": WorkDone("", run.task, run.attempt, "failed", started_at_ms=1, worker_died=True),
                "refused": WorkRefused("", run.task, run.attempt, "unknown function"),
            }
            carry(core.handle(now_ns, 0, ends[event]))
        core.check()
