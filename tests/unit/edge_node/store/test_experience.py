"""What was learned outlives the process; a file that cannot be read costs nothing but the guess."""

from __future__ import annotations

import asyncio

from edge_node.scheduling.estimates import Estimates
from edge_node.store.experience import Experience


def taught() -> Estimates:
    estimates = Estimates()
    for _ in range(8):
        estimates.observe("room.changes", "pi-1", 0.2, 1.0, 100)
    return estimates


def test_a_later_life_expects_what_the_earlier_saw(tmp_path):
    path = tmp_path / "estimates.bin"
    Experience(path, taught()).save()
    later = Estimates()

    Experience(path, later).load()

    assert later.service("room.changes", "pi-1", 1.0) == taught().service("room.changes", "pi-1", 1.0)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_learned_anew_and_replaced(tmp_path):
    path = tmp_path / "estimates.bin"
    path.write_bytes(b"\x00 not estimates")
    estimates = taught()
    experience = Experience(path, estimates)

    experience.load()
    experience.save()

    again = Estimates()
    assert again.load(path.read_bytes()) == 1


def test_nothing_is_written_while_nothing_is_learned(tmp_path):
    path = tmp_path / "estimates.bin"
    estimates = taught()
    experience = Experience(path, estimates)
    experience.save()
    path.unlink()

    experience.save()

    assert not path.exists()


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path):
    experience = Experience(tmp_path / "missing" / "estimates.bin", taught())

    experience.save()
    experience.load()


async def test_the_end_of_the_daemon_saves(tmp_path):
    path = tmp_path / "estimates.bin"
    running = asyncio.create_task(Experience(path, taught()).run())
    await asyncio.sleep(0)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert path.exists()
