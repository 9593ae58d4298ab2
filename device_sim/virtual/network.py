"""The network: what lies between a member and the host of the broker, as TCP shows it.

    member ──up──►  ┌ bandwidth ─ delay ─ jitter ─ loss ┐ ──► broker       two ordered streams a connection
           ◄─down── └ queue       + RTO   (no overtaking)┘ ◄──             WINDOW bytes on their way at most

A segment (the packets of one write) costs one entry of the agenda. A lost IP packet makes its segment late,
and all behind it wait, as behind a hole in TCP's sequence. What meets a partition is lost, and sent again
with a doubling timeout for as long as its sender lives; what arrives where nobody listens is answered with a
reset. Parcels that are lost, doubled or overtaken are not the work of a network, whose TCP mends all that,
but of a hostile broker: ``Port.fates`` and ``Network.block`` say which, the broker does it at its door.

Not here: MQTT (``broker``, ``link``), when a fault begins and ends (the timeline). Left out: slow start and
congestion (a stream has its window at once), fast retransmission (every loss costs a timeout), and the
bandwidth of acknowledgements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from device_sim.virtual.world import MS, SECOND, World
from security.errors import BadInput

if TYPE_CHECKING:
    from random import Random

WINDOW_BYTES: Final = 128 * 1024
"""On their way in one stream: a quarter of a megabyte a round trip, what Linux' buffers begin with."""
SEGMENT_BYTES: Final = 16 * 1024
"""A write is cut into pieces of about this size (a TLS record): a slow line delivers it bit by bit."""
RTO_NS_MIN: Final = 200 * MS
"""Linux' ``TCP_RTO_MIN``: added to the round trip."""
RTO_NS_MAX: Final = 120 * SECOND
ORPHAN_RTO_NS_MAX: Final = 30 * SECOND
"""A stream whose sender has closed gives up here; Linux' ``tcp_orphan_retries`` come to about the same."""
TRIES_MAX: Final = 15
"""Linux' ``tcp_retries2``."""
SEGMENT_HEAD: Final = 62
"""IP, TCP and the TLS record around one write."""
PACKET_PAYLOAD: Final = 1400
PACKET_HEAD: Final = 40
LOCAL_DELAY_NS: Final = 50_000

EOF: Final[list[Any]] = []
"""The segment that ends a stream; compared by identity."""

REFUSED: Final = "Connection refused"
RESET: Final = "Connection reset by peer"
TIMED_OUT: Final = "Connection timed out"
CLOSED: Final = "the broker closed the connection"

Receive = Callable[[list[Any]], None]
Ended = Callable[[str], None]


class LinkModel(msgspec.Struct, frozen=True, kw_only=True):
    """The way from one member to the broker's host and back. Shares are of 1.

    Raises: BadInput: a share outside 0 to 1 (loss: to 0.9), or a negative number.
    """

    delay_ms: float = 0.3
    """One way."""
    jitter_ms: float = 0.0
    """Up to this is added to each segment, evenly; order is kept."""
    hop_ms: float = 0.0
    """What passing through both machines costs a segment besides, either way."""
    loss: float = 0.0
    """Of IP packets: a late segment, not a lost one."""
    up_kbps: float = 0.0
    """1 000 bits a second; 0: no limit."""
    down_kbps: float = 0.0
    parcel_loss: float = 0.0
    """Of this member's publications: taken, passed on to nobody. This and all below is a hostile broker's."""
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share that is held back for up to `reorder_ms`, and overtaken."""
    reorder_ms: float = 50.0
    parcel_delay_ms: float = 0.0
    """Every publication is held back so long."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value, most = getattr(self, name), 0.9 if name == "loss" else 1.0
            if value < 0 or (name in _SHARES and value > most):
                raise BadInput(
                    f"{name} of a link is {value}", fix=f"0 to {most}" if name in _SHARES else ">= 0"
                )


_SHARES: Final = ("loss", "parcel_loss", "duplicate", "reorder")


class Path:
    """One direction of a member's line; shared by its connections."""

    __slots__ = (
        "bytes", "cut", "delay_ns", "free_ns", "jitter_ns", "loss", "ps_per_byte", "rng", "segments",
    )  # fmt: skip

    def __init__(self) -> None:
        self.delay_ns = self.jitter_ns = self.ps_per_byte = self.free_ns = 0
        self.loss = 0.0
        self.rng: Random | None = None  # None: nothing is drawn
        self.cut = 0
        """Partitions that stand on it."""
        self.bytes = self.segments = 0
        """Given to it, heads and repetitions included."""

    def shape(
        self, delay_ns: int, jitter_ms: float, loss: float, kbps: float, rng: Callable[[], Random]
    ) -> None:
        self.delay_ns = delay_ns
        self.jitter_ns = round(jitter_ms * MS)
        self.loss = loss
        self.ps_per_byte = round(8e9 / kbps) if kbps else 0
        if (self.jitter_ns or loss) and self.rng is None:
            self.rng = rng()


