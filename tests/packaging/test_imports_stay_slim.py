"""What a node's daemon really loads, and that every core of the house is under the purity contract."""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNWANTED = {
    "typer",
    "rich",
    "textual",
    "structlog",
    "prometheus_client",
    "fastapi",
    "uvicorn",
    "amqtt",
    "numpy",
    "click",
    "opentelemetry",
}


def loaded_by(module: str, then: str = "") -> set[str]:
    code = f"import {module}\n{then}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["edge_node.daemon", "edge_node.functions.runtimes.worker", "edge_node.client"]
)
def test_nothing_that_only_a_terminal_or_a_gateway_needs_is_loaded(module):
    loaded = loaded_by(module)

    assert module in loaded
    assert UNWANTED & {name.partition(".")[0] for name in loaded} == set()
    assert "gateway" not in loaded and "device_sim" not in loaded


@pytest.mark.slow
def test_a_node_does_not_load_what_its_fifty_megabytes_have_no_room_for():
    """See docs/decisions/0008: each of these costs some tenths of a megabyte, and none is used when idle."""
    costly = {
        *("argparse", "logging.handlers", "urllib.request", "http.client", "tomllib", "difflib"),
        *("ast", "locale", "calendar", "typing_extensions", "msgspec.inspect", "msgspec._json_schema"),
        *("email", "email.utils", "cryptography.hazmat.primitives.serialization.ssh"),
        *("ctypes.util", "tempfile", "shutil", "bz2", "lzma"),
        *("edge_node.store.pages", "edge_node.store.recovery", "edge_node.chronicle.account"),
        "edge_node.state",
        *("encodings.idna", "stringprep", "unicodedata", "security.enrolment", "edge_node.joining"),
    }

    assert costly & loaded_by("edge_node.daemon", "edge_node.discovery.mdns.local_addresses()") == set()


@pytest.mark.slow
def test_the_gateways_daemon_needs_no_terminal_library_and_no_page_before_somebody_looks():
    costly = {"typer", "rich", "textual", "numpy", "nicegui", "uvicorn.main", "watchfiles", "multiprocessing"}

    assert costly & loaded_by("gateway.daemon") == set()


@pytest.mark.slow
def test_whoever_asks_uvicorn_for_what_the_gateway_left_out_gets_it():
    asked = "import uvicorn; assert uvicorn.run.__module__ == 'uvicorn.main' and uvicorn.Server is not None"

    assert {"uvicorn.main", "uvicorn.supervisors"} <= loaded_by("gateway.api.app", asked)


# Which modules are cores, as the house names them, and what is a shell beside them. A new module in one of
# these rooms must be put on one of the two sides.
ROOMS = {
    "security": {"keystore", "tls"},
    "edge_node/chronicle": set(),
    "edge_node/wire": set(),
    "edge_node/discovery": {"mdns", "neighbours", "slim_ifaddr"},
    "edge_node/membership": {"abilities", "renewal", "standing"},
    "edge_node/scheduling": set(),
    "edge_node/state": {"blocking", "links", "state", "table", "twin"},
    "edge_node/store": {
        *(
            "archive",
            "at_rest",
            "documents",
            "events_feed",
            "experience",
            "ledger",
            "mark",
            "notes",
            "pages",
            "recovery",
        ),
        *("opened", "replication", "retention", "verification", "wear", "whole_file"),
    },
    "edge_node/store/crdt": set(),
    "edge_node/tasks": {"journal"},
    "edge_node/telemetry": {"otlp"},
    "edge_node/transport": {"inbox", "link", "memory", "mqtt", "slim_paho"},
    "gateway/afar": {"line", "trust"},
    "gateway/access": {"access", "audit", "passwords"},
    "gateway/broker": {"broker", "door_list", "embedded", "mosquitto", "process"},
    "gateway/console": {
        "book",
        "caller",
        "console",
        "feed",
        "forms",
        "live",
        "log_in_page",
        "matrix",
        "mesh_graph",
        "parts",
        "story",
        "table",
        "view",
    },
    "gateway/fleet": set(),
    "gateway/top": {"asking", "dialogues", "screen"},
    "device_sim": {"cli", "screen"},
    "device_sim/devices": {"driver", "moments", "parquet", "series"},
    "device_sim/scenario": set(),
    "device_sim/report": {"charts", "folder", "recompute", "surroundings"},
    "device_sim/virtual": {
        *("attempt", "deployed", "drawing", "focus", "guard", "link", "loop", "play", "processor"),
        *("recorded", "shelf", "sites", "swarm", "world"),
    },
    "device_sim/virtual/checkers": set(),
}


def contract(name: str) -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    return set(parser[f"importlinter:contract:{name}"]["source_modules"].split())


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_core_is_under_the_purity_contract(room):
    found = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"}
    cores = {f"{room.replace('/', '.')}.{stem}" for stem in found - ROOMS[room]}

    assert cores - contract("pure-cores") == set(), "list it in .importlinter, or here as a shell"
    assert ROOMS[room] <= found, "a shell named here is gone"


def test_every_module_under_contract_exists():
    for name in contract("pure-cores") | contract("slim-daemon"):
        path = ROOT / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), name
