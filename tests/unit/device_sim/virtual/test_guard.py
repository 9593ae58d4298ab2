"""Each way out of the world is refused, and everything is as before when the guard ends."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import io
import logging
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import types
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from device_sim.virtual.guard import OUTSIDE, LeakedOutside, _refused, guard
from device_sim.virtual.loop import VirtualLoop
from device_sim.virtual.world import SECOND, World
from edge_node.clock import SystemClock
from edge_node.functions import values
from edge_node.store.documents import DocumentTable
from security.identity import NodeKeys

WAYS = {
    "time.time": lambda: time.time(),
    "time.time_ns": lambda: time.time_ns(),
    "time.monotonic": lambda: time.monotonic(),
    "time.monotonic_ns": lambda: time.monotonic_ns(),
    "time.perf_counter": lambda: time.perf_counter(),
    "time.perf_counter_ns": lambda: time.perf_counter_ns(),
    "time.process_time": lambda: time.process_time(),
    "time.process_time_ns": lambda: time.process_time_ns(),
    "time.thread_time": lambda: time.thread_time(),
    "time.thread_time_ns": lambda: time.thread_time_ns(),
    "time.clock_gettime": lambda: time.clock_gettime(time.CLOCK_REALTIME),
    "time.clock_gettime_ns": lambda: time.clock_gettime_ns(time.CLOCK_REALTIME),
    "time.gmtime": lambda: time.gmtime(),
    "time.localtime": lambda: time.localtime(),
    "time.ctime": lambda: time.ctime(),
    "time.asctime": lambda: time.asctime(),
    "time.strftime": lambda: time.strftime("%Y"),
    "time.sleep": lambda: time.sleep(0),
    "os.urandom": lambda: os.urandom(1),
    "os.getrandom": lambda: os.getrandom(1),
    "random.Random": lambda: random.Random(),
    "os.urandom  ": lambda: secrets._sysrand.random(),
    "random.random": lambda: random.random(),
    "random.seed": lambda: random.seed(1),
    "random.uniform": lambda: random.uniform(0, 1),
    "random.randint": lambda: random.randint(0, 1),
    "random.randrange": lambda: random.randrange(2),
    "random.choice": lambda: random.choice([1, 2]),
    "random.choices": lambda: random.choices([1, 2]),
    "random.sample": lambda: random.sample([1, 2], 1),
    "random.shuffle": lambda: random.shuffle([1, 2]),
    "random.getrandbits": lambda: random.getrandbits(8),
    "random.randbytes": lambda: random.randbytes(8),
    "random.expovariate": lambda: random.expovariate(1),
    "random.gauss": lambda: random.gauss(0, 1),
    "secrets.token_bytes": lambda: secrets.token_bytes(1),
    "secrets.token_hex": lambda: secrets.token_hex(1),
    "secrets.token_urlsafe": lambda: secrets.token_urlsafe(1),
    "secrets.choice": lambda: secrets.choice([1, 2]),
    "secrets.randbelow": lambda: secrets.randbelow(2),
    "secrets.randbits": lambda: secrets.randbits(2),
    "uuid.uuid1": lambda: uuid.uuid1(),
    "uuid.uuid4": lambda: uuid.uuid4(),
    "uuid.getnode": lambda: uuid.getnode(),
    "X25519PrivateKey.generate": lambda: x25519.X25519PrivateKey.generate(),
    "Ed25519PrivateKey.generate": lambda: ed25519.Ed25519PrivateKey.generate(),
    "ec.generate_private_key": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa.generate_private_key": lambda: rsa.generate_private_key(65537, 2048),
    "os.urandom ": lambda: x509.random_serial_number(),
    "socket.socket": lambda: socket.socket(),
    "socket.socketpair": lambda: socket.socketpair(),
    "socket.create_connection": lambda: socket.create_connection(("127.0.0.1", 1)),
    "socket.create_server": lambda: socket.create_server(("127.0.0.1", 0)),
    "socket.getaddrinfo": lambda: socket.getaddrinfo("localhost", 1),
    "socket.gethostbyname": lambda: socket.gethostbyname("localhost"),
    "socket.gethostname": lambda: socket.gethostname(),
    "socket.getfqdn": lambda: socket.getfqdn(),
    "threading.Thread.start": lambda: threading.Thread(target=print).start(),
    "threading.Thread.start ": lambda: threading.Timer(0, print).start(),
    "_thread.start_new_thread": lambda: sys.modules["_thread"].start_new_thread(print, ()),
    "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
    "os.fork": lambda: os.fork(),
    "os.system": lambda: os.system("true"),
    "os.posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "open": lambda: open("/nowhere/file", "w"),  # noqa: PTH123, SIM115
    "open ": lambda: io.open("/nowhere/file", "ab"),  # noqa: SIM115, UP020
    "open  ": lambda: Path("/nowhere/file").write_text("x"),
    "open   ": lambda: Path("/nowhere/file").open("r+"),  # noqa: SIM115
    "os.open": lambda: os.open("/nowhere/file", os.O_WRONLY | os.O_CREAT),
    "os.mkdir": lambda: Path("/nowhere/folder").mkdir(),
    "os.unlink": lambda: Path("/nowhere/file").unlink(),
    "os.rename": lambda: Path("/nowhere/file").rename("/nowhere/other"),
    "os.replace": lambda: Path("/nowhere/file").replace("/nowhere/other"),
    "random.Random ": lambda: tempfile.mkdtemp(),
    "sqlite3.connect": lambda: sqlite3.connect("/nowhere/file.db"),
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_the_world_cannot_be_left(way, monkeypatch):
    monkeypatch.setattr(tempfile, "_name_sequence", None)  # as in a fresh process

    with guard(), pytest.raises(LeakedOutside) as caught:
        WAYS[way]()

    assert str(caught.value).startswith(f"the virtual world was left through {way.strip()}(): ")
    assert caught.value.fix


def test_every_name_that_is_refused_has_a_way_here_or_is_a_variant_of_one():
    """So that a name added to the guard without a test is noticed."""
    tested = {way.strip() for way in WAYS}
    variants = {
        *("time.thread_time", "socket.gethostbyname_ex", "socket.gethostbyaddr", "socket.getnameinfo"),
        *("socket.socket.connect", "socket.socket.connect_ex", "socket.socket.bind", "socket.socket.sendto"),
        *("os.forkpty", "os.posix_spawnp", "os.execv", "os.execve"),
        *("os.rmdir", "os.remove", "os.truncate", "os.chmod", "os.link"),
    }
    named = {what for _, _, what, _, _ in _refused() if not what.startswith("random.")}

    assert named - tested - variants == set()
    assert len({what for _, _, what, _, _ in _refused() if what.startswith("random.")}) > 20


def test_sockets_that_were_open_before_cannot_reach_anybody():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as before:
        for reach in (
            lambda: before.connect(("127.0.0.1", 9)),
            lambda: before.connect_ex(("127.0.0.1", 9)),
            lambda: before.bind(("127.0.0.1", 0)),
            lambda: before.sendto(b"x", ("127.0.0.1", 9)),
        ):
            with guard(), pytest.raises(LeakedOutside, match="world's network"):
                reach()
        before.bind(("127.0.0.1", 0))


def snapshot():
    return {(id(where), name): vars(where).get(name) for where, name, *_ in _refused()}


def test_everything_is_as_before_afterwards_also_after_an_error():
    before = snapshot()

    with guard(), guard():
        assert snapshot() != before
    with pytest.raises(ZeroDivisionError), guard():
        raise ZeroDivisionError

    assert snapshot() == before
    assert time.monotonic() <= time.monotonic()
    assert socket.socket.connect is not None and "connect" not in vars(socket.socket)
    assert ec.generate_private_key(ec.SECP256R1()) and x25519.X25519PrivateKey.generate()
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def test_an_inner_guard_ending_does_not_open_the_outer_one():
    with guard():
        with guard():
            pass
        with pytest.raises(LeakedOutside):
            time.time()


def test_reading_and_what_was_allowed_go_on(tmp_path):
    (tmp_path / "inner").mkdir()
    outer, inner = tmp_path / "a", tmp_path / "inner" / "b"

    with guard(writing=[tmp_path / "inner"]):
        inner.write_text("x")
        inner.rename(inner.with_name("c"))
        (tmp_path / "inner" / "folder").mkdir()
        sqlite3.connect(tmp_path / "inner" / "file.db").close()
        sqlite3.connect(":memory:").close()
        assert Path(__file__).read_text().startswith('"""Each way')
        with pytest.raises(LeakedOutside):
            outer.write_text("x")
        with pytest.raises(LeakedOutside):
            (tmp_path / "inner" / ".." / "a").write_text("x")
        with pytest.raises(LeakedOutside):
            Path(f"{tmp_path}/inner-not").write_text("x")
        with pytest.raises(LeakedOutside):
            (tmp_path / "inner" / "c").rename(outer)
        with guard(writing=[tmp_path]):
            outer.write_text("y")
        with pytest.raises(LeakedOutside):
            outer.write_text("z")

    assert outer.read_text() == "y"