class Port:
    """A member's place at the network."""

    __slots__ = ("_rng", "_world", "down", "faulty", "local", "model", "name", "off", "up")

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.model = LinkModel()
        self.local = False
        self.off = False  # its machine has no power: what arrives there is not even refused
        self.faulty = False
        self.up, self.down = Path(), Path()
        self._world = world
        self._rng: Random | None = None

    def shape(self, model: LinkModel, local: bool) -> None:
        self.model = model
        self.local = local
        delay_ns = LOCAL_DELAY_NS if local else round((model.delay_ms + model.hop_ms) * MS)
        world, name = self._world, self.name
        jitter_ms, loss = (0.0, 0.0) if local else (model.jitter_ms, model.loss)
        up_kbps, down_kbps = (0.0, 0.0) if local else (model.up_kbps, model.down_kbps)
        self.up.shape(delay_ns, jitter_ms, loss, up_kbps, lambda: world.rng("network", name, "up"))
        self.down.shape(delay_ns, jitter_ms, loss, down_kbps, lambda: world.rng("network", name, "down"))
        self.faulty = bool(model.parcel_loss or model.duplicate or model.reorder or model.parcel_delay_ms)
        if self.faulty and self._rng is None:
            self._rng = world.rng("network", name, "parcels")

    def fates(self) -> tuple[int, ...]:
        """Of one publication of this member: a delay in nanoseconds for each copy that is passed on."""
        model, rng = self.model, self._rng
        assert rng is not None, "asked for a port without faults"
        if rng.random() < model.parcel_loss:
            return ()
        first = self._late(rng)
        return (first, self._late(rng)) if rng.random() < model.duplicate else (first,)

    def _late(self, rng: Random) -> int:
        model = self.model
        late_ns = round(model.parcel_delay_ms * MS)
        if rng.random() < model.reorder:
            late_ns += round(rng.random() * model.reorder_ms * MS)
        return late_ns


