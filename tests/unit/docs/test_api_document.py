"""The document of the HTTP API: its tables are the code's."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.api.openapi import description, guarded_routes
from gateway.api.problems import TITLES
from gateway.api.routes import routers

API = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text()


def rows(mark: str) -> list[list[str]]:
    table = API.split(f"<!-- {mark} -->")[1].split("<!-- end -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_the_requests_told_are_all_there_are_and_who_may_make_them():
    told = {request: (role, scope) for request, role, scope, _ in rows("routes")}
    there = {
        f"{method} {route.path}": (route.need.role.word if route.need.role else "anybody", route.need.scope)
        for route in guarded_routes(routers())
        for method in route.methods
    }
    assert told == there


def test_the_problems_told_are_all_there_are():
    assert {kind: (int(status), title) for kind, status, title in rows("problems")} == TITLES


def test_every_request_is_described_with_an_answer_and_its_role():
    for path, operations in description(routers())["paths"].items():
        for method, operation in operations.items():
            told = f"{method} {path}"
            assert operation.get("description"), told
            assert any(code.startswith("2") for code in operation["responses"]), told
            assert {"4XX", "5XX"} <= operation["responses"].keys(), told
            assert operation["security"] == [] or operation["x-role"], told
            for answer in (operation["responses"][code] for code in operation["responses"] if code[0] == "2"):
                for kind, content in answer.get("content", {}).items():
                    assert "example" in content or path == "/v1/openapi.json", f"{told} {kind}"
            assert not re.search(r"Traceback|TODO", str(operation)), told
