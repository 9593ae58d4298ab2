"""Processes of a fleet cannot stay behind: not when they end badly, not when we do."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from device_sim.fleet.processes import Processes, connected_to, end, resident_mb
from gateway.broker.process import started_at
from security.errors import Unavailable

ROOT = Path(__file__).resolve().parents[3]
ORPHAN = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
signal.pause()
"""


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


@pytest.mark.slow
async def test_a_grandchild_that_lost_its_parent_is_found_and_killed(tmp_path):
    processes = Processes(tmp_path)
    parent = await processes.spawn([sys.executable, "-c", ORPHAN], errors="parent")
    orphan = int(await line_of(parent))
    processes.remember()

    await end(parent, signal.SIGKILL, 5)
    assert started_at(orphan) is not None  # it lives on, in a session of its own

    assert await processes.sweep(wait_s=0.05) == [orphan]
    fd = os.pidfd_open(orphan) if started_at(orphan) is not None else None
    if fd is not None:
        assert select.select([fd], [], [], 10)[0], "it was not killed"
        os.close(fd)


async def test_a_child_that_ends_in_order_leaves_nothing_to_kill(tmp_path):
    processes = Processes(tmp_path)
    child = await processes.spawn(["sleep", "60"], errors="child")
    processes.remember()

    assert await end(child, signal.SIGTERM, 10) == 0
    assert child.returncode == -signal.SIGTERM
    assert await processes.sweep() == []


async def test_a_child_that_does_not_want_to_end_is_told_by_its_pid(tmp_path):
    processes = Processes(tmp_path)
    child = await processes.spawn([sys.executable, "-c", STUBBORN], errors="child")
    assert await line_of(child) == "up"

    assert await end(child, signal.SIGTERM, 0.05) == child.pid
    assert child.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_children_end_when_we_are_killed(tmp_path):
    conductor = f"""
import asyncio
from pathlib import Path
from device_sim.fleet.processes import Processes

async def main():
    child = await Processes(Path({str(tmp_path)!r})).spawn(["sleep", "60"], errors="child")
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", conductor], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    fd = os.pidfd_open(child)

    process.kill()
    process.wait(10)

    assert select.select([fd], [], [], 10)[0], "the child lives on"
    os.close(fd)
    process.stdout.close()


@pytest.mark.slow
async def test_a_command_that_fails_is_told_by_its_line(tmp_path):
    processes = Processes(tmp_path)

    with pytest.raises(Unavailable, match="edge-node status: no daemon answers") as caught:
        await processes.command("edge-node", "status", "--home", str(tmp_path / "none"))

    assert "\n" not in str(caught.value)


def test_a_connection_is_seen_from_outside_and_its_end_too():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not connected_to(os.getpid(), port)

        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        assert connected_to(os.getpid(), port)
        assert not connected_to(os.getppid(), port)  # somebody else's

        accepted.close()  # the broker hangs up: half of a connection is none
        assert client.recv(1) == b""
        assert not connected_to(os.getpid(), port)
        client.close()
    assert not connected_to(2**22 + 1, port)  # no such process


def test_memory_of_a_process_that_is_gone_is_none():
    assert resident_mb(os.getpid()) > 1
    assert resident_mb(2**22 + 1) == 0.0
