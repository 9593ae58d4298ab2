"""What members say to each other, inside sealed parcels.

Every message is a frozen, array-shaped ``msgspec.Struct`` with an integer tag. Tags are append-only:
a number is never given a second meaning. A receiver that meets an unknown tag answers nothing and
counts ``Unsupported``; the rest of the parcel proceeds (see ``codec``).

Every acknowledged message is idempotent by its own key (task, attempt, kind), so that it may be sent
again and again; no order between messages is promised: cores tolerate Cancel before Offer and Result
before Accept. Durations travel as remaining milliseconds, never as wall time to be compared;
``*_at_ms`` fields are the sender's wall clock, for people.

Bounds stand in the types, so that the decoder enforces them at the door: what a member names is short,
a digest has 32 bytes. A message that breaks one is malformed, whoever sent it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

TaskId = Annotated[str, msgspec.Meta(max_length=64)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
InlineInput = Annotated[bytes, msgspec.Meta(max_length=16 * 1024)]
RequestId = Annotated[bytes, msgspec.Meta(max_length=64)]
BootId = Annotated[bytes, msgspec.Meta(max_length=8)]
Grant = Annotated[bytes, msgspec.Meta(max_length=4 * 1024)]
Secret = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Sentence = Annotated[str, msgspec.Meta(max_length=1024)]
Trace = Annotated[str, msgspec.Meta(max_length=568)]  # traceparent, or traceparent, space, tracestate
DIGEST_ENTRIES_MAX = 32
DIGEST_BYTES_MAX = 1024
HELD_JOBS_MAX = 256
HELD_BYTES_MAX = 64 * 1024
STORY_ENTRIES_MAX = 512
STORY_DETAILS_MAX = 24
STORY_NEAR_MAX = 8
STATE_ROWS_MAX = 2048
STATE_BATCHES_MAX = 256
STATE_BATCH_BYTES_MAX = 192 * 1024
STATE_PIECES_MAX = 64
STATE_LEAVES = 256
STORY_BYTES_MAX = 64 * 1024
"""What is cut to this is told as not complete: half a parcel, so that a story gives way to work."""


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """Base of all messages."""


class Ack(Message, frozen=True, array_like=True, tag=1):
    """Application acknowledgement: all message numbers <= up_to, and up_to + 2 + i for each bit i set.

    Bit i is bit i % 8 of byte i // 8; up_to + 1 is missing by definition. At most 512 bytes.
    """

    up_to: int
    bitmap: bytes = b""


class Load(Message, frozen=True, array_like=True, tag=2):
    """How busy a member is; freshness matters more than precision. Rides on replies and on beats."""

    workers: int
    backlog_ms: int  # estimated work queued and running, summed over workers
    leased_ms: int = 0  # leases granted that have not yet arrived
    speed: float = 1.0  # relative to the reference board; higher is faster
    draining: bool = False


class Offer(Message, frozen=True, array_like=True, tag=3):
    """Please run this task; the answer is Accept (late), Refuse or at once Result."""

    task: TaskId
    attempt: int
    function: Name
    digest: Digest  # SHA-256 of the bundle
    lease_ms: int
    budget_ms: int | None = None  # what is left of the deadline
    input: InlineInput | None = None  # encoded arguments, when <= 16 KiB
    input_digest: Digest | None = None  # SHA-256 of the arguments, when they must be fetched
    input_bytes: int = 0
    priority: int = 0
    wait_ms: int | None = None  # the wait its owner reckons with; None: whatever it is
    trace: Trace = ""  # of who handed it in; empty: none


class Accept(Message, frozen=True, array_like=True, tag=4):
    task: TaskId
    attempt: int
    wait_ms: int = 0
    load: Load | None = None


class Refuse(Message, frozen=True, array_like=True, tag=5):
    """Not taken, or (after an Accept) handed back; ``reason`` is from the closed set of refusals."""

    task: TaskId
    attempt: int
    reason: Name
    load: Load | None = None


class Progress(Message, frozen=True, array_like=True, tag=6):
    """The holder is still getting somewhere: renews the lease."""

    task: TaskId
    attempt: int
    running: bool  # False: still queued
    elapsed_ms: int = 0


class Result(Message, frozen=True, array_like=True, tag=7):
    """How an attempt ended at its holder."""

    task: TaskId
    attempt: int
    status: Name  # "done" | "failed" | "cancelled" | "expired" | "died" (the worker, by itself)
    output: bytes = b""  # encoded value when done and <= 16 KiB
    error: bytes = b""  # encoded TaskError when failed
    log: bytes = b""  # what the function printed, <= 64 KiB
    pid: int = 0
    started_at_ms: int = 0
    ended_at_ms: int = 0
    cpu_us: int = 0
    run_us: int = 0  # service time on the worker
    load: Load | None = None
    output_digest: Digest | None = None  # when the output must be fetched
    output_bytes: int = 0


class Cancel(Message, frozen=True, array_like=True, tag=8):
    task: TaskId
    attempt: int


class BlobWanted(Message, frozen=True, array_like=True, tag=9):
    """Pull: send me chunks ``first .. first + count - 1`` of the blob; this is also the credit."""

    digest: Digest
    first: int
    count: int


class BlobChunk(Message, frozen=True, array_like=True, tag=10):
    digest: Digest
    index: int
    total: int  # chunks in all
    size: int  # bytes in all
    data: bytes


class BlobMissing(Message, frozen=True, array_like=True, tag=11):
    digest: Digest


class CatalogueWanted(Message, frozen=True, array_like=True, tag=12):
    """Send me every current entry that I do not have at this version."""

    have: list[tuple[str, int]] = []


class CatalogueEntries(Message, frozen=True, array_like=True, tag=13):
    """Signed catalogue entries (COSE_Sign1), newest version of each name; believed by signature alone."""

    entries: list[bytes]


class Publish(Message, frozen=True, array_like=True, tag=14):
    """A deployer asks the gateway to take these signed entries into the catalogue; bundles by digest."""

    request: RequestId  # 8 random bytes naming the request
    entries: list[bytes]


class Published(Message, frozen=True, array_like=True, tag=15):
    request: RequestId
    refused: str = ""  # empty: taken


class Beat(Message, frozen=True, array_like=True, tag=16):
    """Unacknowledged: I am here, this busy. To everyone who follows the sender, under the group's key.

    Beats of one member are ordered by (incarnation, seq); anything lower than what was heard is old.
    """

    seq: int
    load: Load
    sent_at_ms: int = 0
    boot_id: BootId = b""  # 8 random bytes of this process; the same as in its handshakes
    incarnation: int = 0  # only grows from one start of this member to the next


class Ping(Message, frozen=True, array_like=True, tag=17):
    """Unacknowledged probe; answered by Pong at once (round trip, suspicion)."""

    nonce: int


class Pong(Message, frozen=True, array_like=True, tag=18):
    nonce: int
    load: Load | None = None


class Leaving(Message, frozen=True, array_like=True, tag=19):
    """A member withdraws itself from the mesh for good; the gateway takes it off the roster."""

    reason: str = ""


class GroupKeysWanted(Message, frozen=True, array_like=True, tag=20):
    """Pairwise: hand me the group's current epoch, if yours is above mine."""

    group: Name
    epoch: int = 0  # the highest that I hold; 0: none


