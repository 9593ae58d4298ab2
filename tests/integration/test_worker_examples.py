"""The example functions inside real workers, with the limits that they ask for themselves."""

from __future__ import annotations

import asyncio
import csv
from pathlib import Path

import pytest

from edge_node.functions.bundle import Bundle, BundleStore
from edge_node.functions.invocation import Completion, Invocation
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.functions.values import decode, encode_call

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


async def outcome(directory: Path, name: str, *args) -> Completion:
    """One run in a pool of one, with the wishes of the function's own manifest."""
    stem = name.partition(".")[0]
    path = EXAMPLES / "functions" / f"{stem}.py"
    bundle = Bundle.of_source(str(path), path.read_bytes())
    store = BundleStore(directory)
    digest = store.put(bundle.to_bytes())
    manifest = next(manifest for manifest in bundle.manifests() if manifest.name == name)
    done: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
    pool = WorkerPool(1, on_done=done.set_result)
    pool.start(
        Invocation(
            "t1",
            1,
            name,
            digest,
            str(store.path(digest)),
            encode_call(args, {}),
            timeout_s=manifest.timeout_s,
            memory_mb=manifest.memory_mb,
            output_bytes_max=manifest.output_bytes_max,
        )
    )
    running = asyncio.create_task(pool.run(), name="pool")
    try:
        return await done
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def rows(name: str) -> list[dict]:
    with (EXAMPLES / "data" / name).open() as file:
        return [
            {key: text if key == "time" else float(text) for key, text in row.items()}
            for row in csv.DictReader(file)
        ]


async def test_room_changes(tmp_path):
    completion = await outcome(tmp_path, "room.changes", rows("room_climate.csv"))

    assert completion.status == "done", completion.error
    assert any(abs(found - 416) <= 5 for found in decode(completion.output))


async def test_water_losses(tmp_path):
    completion = await outcome(tmp_path, "water.losses", rows("water_flow.csv"))

    assert completion.status == "done", completion.error
    assert len(decode(completion.output)) == 3


async def test_gait_over_the_whole_record_stays_within_its_memory(tmp_path):
    """numpy is imported and 7 040 × 9 readings are compared under the fence of RLIMIT_DATA."""
    np = pytest.importorskip("numpy")
    readings = rows("gait_accelerometer.csv")
    table = np.array([[value for key, value in row.items() if key.endswith("_mg")] for row in readings])

    completion = await outcome(tmp_path, "gait.matrix_profile", table)

    assert completion.status == "done", completion.error
    assert len(decode(completion.output)["profile"]) == len(readings) - 127
