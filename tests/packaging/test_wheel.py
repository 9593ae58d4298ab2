"""The wheel: four packages and nothing else, usable on a small board without the extras.

Built with the backend of this environment if it has one, and installed alone into a bare environment that
is lent only what the base dependencies need.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
OURS = {"security", "edge_node", "gateway", "device_sim"}
EXTRAS = ["fastapi", "uvicorn", "amqtt", "numpy", "distributed"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)]
    if importlib.util.find_spec("hatchling") is not None:
        command.append("--no-isolation")
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """The Python of an environment with the wheel and its base dependencies, nothing more."""
    place = tmp_path_factory.mktemp("bare")
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    (packages,) = place.glob("lib/python*/site-packages")
    for name in closure("edgeweave"):
        lend(name, packages)
    install = [
        sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index",
        "--disable-pip-version-check", str(wheel),
    ]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True, timeout=240)
    return python


def closure(name: str, seen: set[str] | None = None) -> set[str]:
    """Distributions that *name* needs without its extras."""
    seen = set() if seen is None else seen
    for text in importlib.metadata.requires(name) or []:
        requirement, _, marker = text.partition(";")
        if "extra" in marker:
            continue
        needed = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        assert needed is not None
        try:
            importlib.metadata.distribution(needed[0])
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        if needed[0].lower() not in seen:
            seen.add(needed[0].lower())
            closure(needed[0], seen)
    return seen


def lend(name: str, packages: Path) -> None:
    """Link what a distribution installed into another environment."""
    distribution = importlib.metadata.distribution(name)
    tops = {str(file).split("/")[0] for file in distribution.files or [] if not str(file).startswith("..")}
    for top in tops - {"__pycache__"}:
        source = Path(str(distribution.locate_file(top)))
        target = packages / top
        if source.exists() and not target.exists():
            target.symlink_to(source)


def in_bare(bare: Path, code: str) -> str:
    done = subprocess.run(
        [bare, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_our_packages_are_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == OURS
    assert not [name for name in names if "test" in name.lower() or "__pycache__" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_front_door_is_only_a_docstring(wheel):
    import ast

    archive = zipfile.ZipFile(wheel)
    for package in sorted(OURS):
        body = ast.parse(archive.read(f"{package}/__init__.py")).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


def test_no_module_hides_one_of_the_standard_library(wheel):
    """Not at the top, where it would hide it; nor inside, where a reader would take one for the other."""
    stems = {Path(name).stem for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}

    assert not OURS & set(sys.stdlib_module_names)
    assert stems & (set(sys.stdlib_module_names) - {"__future__"}) == set()


def test_a_node_works_without_the_extras(bare):
    absent = in_bare(bare, f"import importlib.util as u; print([u.find_spec(n) for n in {EXTRAS}])")
    told = in_bare(
        bare,
        "import edge_node.daemon, edge_node.cli, edge_node.client, edge_node.joining; "
        "import edge_node.functions.runtimes.worker, edge_node.functions.runtimes.pool; print('fine')",
    )

    assert absent.split() == str([None] * len(EXTRAS)).split()
    assert told == "fine\n"


def test_the_four_packages_are_ours_and_the_commands_exist(bare):
    owners = json.loads(
        in_bare(
            bare,
            "import importlib.metadata as m, json; d = m.packages_distributions(); "
            f"print(json.dumps({{name: d.get(name) for name in {sorted(OURS)}}}))",
        )
    )

    assert owners == {name: ["edgeweave"] for name in OURS}
    for command in ("edge-node", "edge-gateway", "device-sim"):
        done = subprocess.run(
            [bare.parent / command, "--help"], capture_output=True, text=True, check=True, timeout=60
        )
        assert command in done.stdout


def test_a_gateway_without_its_extra_says_which(bare, tmp_path):
    """Its command line works; `up` names what to install."""
    done = subprocess.run(
        [bare.parent / "edge-gateway", "up", "--home", tmp_path / "g", "--mdns", "none"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 3
    assert "edgeweave[gateway]" in done.stderr and done.stderr.count("\n") == 1
