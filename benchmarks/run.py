"""`make bench`: the figures of docs/performance.md. Writes out/bench/report.json and prints a table.

    python -m benchmarks.run [--rounds 5] [--broker mosquitto|embedded] [--no-dask]

What needs hosts of its own, and so root, has commands of its own (docs/performance.md): what idle daemons
cost, `python -m benchmarks.bench_idle`, and `python -m benchmarks.bench_discovery`.

Dask is installed into an environment of its own (.venv-bench), never into the project's.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks import whole_path

PEERS = ["distributed>=2025.1"]


def peers(directory: Path) -> Path:
    """The interpreter of the peers' environment, made if it is not there."""
    python = directory / "bin" / "python"
    marker = directory / ".ready"
    if not marker.exists():
        print(f"installing the peers into {directory} (once)", file=sys.stderr)
        venv.create(directory, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS],
            check=True,
        )
        marker.touch()
    return python


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    parser.add_argument("--no-dask", action="store_true", help="leave Dask out")
    options = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    dask = None if options.no_dask else peers(root / ".venv-bench")
    report = whole_path.run(options.rounds, options.broker, dask)
    report["machine"] = f"{platform.machine()}, {report['cpus']} cores, Python {platform.python_version()}"
    target = root / "out" / "bench" / "report.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")

    print(f"\nwhole path, no-op task, {options.rounds} rounds, {options.broker}; {report['machine']}")
    print(f"{'':22}{'p50, ms':>10}{'tasks/s, 100 in flight':>26}")
    for who, figures in report["median"].items():
        print(f"{who:22}{figures['p50_ms']:>10.3f}{figures['tasks_per_s']:>26.0f}")
    wanted = {
        "p50_to_process_pool": "<= 8",
        "rate_to_process_pool": ">= 0.5",
        "rate_to_dask": ">= 15",
        "p50_to_dask": "",
    }
    for name, value in report["ratios"].items():
        print(f"{name:22}{value:>10.2f}   {wanted[name]}")
    print(f"node, idle, with mDNS {report['node_idle_mb']:>9.1f} MB (MiB)   <= 50")
    print(f"node up to ready      {report['node_ready_s']:>9.2f} s    <= 3")
    print(f"(report: {target.relative_to(root)}; seal + open: python -m benchmarks.bench_envelope;")
    print(" eight idle nodes, memory, processor and wire: python -m benchmarks.bench_idle)")


if __name__ == "__main__":
    main()
