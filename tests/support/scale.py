"""Two sizes of one test: the share that every run takes, and the campaign (`make campaign`).

    COUNT = scaled(300, campaign=10_000)
    tell(14, "messages replayed three times in five contexts", COUNT, violations=0)

In a campaign what was tried is noted in `out/campaign/faults.jsonl`, and shown as a table at its end:

    python -m tests.support.scale        # the table; exit code 1 if there was a violation
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

CAMPAIGN = os.environ.get("EDGEWEAVE_CAMPAIGN") == "1"
NOTES = Path(__file__).resolve().parents[2] / "out" / "campaign" / "faults.jsonl"


def scaled(small: int, *, campaign: int) -> int:
    return campaign if CAMPAIGN else small


def tell(fault: int, what: str, trials: int, *, violations: int, **figures: Any) -> None:
    """Note it in a campaign, then fail if anything was violated."""
    if CAMPAIGN:
        NOTES.parent.mkdir(parents=True, exist_ok=True)
        with NOTES.open("a") as notes:
            row = {"fault": fault, "what": what, "trials": trials, "violations": violations, **figures}
            notes.write(json.dumps(row) + "\n")
    assert violations == 0, f"fault {fault}, {what}: {violations} violations in {trials} trials"


def main() -> int:
    rows = [json.loads(line) for line in NOTES.read_text().splitlines()] if NOTES.exists() else []
    print(f"{'fault':>5}  {'trials':>9}  {'violations':>10}  what")
    for row in sorted(rows, key=lambda row: row["fault"]):
        more = {
            name: value
            for name, value in row.items()
            if name not in ("fault", "what", "trials", "violations")
        }
        told = ", ".join(f"{name} {value}" for name, value in more.items())
        print(
            f"{row['fault']:>5}  {row['trials']:>9}  {row['violations']:>10}  {row['what']}"
            f"{f' ({told})' if told else ''}"
        )
    return int(not rows or any(row["violations"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