def test_what_needs_no_outside_still_works(caplog):
    with guard():
        assert random.Random(3).random() == random.Random(x=3).random()
        assert time.gmtime(0).tm_year == 1970
        assert time.strftime("%Y", time.gmtime(0)) == "1970"
        assert hash("a") == hash("a")
        assert datetime.datetime.fromtimestamp(0, datetime.UTC).year == 1970
        assert AESGCM(bytes(16)).encrypt(bytes(12), b"text", b"")
        assert x25519.X25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
        assert ec.derive_private_key(7, ec.SECP256R1()).public_key()
        logging.getLogger("edge_node.test").warning("a line with a time stamp")

    assert "a line with a time stamp" in caplog.text


def test_a_world_with_a_loop_runs_inside():
    world = World(1)
    loop = VirtualLoop(world)

    async def main():
        await asyncio.sleep(5)
        return await asyncio.to_thread(len, "four")

    with guard():
        assert loop.run_until_complete(main()) == 4
    assert world.now_ns == 5 * SECOND


def test_a_coroutine_that_leaves_the_world_ends_the_run():
    world = World(1)
    loop = VirtualLoop(world)

    async def leaks():
        await asyncio.sleep(5)
        time.monotonic()

    with guard(), pytest.raises(LeakedOutside, match=r"time\.monotonic"):
        loop.run_until_complete(leaks())


