"""The broker of a gateway: chosen, started or adopted, watched, told of its members.

The shell around ``supervisor``. One folder, `<home>/broker` (0700): configuration, pid record, secret;
its log is `<home>/log/broker.log`. Both programs outlive a killed gateway and are adopted again.

    broker = Broker(home=…, …)
    await broker.start()               # listening, or an error that names cause and fix
    house.create_task(broker.run())    # watches and restarts it, until cancelled or stopped
    await broker.set_members(bearers)  # live; names and keys, ``security.identity.bearer``
    await broker.stop()                # kill=False leaves it for the next gateway to adopt
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from edge_node.clock import Clock, SystemClock
from edge_node.transport.inbox import Inbox
from gateway.broker import supervisor as sv
from gateway.broker.access import Listener
from gateway.broker.embedded import Embedded
from gateway.broker.mosquitto import Mosquitto
from gateway.broker.process import Process, Record, boot_id
from security.errors import BadInput, Unavailable

_LOG = logging.getLogger(__name__)

KINDS: Final = ("auto", "mosquitto", "embedded")
PROBE_S: Final = 0.05
POLL_S: Final = 0.2  # only where the kernel has no pidfd
LOG_BYTES_SHOWN: Final = 4096


class Program(Protocol):
    """What a broker program must know: ``mosquitto`` and ``embedded``."""

    kind: str
    cwd: Path

    def prepare(self, members: Iterable[str]) -> None: ...
    def digest(self) -> str: ...
    def command(self) -> list[str]: ...
    async def set_members(self, members: Iterable[str]) -> bool: ...


class Broker:
    """See the module's docstring. Errors: BadInput (a flag does not fit), Unavailable (cause and fix)."""

    def __init__(
        self,
        *,
        home: Path,
        mesh_id: str,
        host: str,
        port: int,
        ca_file: Path,
        cert_file: Path,
        key_file: Path,
        kind: str = "auto",
        members: Iterable[str] = (),
        clock: Clock | None = None,
        on_untold: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_untold``: it is up and did not take its members: ``set_members`` is to be called again."""
        if kind not in KINDS:
            raise BadInput(f"no broker {kind!r}", fix=f"--broker takes {', '.join(KINDS)}")
        self.host = host
        self.port = port
        self.restarts = 0
        self._clock = clock if clock is not None else SystemClock()
        self._on_untold = on_untold
        self._members = set(members)
        self._folder = home / "broker"
        self._log_file = home / "log" / "broker.log"
        for folder in (self._folder, self._log_file.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._listener = Listener(
            mesh=mesh_id,
            host=host,
            port=port,
            ca_file=str(ca_file.resolve()),
            cert_file=str(cert_file.resolve()),
            key_file=str(key_file.resolve()),
            folder=str(self._folder.resolve()),
            log_file=str(self._log_file.resolve()),
        )
        self._record_file = self._folder / "running.json"
        self._wanted_kind = kind
        self._program: Program | None = None
        self._core: sv.Supervisor | None = None
        self._process: Process | None = None
        self._has_pidfd = True
        self._log_start = 0
        self._probing = False
        self._inbox = Inbox()
        self._pumping = False
        self._over = asyncio.Event()
        self._changing = asyncio.Lock()

    @property
    def kind(self) -> str:
        """ "mosquitto" or "embedded"; known after `start`."""
        assert self._program is not None, "start first"
        return self._program.kind

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def up(self) -> bool:
        return self._core is not None and self._core.state == "running"

    async def start(self) -> None:
        """Return once it listens and knows its members.

        Raises: BadInput, Unavailable: it cannot run here; nothing was left behind.
        """
        self._program = self._choose()
        self._core = sv.Supervisor(self._program.digest())
        self._inbox.put_local(self._found())
        await self._pump(("running",))

    async def run(self) -> None:
        """Watch and restart; returns after `stop`."""
        assert self._core is not None, "start first"
        self._pumping = True
        try:
            await self._pump(())
        finally:
            self._pumping = False

    async def set_members(self, ids: Iterable[str]) -> None:
        """Let exactly these bearers in, the gateway among them; kept for restarts even if it raises.

        Raises: Unavailable: the broker does not answer now; it learns them when it is back.
        """
        self._members = set(ids)
        if self.up and self._program is not None:
            async with self._changing:
                await self._program.set_members(self._members)

    def reload_certificate(self) -> None:
        """New connections are shown the certificate that lies on disk now; those that stand are untouched."""
        self._signal(signal.SIGHUP)

    async def stop(self, *, kill: bool = True) -> None:
        """End it, or (kill=False) only let go of it."""
        if self._core is not None and self._core.state not in ("stopped", "given up"):
            self._inbox.put_local(sv.Stop(kill))
            if self._pumping:
                await self._over.wait()
            else:
                await self._pump(())
        if self._process is not None:
            self._process.close()
            self._process = None

    # ---- the loop ------------------------------------------------------------------------------------

    async def _pump(self, until: tuple[str, ...]) -> None:
        core = self._core
        assert core is not None
        while core.state not in until and core.state != "stopped":
            events = await self._inbox.take(self._wait_s())
            if self._probing and await self._answers():
                self._probing = False
                events.append(sv.Listening(core.pid))
            if not self._has_pidfd and self._process is not None and not self._process.alive:
                events.append(sv.Gone(self._process.pid, self._last_words()))
            for event in events:
                for effect in core.handle(self._clock.now_ns(), event):
                    await self._carry_out(effect)
            for effect in core.tick(self._clock.now_ns()):
                await self._carry_out(effect)
        if core.state == "stopped":
            self._over.set()

    def _wait_s(self) -> float | None:
        assert self._core is not None
        deadline_ns = self._core.deadline_ns()
        waits = [] if deadline_ns is None else [max(0.0, (deadline_ns - self._clock.now_ns()) / 1e9)]
        if self._probing:
            waits.append(PROBE_S)
        if not self._has_pidfd:
            waits.append(POLL_S)
        return min(waits, default=None)

    async def _carry_out(self, effect: sv.Effect) -> None:
        match effect:
            case sv.Spawn():
                self._spawn()
            case sv.Probe(pid):
                self._probing = True
                self._watch(pid)
            case sv.Terminate(_, hard):
                if self._process is not None:
                    self._process.send(signal.SIGKILL if hard else signal.SIGTERM)
            case sv.Remember(pid, digest):
                assert self._process is not None
                record = Record(pid, self._process.started, boot_id(), self.kind, digest)
                try:
                    record.write(self._record_file)
                except OSError as error:  # it serves all the same; a gateway that is killed will not find it
                    _LOG.error("the broker's record cannot be written: %s", error.strerror)
            case sv.Forget():
                self._probing = False
                with contextlib.suppress(OSError):  # a record of a dead process misleads nobody
                    self._record_file.unlink(missing_ok=True)
            case sv.Up(adopted=adopted):
                if adopted:  # it may have been renewed while nobody was there to tell it
                    self.reload_certificate()
                await self._tell_members()
            case sv.Down(reason):
                self.restarts += 1
                _LOG.warning("broker is down, starting it again: %s", reason)
            case sv.GiveUp(reason):
                raise Unavailable(f"{self.kind} did not start: {reason}", fix=f"see {self._log_file}")
            case sv.Stopped():
                pass

    async def _tell_members(self) -> None:
        """Also after an adoption: members may have joined or left while nobody was there to tell it."""
        assert self._program is not None
        async with self._changing:
            try:
                await self._program.set_members(self._members)
            except Unavailable as error:
                _LOG.warning("%s", error)
                self._on_untold()

    # ---- processes -----------------------------------------------------------------------------------

    def _choose(self) -> Program:
        if self._wanted_kind != "embedded":
            try:
                return Mosquitto.find(self._listener)
            except Unavailable:
                if self._wanted_kind == "mosquitto":
                    raise
        return Embedded.find(self._listener, self._signal)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send(number)

    def _found(self) -> sv.Found:
        record = Record.read(self._record_file)
        if record is None or not record.is_alive():
            return sv.Found()
        process = Process(record.pid, record.started)
        if not process.alive:  # asked again now that the pidfd holds it
            process.close()
            return sv.Found()
        self._process = process
        return sv.Found(record.pid, record.digest)

    def _spawn(self) -> None:
        assert self._program is not None
        if self._process is not None:
            self._process.close()
            self._process = None
        try:
            self._log_file.touch(mode=0o600)
            self._log_start = self._log_file.stat().st_size
            self._check_port()
            self._program.prepare(self._members)
            self._process = Process.spawn(self._program.command(), cwd=self._program.cwd, log=self._log_file)
        except (Unavailable, BadInput) as error:  # our address may be gone for a while
            if not self.restarts:
                raise
            self._inbox.put_local(sv.SpawnFailed(str(error)))
        except OSError as error:
            self._inbox.put_local(sv.SpawnFailed(str(error)))
        else:
            self._inbox.put_local(sv.Spawned(self._process.pid))

    def _watch(self, pid: int) -> None:
        process = self._process
        assert process is not None
        assert process.pid == pid

        def gone() -> None:
            process.close()
            killed_by = process.killed_by()
            reason = f"killed by {killed_by}" if killed_by else self._last_words()
            self._inbox.put_local(sv.Gone(pid, reason))

        self._has_pidfd = process.watch(gone)

    def _check_port(self) -> None:
        """Ask before a broker does: its own words for it differ, and this names our flag."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(self.address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise Unavailable(
                        f"port {self.port} on {self.host} is in use",
                        fix="stop what listens there, or choose another with --broker-port",
                    ) from error
                if error.errno in (errno.EACCES, errno.EPERM):
                    raise BadInput(
                        f"port {self.port} may not be opened", fix="choose one above 1023 with --broker-port"
                    ) from error
                raise BadInput(
                    f"{self.host} is not an address of this machine", fix="choose another with --listen"
                ) from error

    async def _answers(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        try:
            async with asyncio.timeout(1.0):
                _, writer = await asyncio.open_connection(host, self.port)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    def _last_words(self) -> str:
        """The last error in its log since it was started, or else its last line."""
        try:
            with self._log_file.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - LOG_BYTES_SHOWN))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        errors = [line for line in lines if "Error" in line]
        said = (errors or lines or ["it ended without a word"])[-1]
        return said.strip()[:300]
