"""Documents tell the truth: examples run, tables are the code's, links and named tests exist."""

from __future__ import annotations

import json
import re
import sys
import typing
from pathlib import Path

import msgspec
import pytest

from edge_node.control import protocol
from edge_node.functions.manifest import read_manifests
from edge_node.wire import messages
from gateway.settings import GatewaySettings

ROOT = Path(__file__).resolve().parents[3]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
README = (ROOT / "README.md").read_text()
OPERATING = (ROOT / "docs" / "operating.md").read_text()
THREATS = (ROOT / "docs" / "threat-model.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def _python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_protocol_run():
    """One after the other in one namespace, as they are read."""
    blocks = _python_blocks(PROTOCOL)
    namespace: dict[str, object] = {}

    for block in blocks:
        exec(compile(block, "docs/protocol.md", "exec"), namespace)

    assert len(blocks) >= 3


@pytest.mark.parametrize(
    ("name", "union"),
    [("messages", messages.ANY), ("control", protocol.Request | protocol.Response)],
)
def test_the_tables_of_messages_are_the_codes(name, union):
    told = PROTOCOL.split(f"<!-- {name}:")[1].split("<!-- end -->")[0]
    rows = [line for line in told.splitlines() if re.match(r"\| \d", line)]

    expected = []
    for kind in sorted(typing.get_args(union), key=lambda kind: kind.__struct_config__.tag):
        fields = []
        for field in msgspec.structs.fields(kind):
            optional = not (field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT)
            fields.append(f"`{field.name}{'?' if optional else ''}`")
        expected.append(f"| {kind.__struct_config__.tag} | {kind.__name__} | {', '.join(fields)} |")
    assert rows == expected


def test_the_settings_told_are_all_there_are():
    told = OPERATING.split("<!-- settings:")[1].split("<!-- end -->")[0]
    rows = re.findall(r"^\| `(\[\w+\] \w+)` \| `([^`]*)` \|", told, re.MULTILINE)

    expected = []
    for section in msgspec.structs.fields(GatewaySettings):
        for key in msgspec.structs.fields(section.type):
            default = key.default if key.default is not msgspec.NODEFAULT else key.default_factory()
            expected.append((f"[{section.name}] {key.name}", json.dumps(default)))
    assert rows == expected


def test_the_function_of_the_readme_is_one_that_the_mesh_takes():
    """Read as the mesh reads it, then called as plain Python."""
    block = next(block for block in _python_blocks(README) if "@function" in block)

    (manifest,) = read_manifests("lab.py", block)
    namespace: dict[str, typing.Any] = {}
    exec(compile(block, "lab.py", "exec"), namespace)

    assert manifest.name == "lab.warmest"
    assert manifest.timeout_s == 5
    rows = [{"temperature_c": 20.5}, {"temperature_c": 23.0}]
    assert namespace["warmest"](rows) == rows[1]


def test_the_client_of_the_readme_is_python():
    """It needs a daemon, so it is compiled, and what it imports is there."""
    block = next(block for block in _python_blocks(README) if "Mesh.open" in block)

    compile(block, "ask.py", "exec")
    imports = "\n".join(line for line in block.splitlines() if re.match(r"(from|import) ", line))
    exec(imports, {})

    from edge_node.client import Mesh

    for method in re.findall(r"mesh\.(\w+)\(", block):
        assert callable(getattr(Mesh, method))


def test_the_executor_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """Both blocks as files, the mesh's side being a control socket that runs functions in place."""
    from edge_node.functions.bundle import Bundle
    from edge_node.home import Home
    from tests.support.daemon_thread import serving
    from tests.support.echo_backend import EchoBackend

    lab = next(block for block in _python_blocks(README) if "@function" in block)
    program = next(block for block in _python_blocks(README) if "MeshExecutor(" in block)
    (tmp_path / "lab.py").write_text(lab)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("EDGEWEAVE_HOME", str(tmp_path / "home"))
    home, backend = Home(tmp_path / "home"), EchoBackend()
    home.create()
    digest = Bundle.of_source("lab.py", lab).digest.hex()
    backend.answers["functions"] = [{"name": "lab.warmest", "digest": digest}]
    backend.names = {"lab.warmest": "test.echo"}

    with serving(home, backend):
        exec(compile(program, "ask.py", "exec"), {"__name__": "ask"})

    sys.modules.pop("lab")
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3 and told[2].count("23.0") == 1000


def _tests_of(file: str) -> set[str]:
    return set(
        re.findall(r"^\s*(?:async )?def (test_\w+)", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    )


def test_every_test_that_the_threat_model_names_exists():
    """`file.py::test_name`, file below tests/."""
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", THREATS)

    missing = [f"{file}::{name}" for file, name in named if name not in _tests_of(file)]

    assert len(named) > 20
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        if not found.exists() or (anchor and anchor not in _anchors(found.read_text())):
            broken.append(target)
    assert broken == []


def _anchors(text: str) -> set[str]:
    """As code forges make them of headings."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