class GroupKeys(Message, frozen=True, array_like=True, tag=21):
    """Pairwise: an epoch of a group. Believed by the signature of the mesh's authority over its digest."""

    grant: Grant  # COSE_Sign1 over {mesh, group, epoch, SHA-256 of the secret, issued}
    secret: Secret


class DigestEntry(msgspec.Struct, frozen=True, array_like=True):
    """One member's load, told second-hand."""

    id: Name
    wait_ms: int  # backlog and leases granted, per worker
    workers: int
    speed: float
    down: bool = False


class FleetDigest(Message, frozen=True, array_like=True, tag=22):
    """Unacknowledged: what the gateway noticed of the fleet: changes, the idle and some at random.

    At most 32 entries and 1 KiB, at most once a second, whatever the fleet's size.
    """

    seq: int
    entries: Annotated[list[DigestEntry], msgspec.Meta(max_length=DIGEST_ENTRIES_MAX)] = []


class About(Message, frozen=True, array_like=True, tag=23):
    """Pairwise, when a session is made and when it changes: what this member is and cannot run."""

    version: Name = ""  # of its edgeweave
    python: Name = ""
    lacks: Annotated[list[Name], msgspec.Meta(max_length=256)] = []  # required modules it does not have


class StoryEntry(msgspec.Struct, frozen=True, array_like=True):
    """One thing that a member noted: what happened, to whom, because of what. Its own wall clock's times."""

    number: int  # of its chronicle, ascending; 0: told by its ledger
    at_ms: int
    node: Name  # who noted it
    subject: Name  # "task" | "node" | "function" | "refusal" | "tables"
    id: Name  # of the subject
    what: Name  # chronicle.entry.What; one that a reader does not know is told as it stands
    cause: Name  # the id that leads to the rest: of a task, or one made for a refusal, a loss, a start
    place: Name = ""  # another member that had part in it
    attempt: int = 0
    details: Annotated[dict[Name, int | float | Sentence], msgspec.Meta(max_length=STORY_DETAILS_MAX)] = {}


class StoryWanted(Message, frozen=True, array_like=True, tag=24):
    """Unacknowledged, asked again until answered: what do you know about this id?"""

    request: RequestId
    about: Name  # of a task, a refusal, a loss, a function or a member; the beginning is enough


class Story(Message, frozen=True, array_like=True, tag=25):
    """What its sender noted itself, at most 64 KiB: ids, places, times and reasons, no inputs or outputs."""

    request: RequestId
    at_ms: int  # the sender's wall clock, to tell how far clocks differ
    since_ms: int = 0  # what is older its chronicle has forgotten; 0: nothing has been
    complete: bool = True  # False: some of it did not fit
    entries: Annotated[list[StoryEntry], msgspec.Meta(max_length=STORY_ENTRIES_MAX)] = []
    about: Name = ""  # the whole id; empty: nothing is known of it
    near: Annotated[list[Name], msgspec.Meta(max_length=STORY_NEAR_MAX)] = []  # ids that begin alike


