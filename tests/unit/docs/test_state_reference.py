"""The page about tables tells the truth: commands, bounds and methods are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edge_node import cli
from edge_node.store import batch, requests, tables
from edge_node.store.replica import Limits

ROOT = Path(__file__).resolve().parents[3]
STATE = (ROOT / "docs" / "state.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def section(title):
    return STATE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_command_of_the_tables_has_its_row():
    (state,) = [each for each in cli.app.registered_groups if each.name == "state"]

    told = set(re.findall(r"`state (\w+)", section("Commands")))

    assert told == {each.name for each in state.typer_instance.registered_commands}


def test_the_options_that_are_told_are_those_that_are_offered():
    (state,) = [each for each in cli.app.registered_groups if each.name == "state"]
    offered = set()
    for command in state.typer_instance.registered_commands:
        for parameter in command.callback.__signature__.parameters.values():
            for each in getattr(parameter.annotation, "__metadata__", ()):
                offered |= {
                    each.default,
                    *(each.param_decls or ()),
                }  # in Annotated the first name stands there
    offered = {each for each in offered if isinstance(each, str) and each.startswith("--")}

    told = set(re.findall(r"(?<!-)--[a-z][a-z-]*", section("Commands") + section("Export and import")))

    assert told == offered


def test_the_bounds_are_the_codes():
    limits = Limits()
    kib, mib = 1024, 1024 * 1024
    rows = [
        f"| {batch.VALUE_BYTES_MAX // kib} KiB |",
        f"| {batch.KEY_BYTES_MAX} · {batch.FIELD_BYTES_MAX} · {batch.TABLE_BYTES_MAX} bytes |",
        f"| {limits.keys_max:,} |".replace(",", " "),
        f"| {limits.bytes_max // mib} MiB; of one writer {limits.quota_bytes // mib} MiB |",
        f"| {limits.write_changes_max:,} fields,".replace(",", " ", 1) + " all or none |",
        f"| {limits.log_bytes_max // mib} MiB, then a minute of silence is enough",
        f"is enough; {limits.log_bytes_full // mib} MiB |",
        f"| {limits.waiting_each} batches or {limits.waiting_bytes_each // mib} MiB a writer,",
        f" a writer, {limits.waiting_bytes_max // mib} MiB |",
        f"| {tables.FEED_MAX:,} or {tables.FEED_BYTES_MAX // mib} MiB,".replace(",", " ", 1),
        f" MiB, {tables.WATCHED_MAX} tables, {requests.POLLS_MAX} watches at once |",
    ]

    assert [row for row in rows if row not in section("Bounds")] == []
    assert f"at most {tables.PAGE_BYTES_MAX // mib} MiB" in section("Bounds")


def test_every_method_of_the_tables_has_its_row_and_its_fields():
    told = PROTOCOL.split("<!-- state methods:")[1].split("<!-- end -->")[0]
    rows = {
        name: re.findall(r"`(\w+\??)`", params)
        for name, params in re.findall(r"^\| `state\.(\w+)` \|([^|]*)\|", told, re.MULTILINE)
    }
    kinds = {
        kind.__name__.removeprefix("_").lower(): [
            each.name + ("" if each.required else "?") for each in msgspec.structs.fields(kind)
        ]
        for kind in requests._Params.__subclasses__()
    }

    assert {name: rows[name] for name in kinds} == kinds
    assert rows.keys() - kinds.keys() == {"fresh", "clock"}, "these two are the replication's own"
