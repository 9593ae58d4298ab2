"""The modelled disk: what survives a power cut, what an fsync is worth, and how it is broken on purpose."""

from __future__ import annotations

import errno
import random

import pytest

from device_sim.virtual.disk import BLOCK, UNSAFE_MAX, Disk, Speed

CUTS = 300


def a_disk(**fields):
    return Disk(random.Random(1), **fields)


def after_cuts(prepare):
    """Every state in which power cuts leave what `prepare` does to a fresh disk."""
    found = []
    for seed in range(CUTS):
        disk = a_disk()
        prepare(disk)
        disk.power_cut(random.Random(seed))
        assert disk.used_bytes == sum(disk.size(name) for name in disk.names())
        assert disk.unsafe_bytes == 0
        found.append({name: disk.read(name) for name in disk.names()})
    return found


def safe(disk, name, data):
    disk.write(name, 0, data)
    disk.fsync(name)
    disk.fsync_dir()


def test_reading_sees_what_was_written_whether_it_is_safe_or_not():
    disk = a_disk()
    assert disk.append("a", b"hello") == 0
    assert disk.append("a", b" world") == 5
    disk.write("a", 13, b"!")
    disk.write("a", 0, b"J")

    assert disk.read("a") == b"Jello world\0\0!"
    assert disk.read("a", 6, 5) == b"world"
    disk.truncate("a", 5)
    disk.truncate("a", 7)
    assert disk.read("a") == b"Jello\0\0"
    assert (disk.size("a"), disk.used_bytes, disk.names()) == (7, 7, ["a"])


def test_what_was_fsynced_survives_every_power_cut():
    def prepare(disk):
        safe(disk, "a", b"x" * 10_000)
        disk.append("a", b"y" * 10_000)
        disk.fsync("a")

    assert after_cuts(prepare) == [{"a": b"x" * 10_000 + b"y" * 10_000}] * CUTS


def test_an_unsafe_append_is_left_whole_in_part_torn_or_not_at_all():
    def prepare(disk):
        safe(disk, "a", b"x" * 100)
        disk.append("a", b"y" * (3 * BLOCK))

    found = [each["a"] for each in after_cuts(prepare)]

    assert all(data.startswith(b"x" * 100) and not data[100:].strip(b"y\0") for data in found)
    lengths = {len(data) - 100 for data in found}
    assert {0, 3 * BLOCK} <= lengths, "all or nothing are among them"
    assert any(length % BLOCK not in (0, BLOCK - 100) for length in lengths), "a torn block is among them"
    assert any(b"\0" in data for data in found), "a hole is among them"


def test_an_unsafe_overwrite_leaves_old_and_new_blocks_mixed_but_no_third_thing():
    def prepare(disk):
        safe(disk, "a", b"o" * (4 * BLOCK))
        disk.write("a", 0, b"n" * (4 * BLOCK))

    found = [each["a"] for each in after_cuts(prepare)]

    assert all(len(data) == 4 * BLOCK and not data.strip(b"on") for data in found)
    assert any(data.find(b"o") < data.rfind(b"n") and b"o" in data for data in found), "out of order, too"
    assert {b"o" * (4 * BLOCK), b"n" * (4 * BLOCK)} <= set(found)


def test_a_later_write_may_be_left_without_an_earlier_one():
    def prepare(disk):
        safe(disk, "a", bytes(2 * BLOCK))
        disk.write("a", 0, b"1")
        disk.write("a", BLOCK, b"2")

    found = {(data["a"][:1], data["a"][BLOCK : BLOCK + 1]) for data in after_cuts(prepare)}

    assert found == {(b"\0", b"\0"), (b"1", b"\0"), (b"\0", b"2"), (b"1", b"2")}


def test_a_truncation_is_unsafe_too():
    def prepare(disk):
        safe(disk, "a", b"old contents")
        disk.truncate("a", 3)

    assert {each["a"] for each in after_cuts(prepare)} == {b"old contents", b"old"}


def test_a_name_is_safe_once_its_directory_was_fsynced():
    def only_bytes(disk):
        disk.write("a", 0, b"data")
        disk.fsync("a")

    def both(disk):
        only_bytes(disk)
        disk.fsync_dir()

    assert {tuple(each.items()) for each in after_cuts(only_bytes)} == {(), (("a", b"data"),)}
    assert after_cuts(both) == [{"a": b"data"}] * CUTS


def test_a_rename_is_the_old_file_or_the_new_one():
    def prepare(disk):
        safe(disk, "a", b"old")
        disk.write("a.new", 0, b"new")
        disk.fsync("a.new")
        disk.rename("a.new", "a")

    found = after_cuts(prepare)

    assert {each["a"] for each in found} == {b"old", b"new"}
    assert all(each["a"] == b"old" or "a.new" not in each for each in found)


