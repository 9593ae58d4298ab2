"""Every known way to break the replica is seen by the play recorded for it, which passes without it."""

from __future__ import annotations

import pytest

from tests.property.replica_mutants import MUTANTS, applied
from tests.support.replica_plays import returning

SEEDS = 40
"""Further plays for a defect whose recorded one a change of the cores has made another."""


def shows(mutant, seed):
    """A violation at the end, or an invariant on the way."""
    with applied(mutant):
        try:
            mutant.scene(seed)
        except (AssertionError, ValueError):
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_a_broken_replica_is_found(mutant):
    seeds = [mutant.found, *range(SEEDS)]
    seed = next((seed for seed in seeds if shows(mutant, seed)), None)

    assert seed is not None, f"no play shows that {mutant.name}"
    mutant.scene(seed)


def test_a_write_that_missed_a_forgotten_deletion_is_said_again_once():
    game = returning(1)

    replicas = [peer.replica for peer in game.mesh.peers.values()]
    assert all(
        each.cells.document("t", "a") == {"x": b"written far away", "y": b"stays"} for each in replicas
    )
    assert {each.cells.counted("c") for each in replicas} == {5}
    assert [note.what for note in game.mesh.peers["n3"].notes] == [
        "snapshot taken",
        "batch waits",
        "written again",
    ]
