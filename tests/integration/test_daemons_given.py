"""A gateway with a given certificate: browsers see that one, joining nodes the mesh's, on one port."""

from __future__ import annotations

import json
import ssl

import httpx
import pytest

from edge_node.commands import exits
from gateway import cli
from gateway.access.roles import Role
from tests.support.certs_for_tests import TestAuthority
from tests.support.daemons import Bed
from tests.support.http_api import Api

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A CA that browsers would know."""
    return TestAuthority(tmp_path_factory.mktemp("other"), "other")


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("given")) as bed:
        yield bed


def settle(gateway, certificate, key):
    gateway.home.create()
    gateway.home.settings.write_text(f'[api]\ncertificate = "{certificate}"\nkey = "{key}"\n')


def test_nodes_join_by_the_meshs_ca_and_a_browser_sees_the_given_certificate(bed, other, tmp_path, capsys):
    gateway, leaf = bed.gateway(), other.leaf("gw", dns="localhost")
    settle(gateway, leaf.cert_file, leaf.key_file)
    gateway.start()

    node = bed.join("pi-1").start().connected()
    gateway.until("pi-1 is up", lambda status: "pi-1" in status["peers_up"])
    assert bed.cli(node, "renew").code == 0, "renewals are bound to the mesh's certificate too"

    api = Api(gateway).people()
    port = api.base.rpartition(":")[2]
    browser = ssl.create_default_context(cafile=str(other.ca_file))
    with httpx.Client(verify=browser, base_url=f"https://localhost:{port}") as client:
        assert client.get("/livez").json() == {"live": True}
    status = gateway.ask(lambda mesh: mesh.call("status"))
    assert status["given certificate"]["names"] == ["localhost"]

    token = tmp_path / "token"
    token.write_text(api.tokens[Role.VIEWER])
    token.chmod(0o600)

    def nodes(host, ca):
        words = ["--url", f"https://{host}:{port}", "--token-file", token, "--ca", ca, "nodes", "--json"]
        code = cli.program.enter([str(each) for each in words])
        return code, json.loads(capsys.readouterr().out)

    for host, ca in (("localhost", other.ca_file), ("127.0.0.1", gateway.home.keys / "root.pem")):
        code, rows = nodes(host, ca)
        assert code == 0 and [row["id"] for row in rows] == ["gateway", "pi-1"]
    assert nodes("127.0.0.1", other.ca_file)[0] == exits.REFUSED, "it is not for that name"


def test_a_gateway_does_not_start_with_a_certificate_that_cannot_be_shown(bed, other):
    gateway = bed._daemon("edge-gateway", "wrong", bed.daemons["gateway"].options)
    one, two = (other.leaf(name, dns="localhost") for name in ("one", "two"))
    settle(gateway, one.cert_file, two.key_file)

    told = gateway.launch().ended()

    assert told.code == exits.BAD_INPUT
    assert "is not the key of" in told.err + told.out and "Traceback" not in told.err + told.out
