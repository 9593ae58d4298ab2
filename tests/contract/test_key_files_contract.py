"""One contract for a key store in a directory and on a modelled disk."""

from __future__ import annotations

import errno
import os
import random

import pytest

from device_sim.virtual.disk import Disk
from device_sim.virtual.key_files import DiskKeyStore
from security.errors import Unavailable
from security.keystore import KeyStore


class InDirectory:
    def __init__(self, tmp_path, monkeypatch):
        self.path = tmp_path / "keys"
        self.monkeypatch = monkeypatch

    def open(self):
        return KeyStore(self.path)

    def fail_fsync(self):
        def refuse(_descriptor):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.monkeypatch.setattr(os, "fsync", refuse)

    def mend(self):
        self.monkeypatch.undo()


class OnModel:
    def __init__(self, _tmp_path, _monkeypatch):
        self.disk = Disk(random.Random(1))

    def open(self):
        return DiskKeyStore(self.disk)

    def fail_fsync(self):
        self.disk.fail_fsync(times=100)

    def mend(self):
        self.disk.fail_fsync(times=0)


@pytest.fixture(params=[InDirectory, OnModel], ids=["directory", "model"])
def home(request, tmp_path, monkeypatch):
    return request.param(tmp_path, monkeypatch)


def test_what_a_member_keeps_is_there_in_its_next_life(home):
    store = home.open()
    assert (store.roster(), store.group_secrets(), store.floor_s(), store.settled_roster()) == (
        None,
        None,
        0,
        0,
    )
    store.save_roster(b"first")
    store.save_roster(b"signed")
    store.save_group_secrets(b"secret")
    store.save_floor(1000)
    store.save_floor(900)
    store.save_settled_roster(7)

    again = home.open()

    assert (again.roster(), again.group_secrets()) == (b"signed", b"secret")
    assert (again.floor_s(), again.settled_roster()) == (1000, 7)
    assert (again.previous_identity(), again.identity(), again.joining()) == (None, None, None)


def test_incarnations_rise_over_lives(home):
    assert [home.open().next_incarnation(wall_s) for wall_s in (100, 100, 90, 200)] == [100, 101, 102, 200]


def test_a_refused_write_leaves_the_old_file_and_its_reason(home):
    home.open().save_roster(b"old")
    home.fail_fsync()

    with pytest.raises(
        Unavailable, match=r"roster\.cose cannot be written: Input/output error: check the disk"
    ):
        home.open().save_roster(b"new")

    assert home.open().roster() == b"old"
    home.mend()
    home.open().save_roster(b"newer")
    assert home.open().roster() == b"newer"


def test_leaving_removes_what_the_mesh_gave(home):
    store = home.open()
    store.save_roster(b"signed")
    store.save_settled_roster(3)

    store.forget_identity()
    store.forget_identity()

    assert (home.open().roster(), home.open().settled_roster()) == (None, 3)


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_leaves_each_file_old_or_new_and_what_was_told_new(seed):
    disk = Disk(random.Random(1))
    store = DiskKeyStore(disk)
    store.save_roster(b"told" * 3000)
    disk.fail_fsync(2)  # the directory's
    with pytest.raises(Unavailable):
        store.save_group_secrets(b"not told")

    disk.power_cut(random.Random(seed))

    again = DiskKeyStore(disk)
    assert again.roster() == b"told" * 3000
    assert again.group_secrets() in (None, b"not told")
    assert again.all()["roster.cose"] == b"told" * 3000
    again.save_group_secrets(b"told now")
    assert set(again.all()) == {"roster.cose", "groups.cbor"}
