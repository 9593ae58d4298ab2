"""Parcels: the numbered, acknowledged, coalescing stream of messages to and from one peer.

    post(message) -> waiting lanes -> parcel() -> [1, low, [[n, message], ...]] -> sealed elsewhere
    arrived(low, items) -> new messages;  an Ack rides on the next parcel, or goes alone after 20 ms

Paho costs tens of microseconds a message and the AEAD one, so all that accumulates in a loop turn goes
into one parcel, and with four parcels unacknowledged the rest waits and coalesces further: batches grow
by themselves under load. Live messages go before bulk (whatever is large: inputs, chunks of bodies), and
bulk never has the last of the four parcels.

What has not left our own line yet is not sent again: a copy would only queue behind what it is a copy of
(and what was sent twice tells no round trip: Karn and Partridge, "Improving Round-Trip Time Estimates in
Reliable Transport Protocols", 1987).

A message keeps its number when it is sent again; only the parcel around it is new. Nothing here is
durable and nothing is a promise of order: the store of record is the ledger, and every message is
idempotent by its own key. What is here merely saves the retries from being needed.
Not here: sealing (`security.session`), which peer is up (`channel`), the durable outbox (ledger rows).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from edge_node.wire import messages
from edge_node.wire.codec import encode_message, pack
from security.errors import ProtocolViolation, Refused

MS = 1_000_000
SECOND = 1_000_000_000
LOOSE_MAX = 64
"""Unacknowledged messages that wait for their parcel; only the newest matter."""


class ParcelLimits(msgspec.Struct, frozen=True):
    """Bounds of one stream."""

    parcel_bytes: int = 128 * 1024  # a larger parcel delays the live lane by its own transmission
    message_bytes: int = 255 * 1024  # alone in its parcel, which is refused above 256 KiB
    parcel_items: int = 512  # bounds the decode time at the receiver (~0.3 ms)
    live_bytes: int = 4 * 1024  # a larger message travels in the bulk lane, whatever it says
    in_flight_max: int = 4  # unacknowledged parcels; more only fills the broker's queue
    ack_delay_ns: int = 20 * MS  # an Ack waits this long for traffic to ride on
    ack_every: int = 2  # … but not for more than so many parcels: the sender's window is 4
    resend_ns: int = 1 * SECOND  # first re-send, or twice the round trip; doubles up to resend_max_ns
    resend_max_ns: int = 8 * SECOND  # … or what the first took, at most twice as long
    ttl_ns: int = 120 * SECOND  # given up after this: leases have long moved the work elsewhere
    messages_max: int = 10_000  # waiting and unacknowledged; then Refused
    bytes_max: int = 64 * 1024 * 1024
    gap_max: int = 16_384  # numbers a receiver keeps above the first missing one


class _Out(msgspec.Struct):
    raw: bytes
    expires_ns: int
    tries: int = 0
    sent_ns: int = 0
    resend_ns: int = 0
    held: bool = False  # it was due while it had not left our line


class Counters(msgspec.Struct):
    sent: int = 0
    resent: int = 0
    given_up: int = 0
    duplicates: int = 0
    parcels_out: int = 0
    parcels_in: int = 0
    bytes_in: int = 0  # of sealed parcels that were opened; counted by ``channel``
    bytes_out: int = 0


class _Window(msgspec.Struct):
    last: int  # highest number in the parcel
    left: int  # numbers of it that are unacknowledged
    sent_ns: int = 0


_NONE: deque[Any] = deque(maxlen=0)
"""A lane in which nothing waits: a deque takes 0.6 KB, and of most streams three of four stay empty."""


class Stream:
    """Both directions of the conversation with one peer; a core."""

    __slots__ = (
        "_above", "_ack_due_ns", "_bulk", "_bytes", "_flying", "_live", "_loose", "_next_n",
        "_next_resend_ns", "_parcel_of", "_resend", "_resend_bulk", "_salt", "_unacked",
        "_unanswered_parcels", "_up_to", "counters", "limits", "rtt_dev_ns", "rtt_ns",
    )  # fmt: skip

    def __init__(self, limits: ParcelLimits | None = None, salt: int = 0) -> None:
        """``salt``: any number; streams of different ones do not send again in step."""
        self._salt = salt
        self.limits = limits or ParcelLimits()
        self.counters = Counters()
        self.rtt_ns: int | None = None
        self.rtt_dev_ns = 0
        """Its mean deviation (RFC 6298)."""
        self._next_n = 1
        self._live: deque[tuple[int, bytes]] = _NONE  # (expires_ns, raw); numbered when first sent
        self._bulk: deque[tuple[int, bytes]] = _NONE
        self._loose: deque[bytes] = _NONE  # unacknowledged: the newest matter
        self._resend: deque[int] = _NONE
        self._resend_bulk: deque[int] = _NONE
        self._unacked: dict[int, _Out] = {}
        self._parcel_of: dict[int, _Window] = {}
        self._flying = 0
        self._bytes = 0
        self._next_resend_ns: int | None = None
        self._up_to = 0
        self._above: set[int] = set()
        self._ack_due_ns: int | None = None
        self._unanswered_parcels = 0

    # -- sending -----------------------------------------------------------------------------------

    def post(self, now_ns: int, message: messages.Message, *, bulk: bool = False) -> None:
        """Queue a message for acknowledged delivery.

        Raises: Refused: it fits no parcel, or the stream is full; nothing was queued.
        """
        raw = encode_message(message)
        limits = self.limits
        if len(raw) > limits.message_bytes:
            raise Refused("message too large for a parcel", fix="send it as a body, by its digest")
        queued = len(self._live) + len(self._bulk) + len(self._unacked)
        if queued >= limits.messages_max or self._bytes + len(raw) > limits.bytes_max:
            raise Refused("outbox full", fix="the peer is slow or away; try again later")
        self._bytes += len(raw)
        if bulk or len(raw) > limits.live_bytes:
            if self._bulk is _NONE:
                self._bulk = deque()
            self._bulk.append((now_ns + limits.ttl_ns, raw))
        else:
            if self._live is _NONE:
                self._live = deque()
            self._live.append((now_ns + limits.ttl_ns, raw))

    def post_loose(self, message: messages.Message) -> None:
        """Queue an unacknowledged message (beat, probe): the newest ``LOOSE_MAX`` are kept."""
        if self._loose is _NONE:
            self._loose = deque(maxlen=LOOSE_MAX)
        self._loose.append(encode_message(message))

    @property
    def idle(self) -> bool:
        """Nothing to send and nothing unacknowledged."""
        return not (self._live or self._bulk or self._loose or self._unacked)

    @property
    def waiting(self) -> bool:
        """A reason to have a session with this peer."""
        return bool(self._live or self._bulk or self._unacked or self._loose)

    @property
    def backlog_bytes(self) -> int:
        return self._bytes

    @property
    def backlog(self) -> int:
        return len(self._live) + len(self._bulk) + len(self._unacked)

    def sendable(self, now_ns: int, *, bulk: bool = True) -> bool:
        """Would ``parcel`` give one, were there room on the line?"""
        if self._loose or self._ack_owed(now_ns):
            return True
        free = self.limits.in_flight_max - self._flying
        if free <= 0:
            return False
        if self._live or self._resend:
            return True
        return bulk and free > 1 and bool(self._bulk or self._resend_bulk)

    def parcel(
        self, now_ns: int, *, empty: bool = False, bulk: bool = True, room: int = 1 << 30
    ) -> bytes | None:
        """The plaintext of the next parcel, or None if there is nothing to send now.

        Args: empty: build one even if idle (it confirms the keys of a new session).
            bulk: with large messages.   room: bytes that it may put on the line; a single larger message
            goes, unless it is 0: then nothing but what is never acknowledged.
        """
        if not empty and not self.sendable(now_ns, bulk=bulk):
            return None
        items: list[tuple[int, bytes]] = []
        size = 0
        limits = self.limits
        if self._unanswered_parcels or self._ack_due_ns is not None:
            raw = encode_message(self._ack())
            items.append((0, raw))
            size += len(raw)
        while self._loose and len(items) < limits.parcel_items and size < limits.parcel_bytes:
            raw = self._loose.popleft()
            items.append((0, raw))
            size += len(raw)
        free = limits.in_flight_max - self._flying
        if free > 0 and room > 0:
            window = _Window(0, 0, now_ns)
            most = room if room < limits.parcel_bytes else limits.parcel_bytes
            size = self._fill_again(now_ns, self._resend, items, size, most, window)
            size = self._fill_new(now_ns, self._live, items, size, most, window)
            if bulk and free > 1:
                size = self._fill_again(now_ns, self._resend_bulk, items, size, most, window)
                self._fill_new(now_ns, self._bulk, items, size, most, window)
            if window.left:
                self._flying += 1
        if not self._live:
            self._live = _NONE
        if not self._loose:
            self._loose = _NONE
        if not items and not empty:
            return None
        self.counters.parcels_out += 1
        return pack(self._low(), items)

    def _fill_again(
        self,
        now_ns: int,
        lane: deque[int],
        items: list[tuple[int, bytes]],
        size: int,
        most: int,
        window: _Window,
    ) -> int:
        items_max = self.limits.parcel_items
        while lane and len(items) < items_max:
            out = self._unacked.get(lane[0])
            if out is None:
                lane.popleft()
                continue
            if size and size + len(out.raw) > most:
                break
            n = lane.popleft()
            self.counters.resent += 1
            items.append((n, out.raw))
            size += len(out.raw)
            self._launch(now_ns, n, out, window)
        return size

    def _fill_new(
        self,
        now_ns: int,
        lane: deque[tuple[int, bytes]],
        items: list[tuple[int, bytes]],
        size: int,
        most: int,
        window: _Window,
    ) -> int:
        items_max = self.limits.parcel_items
        while lane and len(items) < items_max:
            expires_ns, raw = lane[0]
            if expires_ns <= now_ns:
                lane.popleft()
                self._bytes -= len(raw)
                self.counters.given_up += 1
                continue
            if size and size + len(raw) > most:
                break
            lane.popleft()
            n = self._next_n
            self._next_n += 1
            out = self._unacked[n] = _Out(raw, expires_ns)
            self.counters.sent += 1
            items.append((n, raw))
            size += len(raw)
            self._launch(now_ns, n, out, window)
        return size

    def _launch(self, now_ns: int, n: int, out: _Out, window: _Window) -> None:
        out.tries += 1
        out.sent_ns = now_ns
        out.held = False
        out.resend_ns = now_ns + self._patience_ns(n, out.tries)
        if self._next_resend_ns is None or out.resend_ns < self._next_resend_ns:
            self._next_resend_ns = out.resend_ns
        window.last = max(window.last, n)
        window.left += 1
        self._parcel_of[n] = window

    def _patience_ns(self, n: int, tries: int) -> int:
        """Not before its answer may be here: on a slow line copies delay what they are copies of."""
        limits, rtt_ns = self.limits, self.rtt_ns or 0
        longest_ns = limits.resend_max_ns
        first_ns = max(limits.resend_ns, 2 * rtt_ns, rtt_ns + 4 * self.rtt_dev_ns)
        first_ns = min(first_ns, 2 * longest_ns)
        wait_ns = min(first_ns << min(tries - 1, 6), max(longest_ns, first_ns))
        if tries > 1:  # what was lost together does not come back together
            wait_ns += wait_ns * ((n * 2_654_435_761 ^ self._salt) >> 8 & 0xFF) // 1024
        return wait_ns

    def _low(self) -> int:
        # Numbers are handed out in rising order and dict order is insertion order, so the first
        # unacknowledged key is the lowest.
        return next(iter(self._unacked), self._next_n)

    def _acknowledged(self, now_ns: int, n: int) -> None:
        out = self._unacked.pop(n, None)
        if out is None:
            return
        self._bytes -= len(out.raw)
        window = self._parcel_of.pop(n)
        window.left -= 1
        if out.tries == 1 and n == window.last:
            self.answered(now_ns - window.sent_ns)
        if window.left == 0:
            self._flying -= 1

    def answered(self, took_ns: int) -> None:
        """A question found its answer after so long: smoothed as in RFC 6298.

        At most so much counts: an answer that lay about for a minute tells of an outage, not of the way, and
        who waits for several of those to pass sends nothing again in time.
        """
        took_ns = min(took_ns, self.limits.resend_max_ns)
        if self.rtt_ns is None:
            self.rtt_ns, self.rtt_dev_ns = took_ns, took_ns // 2
        else:
            self.rtt_dev_ns += (abs(took_ns - self.rtt_ns) - self.rtt_dev_ns) // 4
            self.rtt_ns += (took_ns - self.rtt_ns) // 8

    def acked(self, now_ns: int, ack: messages.Ack) -> None:
        """The peer's acknowledgement arrived.

        Raises: ProtocolViolation: it acknowledges what was never sent.
        """
        if ack.up_to >= self._next_n or ack.up_to < 0 or len(ack.bitmap) > 512:
            raise ProtocolViolation("acknowledgement of unsent messages")
        for n in list(self._unacked):
            if n > ack.up_to:
                break
            self._acknowledged(now_ns, n)
        for i, byte in enumerate(ack.bitmap):
            for bit in range(8):
                if byte >> bit & 1:
                    self._acknowledged(now_ns, ack.up_to + 2 + 8 * i + bit)

    def resend_all(self) -> None:
        """A fresh session or link: whatever is unacknowledged may be lost, send it again at once."""
        self._resend = self._resend_bulk = _NONE
        self._send_again(self._unacked)
        for window in {id(w): w for w in self._parcel_of.values()}.values():
            window.left = 0
        self._parcel_of = {n: _Window(n, -1) for n in self._unacked}
        self._flying = 0
        self._next_resend_ns = None

    def _send_again(self, numbers: Iterable[int]) -> None:
        """Into their lanes, behind what is there."""
        large = self.limits.live_bytes
        for n in numbers:
            if len(self._unacked[n].raw) > large:
                if self._resend_bulk is _NONE:
                    self._resend_bulk = deque()
                self._resend_bulk.append(n)
            else:
                if self._resend is _NONE:
                    self._resend = deque()
                self._resend.append(n)

    # -- receiving ---------------------------------------------------------------------------------

    def arrived(self, now_ns: int, low: int, items: Sequence[tuple[int, Any]]) -> list[Any]:
        """Take a parcel in: the messages that are new, in parcel order; acknowledgements are consumed.

        Raises: ProtocolViolation: impossible numbers.
        """
        self.counters.parcels_in += 1
        if low - 1 > self._up_to:
            self._up_to = low - 1
            if self._above:
                self._above = {n for n in self._above if n > self._up_to}
                self._advance()
        fresh: list[Any] = []
        numbered = False
        for n, message in items:
            if n == 0:
                if type(message) is messages.Ack:
                    self.acked(now_ns, message)
                else:
                    fresh.append(message)
                continue
            numbered = True
            if n < 0 or n > self._up_to + self.limits.gap_max:
                raise ProtocolViolation("message number out of range")
            if n <= self._up_to or n in self._above:
                self.counters.duplicates += 1
                continue
            if n == self._up_to + 1:
                self._up_to = n
                if self._above:
                    self._advance()
            else:
                self._above.add(n)
            fresh.append(message)
        if numbered:
            self._unanswered_parcels += 1
            if self._ack_due_ns is None:
                self._ack_due_ns = now_ns + self.limits.ack_delay_ns
        return fresh

    def _advance(self) -> None:
        while self._up_to + 1 in self._above:
            self._up_to += 1
            self._above.discard(self._up_to)

    def _ack_owed(self, now_ns: int) -> bool:
        if self._unanswered_parcels >= self.limits.ack_every:
            return True
        return self._ack_due_ns is not None and self._ack_due_ns <= now_ns

    def _ack(self) -> messages.Ack:
        self._ack_due_ns = None
        self._unanswered_parcels = 0
        if not self._above:
            return messages.Ack(self._up_to)
        base = self._up_to + 2
        bits = bytearray(min(512, (max(self._above) - base) // 8 + 1))
        for n in self._above:
            index = n - base
            if index < len(bits) * 8:
                bits[index // 8] |= 1 << (index % 8)
        return messages.Ack(self._up_to, bytes(bits))

    def peer_restarted(self) -> None:
        """The peer lost its memory: its numbers begin anew, ours go on (it aligns to our ``low``)."""
        self._up_to = 0
        self._above.clear()
        self._ack_due_ns = None
        self._unanswered_parcels = 0

    # -- time --------------------------------------------------------------------------------------

    def tick(self, now_ns: int, untaken_since_ns: int | None = None) -> None:
        """Mark what is due for another try; give up what is too old.

        Args: untaken_since_ns: what was sent from then on has not left our line for certain.
        """
        if self._next_resend_ns is None or self._next_resend_ns > now_ns:
            return
        due: list[int] = []
        earliest: int | None = None
        queued = {*self._resend, *self._resend_bulk}
        for n, out in list(self._unacked.items()):
            if out.expires_ns <= now_ns:
                self._give_up(n, out)
                continue
            if out.resend_ns <= now_ns and n not in queued:
                untaken = untaken_since_ns is not None and out.sent_ns >= untaken_since_ns
                if not untaken and not out.held:
                    due.append(n)
                    continue
                # It has its whole time again once it has left.
                out.resend_ns = now_ns + (
                    self.limits.resend_ns if untaken else self._patience_ns(n, out.tries)
                )
                out.held = untaken
            if out.resend_ns > now_ns and (earliest is None or out.resend_ns < earliest):
                earliest = out.resend_ns
        for n in due:
            window = self._parcel_of[n]
            window.left -= 1
            if window.left == 0:
                self._flying -= 1
            self._parcel_of[n] = _Window(n, -1)
        self._send_again(due)
        self._next_resend_ns = earliest

    def _give_up(self, n: int, out: _Out) -> None:
        del self._unacked[n]
        self._bytes -= len(out.raw)
        self.counters.given_up += 1
        window = self._parcel_of.pop(n)
        window.left -= 1
        if window.left == 0:
            self._flying -= 1

    def deadline_ns(self) -> int | None:
        candidates = [d for d in (self._ack_due_ns, self._next_resend_ns) if d is not None]
        return min(candidates, default=None)

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert self._unacked.keys() == self._parcel_of.keys()
        windows = {id(w): w for w in self._parcel_of.values() if w.left > 0}
        assert self._flying == len(windows), (self._flying, len(windows))
        assert self._bytes == sum(len(o.raw) for o in self._unacked.values()) + sum(
            len(raw) for lane in (self._live, self._bulk) for _, raw in lane
        )
        assert list(self._unacked) == sorted(self._unacked)
        assert all(n > self._up_to + 1 for n in self._above)
