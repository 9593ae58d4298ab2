"""The OpenAPI document: what it says by examples is what it asks for."""

from __future__ import annotations

import jsonschema_rs
import pytest

from gateway.api import routes
from gateway.api.openapi import description

BY_VERSION = {
    ("post", "/v1/functions"), ("post", "/v1/functions/{name}/rollback"),
    ("patch", "/v1/users/{name}"), ("put", "/v1/users/{name}/password"), ("delete", "/v1/users/{name}"),
    ("put", "/v1/state/tables/{table}/{doc_id}"), ("patch", "/v1/state/tables/{table}/{doc_id}"),
    ("delete", "/v1/state/tables/{table}/{doc_id}"), ("patch", "/v1/twins/{node}"),
    ("post", "/v1/nodes/{node}/revoke"), ("post", "/v1/nodes/{node}/replace"),
    ("post", "/v1/nodes/{node}/pause"), ("post", "/v1/nodes/{node}/drain"),
    ("post", "/v1/nodes/{node}/resume"),
}  # fmt: skip
"""Changes that are made only onto the version that was read, if the request names one."""


@pytest.fixture(scope="module")
def document():
    return description(routes.routers())


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def examples_of(document, schema):
    """Of a body: its own, or those of what it refers to."""
    for each in (schema, *schema.get("anyOf", ())):
        name = each.get("$ref", "").rpartition("/")[2]
        yield from each.get("examples", ())
        yield from document["components"]["schemas"].get(name, {}).get("examples", ())


def told(document):
    """(where, schema, example) of everything that has an example."""
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        for each in operation.get("parameters", ()):
            given = [*each["schema"].get("examples", ()), *([each["example"]] if "example" in each else ())]
            yield from ((f"{where} {each['name']}", each["schema"], one) for one in given)
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            schema = content["schema"]
            given = [*examples_of(document, schema), *([content["example"]] if "example" in content else ())]
            yield from ((f"{where} {kind}", schema, one) for one in given)
        for status, answer in operation["responses"].items():
            for content in answer.get("content", {}).values():
                if "schema" in content and "example" in content:
                    yield f"{where} {status}", content["schema"], content["example"]


def test_every_example_fits_what_is_asked_for(document):
    wrong, seen = [], 0
    for where, schema, one in told(document):
        seen += 1
        whole = {**schema, "components": document["components"]}
        if not jsonschema_rs.is_valid(whole, one):
            wrong.append((where, one))

    assert wrong == []
    assert seen > 200


def test_every_body_has_an_example_and_every_parameter_words(document):
    bare = []
    for method, path, operation in operations(document):
        bare += [
            f"{method} {path} {p['name']}"
            for p in operation.get("parameters", ())
            if not p.get("description")
        ]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if "example" not in content and not list(examples_of(document, content["schema"])):
                bare.append(f"{method} {path}: its body")

    assert bare == []


def test_changes_by_version_say_so(document):
    found = {
        (method, path)
        for method, path, operation in operations(document)
        if any(each["name"] == "If-Match" for each in operation.get("parameters", ()))
    }

    assert found == BY_VERSION