class Stream:
    """One direction of a connection: segments arrive once each and in order, or not at all.

    `receive` is called with the packets of each; None: nobody listens any more, and the sender is reset.
    """

    __slots__ = (
        "_again_at", "_back", "_connection", "_early", "_expected", "_expiry", "_last_ns", "_lost", "_next",
        "_on_room", "_path", "_port", "_rto_ns", "_unread", "_world", "dead", "flying", "orphan", "paused",
        "receive", "user_timeout_ns",
    )  # fmt: skip

    def __init__(self, connection: Connection, path: Path, back: Path) -> None:
        self._connection = connection
        self._world = connection.world
        self._port = connection.port
        self._path = path
        self._back = back
        self._next = self._expected = 0
        self._last_ns = 0
        self._early: dict[int, tuple[list[Any], int, int]] | None = None
        self._lost: list[tuple[int, list[Any], int, int]] = []
        self._rto_ns = 0
        self._again_at: Any = None
        self._expiry: Any = None
        self._unread: list[tuple[list[Any], int]] = []
        self._on_room: Callable[[], None] | None = None
        self.receive: Receive | None = None
        self.flying = 0
        """Bytes sent and not yet read at the other end."""
        self.paused = False
        self.dead = False
        self.orphan = False
        self.user_timeout_ns = 0

    @property
    def room(self) -> bool:
        return self.flying < WINDOW_BYTES

    def when_room(self, call: Callable[[], None]) -> None:
        """Once, when the other end has read enough."""
        self._on_room = call

    def send(self, packets: list[Any], size: int) -> None:
        """`size`: bytes of the packets; heads of TLS, TCP, IP are added here. Never refused: see `room`."""
        number = self._next
        self._next = number + 1
        self.flying += size
        path = self._path
        if path.ps_per_byte or path.rng is not None:
            self._transmit(number, packets, size, 0)
            return
        world = self._world  # the plain case, which is `_transmit` without what cannot happen in it
        path.bytes += SEGMENT_HEAD + size + size // PACKET_PAYLOAD * PACKET_HEAD
        path.segments += 1
        now_ns = world.now_ns
        at_ns = now_ns + path.delay_ns
        if at_ns < self._last_ns:
            at_ns = self._last_ns
        else:
            self._last_ns = at_ns
        world.at(at_ns, self._arrive, number, packets, size, now_ns)

    def pause(self) -> None:
        """The other end stops reading."""
        self.paused = True

    def resume(self) -> None:
        if not self.paused:
            return
        self.paused = False
        while self._unread and not self.paused:
            packets, size = self._unread.pop(0)  # at most a window's worth of segments
            self.flying -= size
            self._hand_over(packets)
        self._tell_room()

    def stop(self) -> None:
        """Nothing more happens in it."""
        self.dead = True
        self.receive = None
        self._on_room = None
        self._lost.clear()
        self._unread.clear()
        self._early = None
        for entry in (self._again_at, self._expiry):
            self._world.cancel(entry)
        self._again_at = self._expiry = None

    # ── on its way ────────────────────────────────────────────────────────────────────────────────

    def _transmit(self, number: int, packets: list[Any], size: int, first_ns: int) -> None:
        world, path = self._world, self._path
        at_ns = world.now_ns
        wire = SEGMENT_HEAD + size + size // PACKET_PAYLOAD * PACKET_HEAD
        path.bytes += wire
        path.segments += 1
        if path.ps_per_byte:
            at_ns = max(at_ns, path.free_ns) + wire * path.ps_per_byte // 1000
            path.free_ns = at_ns
        first_ns = first_ns or at_ns
        if path.rng is not None:
            at_ns += path.delay_ns + self._drawn_ns(path, path.rng, size, at_ns, first_ns)
        else:
            at_ns += path.delay_ns
        if at_ns < self._last_ns:
            at_ns = self._last_ns
        else:
            self._last_ns = at_ns
        world.at(at_ns, self._arrive, number, packets, size, first_ns)

    def _drawn_ns(self, path: Path, rng: Random, size: int, sent_ns: int, first_ns: int) -> int:
        """Jitter, and what repetitions of lost packets cost."""
        drawn_ns = round(rng.random() * path.jitter_ns) if path.jitter_ns else 0
        if path.loss and rng.random() >= (1.0 - path.loss) ** (1 + size // PACKET_PAYLOAD):
            rto_ns, tries = self._first_rto_ns(), 1
            late_ns = rto_ns
            while rng.random() < path.loss and tries < TRIES_MAX:
                rto_ns = min(2 * rto_ns, RTO_NS_MAX)
                late_ns += rto_ns
                tries += 1
            drawn_ns += late_ns
            if self.user_timeout_ns and sent_ns + late_ns >= first_ns + self.user_timeout_ns:
                self._world.at(first_ns + self.user_timeout_ns, self._give_up)
        return drawn_ns

    def _first_rto_ns(self) -> int:
        path, back = self._path, self._back
        return path.delay_ns + back.delay_ns + max(RTO_NS_MIN, 2 * path.jitter_ns)

    def _arrive(self, number: int, packets: list[Any], size: int, first_ns: int) -> None:
        if self.dead:
            return
        if self._path.cut or self._port.off:
            self._lose(number, packets, size, first_ns)
        elif number == self._expected:
            receive = self.receive
            if self.paused or self._back.cut or receive is None or packets is EOF:
                self._take(packets, size, number, first_ns)
            else:  # the plain case of `_take`
                self._expected = number + 1
                self.flying -= size
                self._rto_ns = 0
                receive(packets)
            early = self._early
            while early and not self.dead and (held := early.pop(self._expected, None)) is not None:
                self._take(held[0], held[1], self._expected, held[2])
            if self._on_room is not None:
                self._tell_room()
        elif number < self._expected:  # it came before, and its acknowledgement did not
            self._acknowledge(number, packets, size, first_ns)
            self._tell_room()
        else:
            if self._early is None:
                self._early = {}
            self._early[number] = (packets, size, first_ns)

    def _take(self, packets: list[Any], size: int, number: int, first_ns: int) -> None:
        self._expected += 1
        if self.paused:
            self._unread.append((packets, size))
            return
        if self._back.cut:
            self._lose(number, packets, size, first_ns)
        else:
            self.flying -= size
            self._rto_ns = 0
        self._hand_over(packets)

    def _acknowledge(self, number: int, packets: list[Any], size: int, first_ns: int) -> None:
        if self._back.cut:
            self._lose(number, packets, size, first_ns)
        else:
            self.flying -= size
            self._rto_ns = 0

    def _hand_over(self, packets: list[Any]) -> None:
        if packets is EOF:
            self._connection._closed_by_sender(self)
        elif self.receive is not None:
            self.receive(packets)
        elif not self.dead:
            self._world.after(self._back.delay_ns, self._connection._refused, self)

    def _tell_room(self) -> None:
        if self._on_room is not None and self.flying < WINDOW_BYTES:
            call, self._on_room = self._on_room, None
            call()

    # ── lost ──────────────────────────────────────────────────────────────────────────────────────

    def _lose(self, number: int, packets: list[Any], size: int, first_ns: int) -> None:
        self._lost.append((number, packets, size, first_ns))
        if self._again_at is None:
            self._rto_ns = self._rto_ns or self._first_rto_ns()
            now_ns = self._world.now_ns
            self._again_at = self._world.at(max(now_ns, first_ns) + self._rto_ns, self._again)
        if self.user_timeout_ns and self._expiry is None:
            self._expiry = self._world.at(first_ns + self.user_timeout_ns, self._expire)

    def _again(self) -> None:
        self._again_at = None
        self._rto_ns = min(2 * (self._rto_ns or self._first_rto_ns()), RTO_NS_MAX)
        if self.orphan and self._rto_ns > ORPHAN_RTO_NS_MAX:
            self.stop()
            return
        if self._path.cut or self._port.off:
            self._again_at = self._world.after(self._rto_ns, self._again)
            return
        lost, self._lost = sorted(self._lost, key=_number), []
        for number, packets, size, first_ns in lost:
            self._transmit(number, packets, size, first_ns)

    def _expire(self) -> None:
        self._expiry = None
        if not self._lost:
            return
        oldest_ns = min(first_ns for _, _, _, first_ns in self._lost) + self.user_timeout_ns
        if oldest_ns <= self._world.now_ns:
            self._give_up()
        else:
            self._expiry = self._world.at(oldest_ns, self._expire)

    def _give_up(self) -> None:
        if not self.dead:
            self._connection._sender_gave_up(self)


def _number(segment: tuple[int, list[Any], int, int]) -> int:
    return segment[0]


class Connection:
    """Between a member and whatever listens at the broker's host. `up` is the member's direction."""

    __slots__ = ("_client_ended", "_network", "_server_ended", "down", "port", "up", "world")

    def __init__(
        self, network: Network, port: Port, received: Receive, ended: Ended, user_timeout_ns: int
    ) -> None:
        self.world = network.world
        self.port = port
        self._network = network
        self._client_ended: Ended | None = ended
        self._server_ended: Ended | None = None
        self.up = Stream(self, port.up, port.down)
        self.down = Stream(self, port.down, port.up)
        self.up.user_timeout_ns = user_timeout_ns
        self.up.receive = self._knock
        self.down.receive = received

    def _knock(self, packets: list[Any]) -> None:
        accept = self._network.acceptor
        self.up.receive = None
        if accept is None:
            self.world.after(self.port.down.delay_ns, self._refused, self.up)
        else:
            accept(self, packets)

    def accept(self, received: Receive, ended: Ended) -> None:
        """Called by the acceptor."""
        self.up.receive = received
        self._server_ended = ended

    # ── the ends; each is told at most once how the other ended it, and nothing after it closed itself ──

    def close_client(self) -> None:
        """What was sent still arrives, then the end of the stream: as a kernel does for a killed process."""
        if self._client_ended is not None:
            self._client_ended = None
            self.down.stop()
            self.up.orphan = True
            self.up.when_room(_nothing)
            self.up.send(EOF, 0)

    def close_server(self) -> None:
        if self.up.receive is not None:
            self._server_ended = None
            self.up.receive = None
            self.up.resume()
            self.down.orphan = True
            self.down.when_room(_nothing)
            self.down.send(EOF, 0)

    def vanish_client(self) -> None:
        """Its machine is gone: no byte leaves it any more, and the broker hears nothing."""
        self._client_ended = None
        self.up.stop()
        self.down.receive = None
        self.down.paused = False

    def vanish_server(self) -> None:
        self._server_ended = None
        self.down.stop()
        self.up.receive = None
        self.up.paused = False

    def _closed_by_sender(self, stream: Stream) -> None:
        if stream is self.up:
            ended, self._server_ended = self._server_ended, None
            self.up.stop()
        else:
            ended, self._client_ended = self._client_ended, None
            self.down.stop()
            self.up.orphan = True
        if ended is not None:
            ended(CLOSED)

    def _refused(self, stream: Stream) -> None:
        """A reset on its way back to the sender of *stream*."""
        if not stream.dead and not stream._back.cut:
            self._sender_lost(stream, REFUSED if stream is self.up and not self.down._next else RESET)

    def _sender_gave_up(self, stream: Stream) -> None:
        self._sender_lost(stream, TIMED_OUT)

    def _sender_lost(self, stream: Stream, reason: str) -> None:
        stream.stop()
        if stream is self.up:
            ended, self._client_ended = self._client_ended, None
            if ended is not None:
                self.down.stop() if reason != TIMED_OUT else self._deaf()
        else:
            ended, self._server_ended = self._server_ended, None
            self.up.receive = None
        if ended is not None:
            ended(reason)

    def _deaf(self) -> None:
        """The client's kernel has forgotten the connection: what still comes for it is refused."""
        self.down.receive = None
        self.down.resume()


def _nothing() -> None:
    pass


class Partition:
    """What stands between; ``Network.heal`` takes it away."""

    __slots__ = ("_down", "_host", "_pairs", "_paths", "_up", "healed")

    def __init__(
        self, paths: list[Path], pairs: list[tuple[str, str]], *, host: bool, up: bool, down: bool
    ) -> None:
        self._paths = paths
        self._pairs = pairs
        self._host = host
        self._up = up
        self._down = down
        self.healed = False


class Network:
    """Every member's line to the one host of the broker. `acceptor` is the broker's while it listens."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.acceptor: Callable[[Connection, list[Any]], None] | None = None
        self.ports: dict[str, Port] = {}
        self.blocks: dict[str, dict[str, int]] = {}
        """sender -> readers whom its parcels do not reach, and how many blocks say so."""
        self._standing: dict[Partition, None] = {}

    def attach(self, node: str, model: LinkModel, *, local: bool = False) -> Port:
        """Or change its line: what is on its way is not touched. `local`: it runs on the broker's host."""
        port = self.ports.get(node)
        if port is None:
            port = self.ports[node] = Port(self.world, node)
            if not local:
                for partition in self._standing:
                    if partition._host:
                        self._cut_by_host(partition, port)
        port.shape(model, local)
        return port

    def connect(self, node: str, received: Receive, ended: Ended, *, user_timeout_ns: int = 0) -> Connection:
        """A new connection: nothing has been sent yet. `ended`: told once why, unless its client closes it.

        `user_timeout_ns`: TCP_USER_TIMEOUT of the client; 0: none.
        """
        return Connection(self, self.ports[node], received, ended, user_timeout_ns)

    # ── partitions ────────────────────────────────────────────────────────────────────────────────

    def partition(self, nodes: Iterable[str], *, up: bool = True, down: bool = True) -> Partition:
        """Between each of these and the broker's host. `up` alone: they hear, and are not heard."""
        paths: list[Path] = []
        for node in nodes:
            port = self.ports[node]
            paths += ([port.up] if up else []) + ([port.down] if down else [])
        return self._stand(Partition(paths, [], host=False, up=up, down=down))

    def isolate_host(self, *, up: bool = True, down: bool = True) -> Partition:
        """The broker's host from everybody who is not on it; also from those who come later."""
        partition = Partition([], [], host=True, up=up, down=down)
        self._stand(partition)
        for port in self.ports.values():
            if not port.local:
                self._cut_by_host(partition, port)
        return partition

    def block(self, senders: Iterable[str], readers: Iterable[str]) -> Partition:
        """Parcels of these do not reach those; the broker takes them and says nothing."""
        readers = list(readers)
        pairs = [(sender, reader) for sender in senders for reader in readers if sender != reader]
        for sender, reader in pairs:
            blocked = self.blocks.setdefault(sender, {})
            blocked[reader] = blocked.get(reader, 0) + 1
        return self._stand(Partition([], pairs, host=False, up=False, down=False))

    def heal(self, partition: Partition) -> None:
        """Idempotent."""
        if partition.healed:
            return
        partition.healed = True
        del self._standing[partition]
        for path in partition._paths:
            path.cut -= 1
        for sender, reader in partition._pairs:
            blocked = self.blocks[sender]
            blocked[reader] -= 1
            if not blocked[reader]:
                del blocked[reader]
            if not blocked:
                del self.blocks[sender]

    def heal_all(self) -> None:
        for partition in list(self._standing):
            self.heal(partition)

    def _stand(self, partition: Partition) -> Partition:
        for path in partition._paths:
            path.cut += 1
        self._standing[partition] = None
        return partition

    @staticmethod
    def _cut_by_host(partition: Partition, port: Port) -> None:
        for path, wanted in ((port.up, partition._up), (port.down, partition._down)):
            if wanted:
                path.cut += 1
                partition._paths.append(path)
