"""What a hostile broker cannot do: real agents over real TLS to a broker that drops, doubles, moves, forges.

The broker holds its genuine key (any member may host it), knows no access rules, and sees every frame. What
is tried is in `tests/faults`; `make faults` runs the same in larger numbers, from other seeds.
"""

from __future__ import annotations

import random

import pytest

from tests.faults import f14_replay, f15_flipped_bits, f18_revoked, f19_spoofed, f20_hostile_broker
from tests.support.hostile_mesh import HostileMesh

pytestmark = pytest.mark.slow

NAMES = ["gateway", "pi-1", "pi-2"]


async def test_a_hostile_broker_cannot_read_code_arguments_prints_or_results(tmp_path):
    async with HostileMesh(tmp_path, NAMES) as mesh:
        await mesh.deploy()
        async with mesh.asking() as client:
            said = await client.run("plant.keep", "the-argument-is-a-secret", where="pi-1")
            large = await client.run("plant.keep", "the-argument-is-a-secret" * 20_000, where="pi-2")
        assert said == "the-result-is-a-secret:the-argument-is-a-secret"
        assert len(large) > 400_000
        captured = b"\0".join(frame.topic.encode() + b"\0" + frame.payload for frame in mesh.hostile.taken)

    assert len(captured) > 900_000, "both large bodies crossed it"
    for secret in (b"is-a-secret", b"plant", b"stamp", b"secret_argument_name", b"import os"):
        assert secret not in captured


async def test_a_hostile_broker_cannot_alter_a_message(tmp_path):
    await f20_hostile_broker.altered(tmp_path, seed=20, count=300)


async def test_no_parcel_with_a_flipped_bit_is_believed(tmp_path):
    """All forgeries of a parcel of one bit are shown to its reader, and then the parcel."""
    await f15_flipped_bits.on_the_wire(tmp_path, seed=15, count=2_000)


async def test_a_hostile_broker_cannot_move_a_message_to_another_topic_or_peer(tmp_path):
    await f20_hostile_broker.moved(tmp_path, seed=1, count=150)


async def test_a_message_replayed_three_times_in_five_contexts_has_no_second_effect(tmp_path):
    await f14_replay.replayed_everywhere(tmp_path, seed=14, count=1000)


async def test_a_broker_that_does_everything_at_once_costs_time_and_nothing_else(tmp_path):
    await f20_hostile_broker.everything_at_once(tmp_path, seed=2020, count=1000)


async def test_a_hostile_broker_cannot_roll_the_roster_back_or_forge_one(tmp_path):
    await f20_hostile_broker.rolled_back(tmp_path, seed=3, count=1)


async def test_forged_last_wills_take_nobody_out_of_the_mesh(tmp_path):
    await f20_hostile_broker.false_wills(tmp_path, seed=4, count=400)


async def test_a_hostile_broker_cannot_alter_move_or_repeat_presence(tmp_path):
    await f20_hostile_broker.presence_bent(tmp_path, seed=9, count=5)


async def test_a_stolen_node_cannot_impersonate_others_even_if_the_broker_lets_it(tmp_path):
    await f19_spoofed.impersonated(tmp_path, seed=19, count=200)


async def test_a_revoked_node_is_believed_by_nobody_though_the_broker_keeps_it(tmp_path):
    await f18_revoked.believed_by_nobody(tmp_path, seed=18, count=1)


async def test_a_stolen_node_cannot_read_its_past_sessions(tmp_path):
    """Whoever has its disk, and every frame that it ever got or sent, opens none of them."""
    from edge_node.wire.codec import direct_context
    from security.envelope import is_parcel
    from security.errors import ProtocolViolation
    from security.session import FrameReceived, Sessions, Wanted

    async with HostileMesh(tmp_path, NAMES) as mesh:
        await mesh.deploy()
        await mesh.stamps(20, at=["pi-1"], in_flight=1)
        public = {name: keys.x25519_public for name, keys in mesh.keys.items()}
        stolen = mesh.keys["pi-1"].static_private_bytes
        past = [frame for frame in mesh.hostile.taken if frame.topic.startswith(mesh.d("pi-1", "")[:-1])]
        past += [frame for frame in mesh.hostile.taken if frame.topic == mesh.d("gateway", "pi-1")]
    rng = random.Random(5)
    later = Sessions(
        me="pi-1", mesh_id=mesh.mesh_id, boot_id=bytes(8), static=[stolen],
        keys_of=lambda peer: (public[peer],), context=direct_context(mesh.mesh_id), entropy=rng.randbytes,
        roster_version=lambda: 1, wall_ms=lambda: 0,
    )  # fmt: skip
    opened, parcels = 0, 0
    later.handle(0, Wanted("gateway"))
    for n, frame in enumerate(past):
        src = frame.topic.rsplit("/", 1)[1]
        for peer in {src, "gateway"}:
            if not is_parcel(frame.payload):
                later.handle(n * 2_000_000_000, FrameReceived(peer, frame.payload))
                continue
            parcels += 1
            try:
                later.open(n * 2_000_000_000, peer, frame.payload)
                opened += 1
            except ProtocolViolation:
                continue

    assert parcels >= 20
    assert opened == 0
