"""A gateway lost and restored from an old backup: revoked stays revoked, nothing forks, work goes on."""

from __future__ import annotations

import pytest

from tests.faults.f23_restored_gateway import STEP, WORDS, held_by, learned_from_members, restored, roster_of
from tests.support.daemons import Bed, until

pytestmark = pytest.mark.slow


@pytest.fixture
def bed(tmp_path):
    with Bed(tmp_path) as bed:
        yield bed


def test_what_happened_after_the_backup_is_learned_from_members_before_anything_is_signed(tmp_path):
    learned_from_members(tmp_path, seed=23, count=1, broker="embedded")


def test_until_a_member_was_heard_it_signs_nothing_and_says_what_to_do(bed):
    gateway, node = bed.pair()
    file = bed.path / "mesh.backup"
    assert bed.cli(gateway, "backup", str(file), stdin=WORDS).code == 0
    node.term()
    gateway.term()
    restored(bed, file)
    gateway.start()
    before = roster_of(gateway)["version"]

    other = bed.path / "other.py"
    other.write_text(
        "from edge_node.functions import function\n\n\n@function\ndef one() -> int:\n    return 1\n"
    )
    for words in (["invite"], ["revoke", "pi-1", "--yes"], ["deploy", str(other)]):
        told = bed.cli(gateway, *words)
        assert told.code == 3 and "restored from a backup and signs nothing" in told.line, told
    assert roster_of(gateway)["version"] == before
    assert gateway.ask(lambda mesh: mesh.call("status"))["restored"]["not_heard"] == ["pi-1"]

    told = bed.cli(gateway, "settle")
    assert told.code == 0 and str(before + STEP) in told.text
    assert bed.cli(gateway, "settle").code == 2
    assert bed.cli(gateway, "invite").code == 0
    gateway.term()
    gateway.start()
    assert roster_of(gateway)["version"] < before + 2 * STEP, "it is settled for good"
    node.start().connected()
    until("the node follows", lambda: held_by(node) >= before + STEP)
