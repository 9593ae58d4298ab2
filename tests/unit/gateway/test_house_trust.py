"""The gateway's own keys and certificates: made once, renewed from a third of their lifetime on."""

from __future__ import annotations

import time

from edge_node.clock import ManualClock
from gateway.house import open_trust
from security.certificates import not_after_s, spki_sha256_of
from security.keystore import KeyStore

DAY_S = 86400


def at(days: float) -> ManualClock:
    return ManualClock(wall_ms=int((time.time() + days * DAY_S) * 1000))


def leaves(keystore: KeyStore):
    identity, broker = keystore.identity(), keystore.broker()
    assert identity is not None and broker is not None
    return identity.leaf, broker[1]


def test_a_second_start_changes_nothing(tmp_path):
    keystore = KeyStore(tmp_path / "keys")
    first = open_trust(keystore, at(0))
    before = leaves(keystore)
    second = open_trust(keystore, at(5))

    assert (first.made, second.made) == (True, False)
    assert leaves(keystore) == before
    assert second.authority.mesh_id == first.authority.mesh_id


def test_what_is_due_at_a_start_is_certified_anew_for_the_same_keys(tmp_path):
    """Members' rosters and the join codes' pin stay good: only the certificates are new."""
    keystore = KeyStore(tmp_path / "keys")
    open_trust(keystore, at(0))
    gateway, broker = leaves(keystore)
    open_trust(keystore, at(31))
    gateway_after, broker_after = leaves(keystore)

    assert not_after_s(gateway_after) - not_after_s(gateway) > 30 * DAY_S
    assert not_after_s(broker_after) - not_after_s(broker) > 30 * DAY_S
    assert spki_sha256_of(gateway_after) == spki_sha256_of(gateway)
    assert spki_sha256_of(broker_after) == spki_sha256_of(broker)