class HeldJob(msgspec.Struct, frozen=True, array_like=True):
    """One task of the asking owner: as its holder was asked, and how it stands there."""

    task: TaskId
    attempt: int
    function: Name
    digest: Digest
    state: Name  # "queued" | "running", or how its result says that it ended
    priority: int = 0
    budget_ms: int | None = None  # what is left of its deadline
    input: InlineInput | None = None
    input_digest: Digest | None = None  # when the arguments do not ride along
    result: Result | None = None  # when it is kept and small enough
    trace: Trace = ""


class HeldWanted(Message, frozen=True, array_like=True, tag=26):
    """What do you hold of mine? My ledger was damaged. After this task id: the pages of one answer."""

    after: TaskId = ""


class Held(Message, frozen=True, array_like=True, tag=27):
    """The asking owner's tasks alone, by id ascending, at most 64 KiB of them."""

    jobs: Annotated[list[HeldJob], msgspec.Meta(max_length=HELD_JOBS_MAX)] = []
    complete: bool = True  # False: ask again, after the last of these


StateDigest = Annotated[bytes, msgspec.Meta(max_length=8)]
SignedBatch = Annotated[bytes, msgspec.Meta(max_length=STATE_BATCH_BYTES_MAX)]


class VectorRow(msgspec.Struct, frozen=True, array_like=True):
    """One node's part of what is known of all tables. epochs: (writer epoch, newest seq), ascending.

    floor, digest: all its epochs up to this one are closed, known to everybody, and folded into a chain.
    """

    node: str
    epochs: tuple[tuple[int, int], ...]
    floor: int = 0
    digest: bytes = b""


_Rows = Annotated[tuple[VectorRow, ...], msgspec.Meta(max_length=STATE_ROWS_MAX)]


class StateAsk(Message, frozen=True, array_like=True, tag=28):
    """Do you know the same of all tables? The digest stands for a whole vector."""

    digest: StateDigest


class StateSame(Message, frozen=True, array_like=True, tag=29):
    """We know what you know."""

    digest: StateDigest


class StateTell(Message, frozen=True, array_like=True, tag=30):
    """What lies safely on the sender's disk."""

    known: _Rows


class StateWant(Message, frozen=True, array_like=True, tag=31):
    """The same, and: give me what is missing there."""

    known: _Rows


class StateBatches(Message, frozen=True, array_like=True, tag=32):
    """Batches as their authors signed them, causes first. more: there are others."""

    batches: Annotated[tuple[SignedBatch, ...], msgspec.Meta(max_length=STATE_BATCHES_MAX)]
    more: bool = False


class StateBehind(Message, frozen=True, array_like=True, tag=33):
    """What you lack is no longer kept, or your cells differ from what you know: take a snapshot."""


class StateSnapshotWanted(Message, frozen=True, array_like=True, tag=34):
    """The snapshot has to name the wish: one that was made for an earlier state undoes what came since."""

    wish: StateDigest


class StateSnapshot(Message, frozen=True, array_like=True, tag=35):
    """The snapshot that was wished for: signed as a whole, to be fetched as bodies in this order."""

    wish: StateDigest
    pieces: Annotated[tuple[Digest, ...], msgspec.Meta(min_length=1, max_length=STATE_PIECES_MAX)]


class StateCompare(Message, frozen=True, array_like=True, tag=36):
    """Under this knowledge, this is the root of our Merkle tree."""

    digest: StateDigest
    root: StateDigest


class StateLeaves(Message, frozen=True, array_like=True, tag=37):
    digest: StateDigest
    leaves: Annotated[tuple[StateDigest, ...], msgspec.Meta(min_length=STATE_LEAVES, max_length=STATE_LEAVES)]


class StateBatch(Message, frozen=True, array_like=True, tag=38):
    """Unacknowledged, to everybody under the group's key: a signed batch, whose author it proves itself."""

    data: SignedBatch


class Rest(Message, frozen=True, array_like=True, tag=39):
    """From the gateway, when its operator asked, and whenever a session is made meanwhile.

    "pause": take no work of others; "drain": and hand back what waits; "work": as before. Own tasks go on.
    """

    mode: Name
    by: Name = ""  # who asked for it, for people
    reason: Sentence = ""
    asked_at_ms: int = 0


ANY = (
    Ack | Load | Offer | Accept | Refuse | Progress | Result | Cancel
    | BlobWanted | BlobChunk | BlobMissing
    | CatalogueWanted | CatalogueEntries | Publish | Published
    | Beat | Ping | Pong | Leaving | GroupKeysWanted | GroupKeys | FleetDigest | About
    | StoryWanted | Story | HeldWanted | Held
    | StateAsk | StateSame | StateTell | StateWant | StateBatches | StateBehind
    | StateSnapshotWanted | StateSnapshot | StateCompare | StateLeaves | StateBatch | Rest
)  # fmt: skip
