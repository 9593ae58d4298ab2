"""The embedded broker's door, in the moment between the question and the session."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from gateway.broker import embedded
from gateway.broker.access import Listener
from security.identity import bearer
from tests.support.certs_for_tests import MESH, TestAuthority

OLD, NEW = bearer("a", bytes(32)), bearer("a", bytes([1]) * 32)


@pytest.mark.parametrize(("listed", "admitted"), [(OLD, True), (NEW, False)])
async def test_a_key_that_is_shut_out_while_it_comes_in_is_not_let_in_by_its_name(tmp_path, listed, admitted):
    authority = TestAuthority(tmp_path / "ca")
    shown = authority.broker()
    listener = Listener(
        mesh=MESH, host="127.0.0.1", port=1, folder=str(tmp_path), log_file=str(tmp_path / "log"),
        ca_file=str(authority.ca_file), cert_file=str(shown.cert_file), key_file=str(shown.key_file),
    )  # fmt: skip
    file = tmp_path / "members.json"
    file.write_text(json.dumps([OLD]))
    members = embedded.Members(MESH, file)
    members.refresh()
    broker = embedded.make_broker(listener, members)
    broker.bearers["a"] = OLD
    new = file.with_suffix(".new")
    new.write_text(json.dumps([listed]))
    new.replace(file)
    members.refresh()

    assert await broker._authenticate(SimpleNamespace(client_id="a"), None) is admitted
