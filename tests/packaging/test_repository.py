"""What must not be in the repository: addresses of registries, paths of one machine, packages under tests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:work|root)/[\w.]",
    "the address of a package index": r"(?i)\b(?:index-url|extra-index-url|find-links)\s*=|://[^\s/]*(?:pypi|npm)\b",
    "a private key": r"-----BEGIN (?:EC |RSA )?PRIVATE KEY-----\s*\\?n?[A-Za-z0-9+/]{20}",
}
BINARY = {".png", ".jpg", ".gif", ".ico", ".whl", ".gz"}


def files() -> list[Path]:
    try:
        told = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        kept = ["tests", "security", "edge_node", "gateway", "device_sim", "examples", "benchmarks", "docs"]
        return [path for folder in kept for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [ROOT / name for name in told.split("\0") if name]


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_no_file_names(what):
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in files():
        if path.suffix in BINARY or not path.is_file() or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")

    assert found == []


def test_no_package_lies_under_tests():
    """`tests/security/__init__.py` would hide the real package."""
    assert [path for path in files() if path.name == "__init__.py" and "tests" in path.parts] == []


def test_test_files_have_names_of_their_own():
    names = [path.name for path in files() if path.name.startswith("test_") and path.suffix == ".py"]

    assert sorted(names) == sorted(set(names))
