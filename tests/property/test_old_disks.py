"""Old disks come back: how many of a mesh's the replicas bear, and what is left to do beyond that."""

from __future__ import annotations

import random

import pytest

from edge_node.store.cell_store import MemoryCellStore
from tests.support.replica_plays import RESTORED, Play, Violation, play

COMPARED = 48
"""Rounds of half a minute in which the trees of all pairs have been compared."""


def old_disks(seed, *, few):
    """A play of restored disks and long absences. few: of less than half of the members."""
    draw = random.Random(seed)
    names = ("gateway", *(f"n{i}" for i in range(1, draw.choice([2, 3, 4]))))
    draw.random()
    for _ in names[1:]:
        draw.random()
    game = Play(seed, names)
    may = draw.sample(names, max(1, (len(names) - 1) // 2)) if few else names
    for _ in range(draw.choice([20, 60, 150])):
        kind, name = draw.choice(RESTORED), draw.choice(names)
        game.step("crash" if kind == "restore" and name not in may else kind, name, draw)
    return game


def converged(game):
    """In the end, by trees where vectors do not tell."""
    try:
        game.judge()
    except Violation:
        game.mesh.exchange(COMPARED)
    return len(set(game.mesh.canonical().values())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(8), 229, 247])
def test_less_than_half_of_the_disks_may_be_old(seed):
    """The last two: who gave a snapshot took an older one; its reader had kept no batch of its own."""
    old_disks(seed, few=True).judge()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [972, 1004, 1186])
def test_more_of_them_often_end_equal_too(seed):
    assert converged(old_disks(seed, few=False))


@pytest.mark.slow
def test_one_that_never_forgets_is_equal_after_snapshots_to_and_fro():
    play(5293, RESTORED)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [823, 1302])
def test_where_most_disks_were_old_those_that_begin_anew_take_the_gateways_side(seed):
    """What everybody was known to have is gone everywhere: nobody's word can be told from an older one."""
    game = old_disks(seed, few=False)
    assert not converged(game), "if it is mended, the decision's limit is"

    for name, peer in game.mesh.peers.items():
        if name != "gateway":
            peer.disk = MemoryCellStore()
            peer.start()
    game.mesh.exchange(8)

    assert len(set(game.mesh.canonical().values())) == 1