def test_screens_read_the_machine_s_clock():
    with guard():
        first = OUTSIDE.monotonic_ns()
        OUTSIDE.sleep(0)
        assert OUTSIDE.monotonic_ns() >= first
        assert OUTSIDE.time_ns() > 0


def test_other_threads_are_not_in_the_world():
    go, told = threading.Event(), []

    def outside():
        go.wait(30)
        told.append(time.time_ns())
        with pytest.raises(RuntimeError, match="another thread"), guard():
            pass
        told.append("refused")

    thread = threading.Thread(target=outside)
    thread.start()
    with guard():
        go.set()
        thread.join(30)

    assert isinstance(told[0], int) and told[1] == "refused"


def test_modules_may_be_imported_inside_and_keep_working_names(tmp_path, monkeypatch):
    (tmp_path / "imported_inside.py").write_text(
        "import random, time\nfrom time import monotonic_ns\nBEGAN = time.time()\nRNG = random.Random()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    with guard(writing=[tmp_path]):
        module = importlib.import_module("imported_inside")
        with pytest.raises(LeakedOutside):
            module.monotonic_ns()

    assert module.BEGAN > 0
    assert module.monotonic_ns() <= time.monotonic_ns()
    sys.modules.pop("imported_inside")


OURS = """
import datetime as dates
import os
from datetime import date, datetime
from random import shuffle
from time import monotonic_ns as now

def captured(): return now()
def by_default(entropy=os.urandom): return entropy(4)
def by_name(*, entropy=os.urandom): return entropy(4)
def mixes(items): shuffle(items)
def what_day(): return datetime.now()
def what_day_2(): return dates.datetime.utcnow()
def what_day_3(): return date.today()

class Part:
    def __init__(self, *, entropy=os.urandom): self.nonce = entropy(4)
    @classmethod
    def made(cls, entropy=os.urandom): return entropy(4)

def harmless():
    moment = datetime(2025, 1, 2, tzinfo=dates.UTC)
    assert isinstance(moment, datetime) and isinstance(moment, date) and not isinstance(1, datetime)
    assert datetime.fromisoformat("2025-01-02T00:00:00+00:00") == moment
    assert dates.timedelta(days=1) + moment > moment
    assert issubclass(dates.datetime, date)
    return moment
"""


@pytest.fixture
def ours(monkeypatch):
    """A module as one of ours might be."""
    module = types.ModuleType("edge_node.made_for_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(OURS, module.__name__, "exec"), vars(module))
    return module


@pytest.mark.parametrize(
    "leak",
    [
        lambda ours: ours.captured(),
        lambda ours: ours.by_default(),
        lambda ours: ours.by_name(),
        lambda ours: ours.mixes([1, 2, 3]),
        lambda ours: ours.Part(),
        lambda ours: ours.Part.made(),
        lambda ours: ours.what_day(),
        lambda ours: ours.what_day_2(),
        lambda ours: ours.what_day_3(),
    ],
)
def test_names_and_defaults_that_our_modules_took_before_are_refused_too(ours, leak):
    with guard(), pytest.raises(LeakedOutside):
        leak(ours)

    leak(ours)


def test_our_modules_may_still_speak_of_dates(ours):
    with guard():
        moment = ours.harmless()

    assert type(moment) is datetime.datetime
    assert ours.datetime is datetime.datetime and ours.dates is datetime


def test_a_module_that_does_not_ask_what_day_it_is_keeps_the_exact_type():
    """Values look at ``type(item)``, which the stand-in is of no value."""
    with guard():
        assert values.datetime is datetime.datetime
        assert values.decode(values.encode([datetime.datetime(2025, 1, 2)])) == [
            datetime.datetime(2025, 1, 2)
        ]


def test_the_daemons_defaults_are_refused_inside():
    with guard():
        with pytest.raises(LeakedOutside):
            SystemClock().now_ns()
        with pytest.raises(LeakedOutside):
            NodeKeys.generate()
        with pytest.raises(LeakedOutside):
            DocumentTable.__init__.__kwdefaults__["entropy"](4)

    assert DocumentTable.__init__.__kwdefaults__["entropy"] is os.urandom
