"""A real gateway's accounts and audit log, by its commands: who did what is known, and stays known."""

from __future__ import annotations

import getpass
import json

import pytest

from security.errors import BadInput, Refused
from tests.support.daemons import Bed

pytestmark = pytest.mark.slow

WORDS = b"four words of dice\n"


def test_every_change_of_a_gateway_is_noted_and_survives_kill_and_restore(tmp_path):
    with Bed(tmp_path) as bed:
        gateway = bed.gateway().start()
        link = gateway.ready["setup"]
        assert link.startswith(f"https://{gateway.ready['joining']}/setup#")
        source = {"source": bed.toys.read_bytes(), "stem": "toys"}

        async def change(mesh):
            code = (await mesh.call("invite", {"name": "pi-1"}))["code"]
            await mesh.call("deploy", source)
            await mesh.call("deploy", source)  # changes nothing, is not noted
            await mesh.call("user-add", {"name": "ann", "role": "admin", "password": WORDS.decode().strip()})
            endless = {"name": "ci", "role": "viewer", "ttl_s": float("inf")}
            for method, params in (
                ("user-remove", {"name": "ann"}), ("revoke", {"node": "pi-9"}), ("token-add", endless),
            ):  # fmt: skip
                with pytest.raises((BadInput, Refused)):  # as is what was refused
                    await mesh.call(method, params)
            token = await mesh.call("token-add", {"name": "ci", "role": "viewer", "ttl_s": 3600})
            return code, token["secret"]

        code, token = gateway.ask(change)

        gateway.kill()
        gateway.start()
        entries = gateway.ask(lambda mesh: mesh.call("audit"))
        assert "setup" not in gateway.ready
        assert [(each["n"], each["what"], each["target"]) for each in entries] == [
            (1, "audit.begin", ""),
            (2, "node.invite", "pi-1"),
            (3, "function.deploy", "toys"),
            (4, "user.add", "ann"),
            (5, "token.add", entries[4]["after"]["id"]),
        ]
        assert {each["who"] for each in entries[1:]} == {f"local:{getpass.getuser()}"}
        assert entries[2]["before"] is None and entries[2]["after"]["toys.add"]["version"] == 1
        assert bed.cli(gateway, "audit", "verify").text == "5 entries, whole"

        held = "".join(
            path.read_text("utf-8", "replace")
            for path in [*gateway.home.path.glob("a*.*"), *gateway.home.logs.iterdir()]
            if path.is_file()
        )
        for secret in (WORDS.decode().strip(), token, token.split("_", 2)[2], code, link.partition("#")[2]):
            assert secret not in held

        backup = str(tmp_path / "mesh.backup")
        assert bed.cli(gateway, "backup", backup, stdin=WORDS).code == 0
        other = bed._daemon("edge-gateway", "restored", ())
        assert bed.cli(other, "restore", backup, stdin=WORDS).code == 0

        log = other.home.path / "audit.log"
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:3]))
        told = bed.cli(other, "audit", "verify", "--json")
        assert told.code == 1 and json.loads(told.out)["broken_at"] == 4