def test_a_rename_without_an_fsync_of_the_file_may_leave_an_empty_one():
    def prepare(disk):
        safe(disk, "a", b"old")
        disk.write("a.new", 0, b"new")
        disk.rename("a.new", "a")

    assert {b"old", b"new", b""} <= {each["a"] for each in after_cuts(prepare)}


def test_a_removal_may_come_undone_with_what_was_in_it():
    def prepare(disk):
        safe(disk, "a", b"data")
        disk.remove("a")

    assert {tuple(each.items()) for each in after_cuts(prepare)} == {(), (("a", b"data"),)}


def test_directories_are_fsynced_one_by_one():
    def prepare(disk):
        disk.write("keys/roster", 0, b"r")
        disk.write("ledger", 0, b"l")
        disk.fsync("keys/roster")
        disk.fsync("ledger")
        disk.fsync_dir("keys")
        assert (disk.names("keys"), disk.names()) == (["roster"], ["ledger"])

    found = []
    for seed in range(CUTS):
        disk = a_disk()
        prepare(disk)
        disk.power_cut(random.Random(seed))
        found.append((disk.names("keys"), disk.names()))
    assert (["roster"], []) in found
    assert (["roster"], ["ledger"]) in found
    assert all(keys == ["roster"] for keys, _ in found)


def test_the_kernel_writes_the_oldest_back_when_much_is_unsafe():
    disk = a_disk()
    safe(disk, "a", b"")
    for number in range(UNSAFE_MAX + 5):
        disk.append("a", b"%02d" % number)

    assert disk.unsafe_bytes == 2 * UNSAFE_MAX
    disk.power_cut(random.Random(1))
    assert disk.read("a").startswith(b"0001020304")


def test_a_full_disk_takes_what_fits_and_says_so():
    disk = a_disk(capacity_bytes=10)
    disk.write("a", 0, b"123456")

    with pytest.raises(OSError) as refused:
        disk.append("a", b"abcdefgh")

    assert refused.value.errno == errno.ENOSPC
    assert disk.read("a") == b"123456abcd"
    disk.write("a", 0, b"654321")  # overwriting needs no space
    disk.truncate("a", 2)
    disk.append("a", b"fits now")
    assert disk.read("a") == b"65fits now"


def test_the_nth_write_from_now_can_be_refused():
    disk = a_disk()
    disk.write("a", 0, b"1")
    disk.refuse(2)
    disk.append("a", b"2")

    with pytest.raises(OSError, match="No space left"):
        disk.append("a", b"3")

    disk.append("a", b"4")
    assert disk.read("a") == b"124"


def test_a_failed_fsync_has_lost_what_was_unsafe_and_the_next_does_not_bring_it_back():
    disk = a_disk()
    safe(disk, "a", b"kept")
    disk.fail_fsync()
    disk.append("a", b" and lost")

    with pytest.raises(OSError) as failed:
        disk.fsync("a")

    assert failed.value.errno == errno.EIO
    disk.fsync("a")
    assert (disk.read("a"), disk.used_bytes) == (b"kept", 4)


def test_damage_reaches_what_is_safe():
    disk = a_disk()
    safe(disk, "a", b"\0" * 100)
    disk.flip("a", 8 * 50 + 3)
    assert disk.read("a")[50] == 8
    safe(disk, "a", b"x" * 100)
    disk.blank("a", 90, 100)
    assert disk.read("a") == b"x" * 90 + bytes(10)
    disk.cut_off("a", 7)
    disk.power_cut(random.Random(1))

    assert (disk.read("a"), disk.used_bytes) == (b"x" * 7, 7)


def test_fsyncs_take_their_time_by_the_disk_s_speed():
    disk = a_disk(speed=Speed(fsync_ns_median=1_000_000, fsync_sigma=0.7, bytes_per_s=1_000_000))

    drawn = sorted(disk.fsync_ns() for _ in range(20_001))

    assert all(type(each) is int for each in drawn)
    assert 950_000 < drawn[10_000] < 1_050_000
    assert 2 <= sum(each >= 10_000_000 for each in drawn) <= 25, "one in 2000"
    assert disk.write_ns(1_500) == 1_500_000


def test_a_missing_file_is_said_so():
    with pytest.raises(FileNotFoundError):
        a_disk().read("a")


def test_files_that_were_written_at_once_share_their_bytes_until_one_changes():
    first, second = a_disk(), a_disk()
    whole = bytes(range(256)) * 400
    for disk in (first, second):
        disk.write("roster", 0, whole)
        disk.fsync("roster")
        disk.fsync_dir()
    assert first.read("roster") is whole and second.read("roster") is whole

    first.flip("roster", 8)
    first.append("roster", b"more")

    assert first.read("roster") == bytes([0, 0]) + whole[2:] + b"more"
    assert second.read("roster") is whole
    first.power_cut(random.Random(1))
    assert first.read("roster", 0, len(whole)) == bytes([0, 0]) + whole[2:]
