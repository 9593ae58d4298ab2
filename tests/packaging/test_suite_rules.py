"""The rules of this suite: skips are told by their reasons, and what fails in a thread fails its test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = ROOT / "tests" / "conftest.py"
TESTS = """
import pytest

def test_a():
    pytest.skip("because of the weather")

def test_b():
    pytest.skip("needs root (network namespaces)")

@pytest.mark.skipif(True, reason="because of the weather")
def test_c():
    pass
"""


def run(tmp_path: Path, strict: str, text: str = TESTS) -> tuple[int, list[str]]:
    suite = tmp_path / "tests" / "unit"
    suite.mkdir(parents=True)
    (tmp_path / "tests" / "conftest.py").write_bytes(CONFTEST.read_bytes())
    (suite / "test_it.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "tests"],
        cwd=tmp_path, env=os.environ | {"EDGEWEAVE_STRICT": strict}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


def test_the_last_lines_list_skips_by_reason(tmp_path):
    code, lines = run(tmp_path, "0")

    assert code == 0
    assert lines[-2:] == [
        "skipped 2: because of the weather",
        "skipped 1: needs root (network namespaces)",
    ]
    assert lines[-3].startswith("unit: ")


def test_where_every_skip_counts_only_listed_reasons_pass(tmp_path):
    code, lines = run(tmp_path, "1")

    assert code == 1
    assert any(line.startswith("1 failed, 1 skipped") and "1 error" in line for line in lines), lines


def test_a_module_that_skips_itself_counts_too(tmp_path):
    code, lines = run(tmp_path, "1", 'import pytest\npytest.importorskip("no_such_library")\n')

    assert code != 0
    assert any("no_such_library" in line for line in lines)


def test_what_fails_in_a_thread_fails_its_test(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import threading\n\n\ndef test_it():\n    def wrong():\n        assert 1 == 2\n\n"
        "    thread = threading.Thread(target=wrong)\n    thread.start()\n    thread.join()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"),
         "--rootdir", ".", "test_it.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout + done.stderr
    assert "assert 1 == 2" in done.stdout
