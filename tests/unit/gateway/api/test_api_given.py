"""A given certificate beside the mesh's: who is shown which, and what is not shown at all."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time

import pytest

from edge_node.clock import SystemClock
from edge_node.home import Home
from gateway import doctor
from gateway.api.given import GivenCertificate
from gateway.house import given_certificate
from gateway.settings import ApiSettings, GatewaySettings
from security.errors import BadInput
from security.tls import given_context
from tests.support.certs_for_tests import MESH, TestAuthority

OWN = f"gateway.{MESH}.mesh"


@pytest.fixture
def mesh(tmp_path):
    return TestAuthority(tmp_path / "mesh")


@pytest.fixture
def other(tmp_path):
    """A CA that browsers would know."""
    return TestAuthority(tmp_path / "other", "other")


def given_of(leaf):
    given = GivenCertificate(leaf.cert_file, leaf.key_file, MESH, SystemClock())
    given.load()
    return given


@contextlib.asynccontextmanager
async def served(mesh, given):
    """(name) → the names in the certificate that a client is shown which asks for *name*, or for none."""
    leaf = mesh.leaf("gateway", dns=OWN)
    context = given_context(leaf.cert_file, leaf.key_file)
    context.sni_callback = given.choose
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)

    async def shown(name, *cas):
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        for ca in cas:
            client.load_verify_locations(ca.ca_file)
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name or "")
        found = writer.get_extra_info("peercert")
        writer.close()
        return [host for _, host in found["subjectAltName"]]

    async with server:
        yield shown


async def test_the_name_that_is_asked_for_decides_which_certificate_is_shown(mesh, other):
    given = given_of(other.leaf("gw", dns="gw.example"))

    async with served(mesh, given) as shown:
        for name in ("gw.example", "GW.example"):
            assert await shown(name, mesh, other) == ["gw.example"]
        for name in (OWN, "other.example", "a.gw.example", None):
            assert await shown(name, mesh, other) == [OWN], name


async def test_a_star_stands_for_one_label_and_never_for_the_meshs_own_name(mesh, other):
    given = given_of(other.leaf("star", dns=f"*.{MESH}.mesh"))
    async with served(mesh, given) as shown:
        assert await shown(OWN, mesh, other) == [OWN]

    shown = given_of(other.leaf("wide", dns="*.example")).shown
    assert shown.fits("gw.example") and shown.fits("gw.example.")
    assert not any(shown.fits(name) for name in ("example", "a.gw.example", ".example.", None))


async def test_files_that_change_are_shown_to_new_connections(mesh, other):
    first, second = (other.leaf("gw", dns=f"{name}.example", filed_as=name) for name in ("one", "two"))
    given = given_of(first)
    assert not given.look(), "nothing has changed"

    async with served(mesh, given) as shown:
        assert await shown("one.example", mesh, other) == ["one.example"]
        second.cert_file.replace(first.cert_file)
        assert not given.look(), "half of a pair: the key is still the old one"
        assert await shown("one.example", mesh, other) == ["one.example"]
        second.key_file.replace(first.key_file)
        assert given.look()
        assert await shown("two.example", mesh, other) == ["two.example"]
        assert await shown("one.example", mesh, other) == [OWN]

    first.cert_file.unlink()
    assert not given.look()
    assert given.facts()["names"] == ["two.example"], "the last good one stays"


def test_what_cannot_be_shown_is_refused_with_its_reason(tmp_path, other):
    good, ended = other.leaf("gw", dns="gw.example"), other.leaf("old", dns="gw.example", days=-3)
    loose = other.leaf("loose", dns="gw.example")
    loose.key_file.chmod(0o644)
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    text.chmod(0o600)
    absent = tmp_path / "absent.pem"

    cert, key = good.cert_file, good.key_file
    for files, said in (
        ((ended.cert_file, ended.key_file), "expired on"), ((cert, ended.key_file), "is not the key of"),
        ((loose.cert_file, loose.key_file), "may be read by everybody"),
        ((text, key), "holds no certificate"),
        ((cert, text), "hold no certificate and its key"), ((absent, key), "cannot read"),
        ((cert, absent), "cannot read"), ((tmp_path, key), "cannot read"),
    ):  # fmt: skip
        with pytest.raises(BadInput) as caught:
            GivenCertificate(*files, MESH, SystemClock()).load()
        assert said in caught.value.cause and caught.value.fix


def test_whatever_a_damaged_certificate_holds_the_last_good_one_stays(other, caplog):
    leaf = other.leaf("gw", dns="gw.example")
    given = given_of(leaf)
    first, end, _ = leaf.cert_file.read_text().partition("-----END CERTIFICATE-----")  # the rest is its chain
    der = ssl.PEM_cert_to_DER_cert(first + end)
    # Another extension's id becomes that of the names, so there are two of these.
    twice = der.replace(bytes.fromhex("0603551d13"), bytes.fromhex("0603551d11"))
    assert twice != der

    leaf.cert_file.write_text(ssl.DER_cert_to_PEM_cert(twice) + " ")

    assert given.look() is False and given.shown.names == ("gw.example",)
    assert "extensions are damaged" in str(caplog.records[-1].cause)


def test_a_key_alone_is_refused_and_nothing_given_is_the_meshs_own(tmp_path, other):
    home, clock = Home(tmp_path / "gateway"), SystemClock()
    alone = GatewaySettings(api=ApiSettings(key="x.pem"))

    with pytest.raises(BadInput, match=r"without \[api\] certificate"):
        given_certificate(home, alone, MESH, clock)
    assert given_certificate(home, GatewaySettings(), MESH, clock) is None

    below = given_certificate(home, GatewaySettings(api=ApiSettings(certificate="tls/gw.pem")), MESH, clock)
    assert below is not None and below.certificate == below.key == home.path / "tls" / "gw.pem"


def test_doctor_tells_how_long_a_given_certificate_lasts(tmp_path, other):
    home = Home(tmp_path / "gateway")

    def judged(days):
        leaf = other.leaf(f"d{days}", dns="gw.example", days=days)
        settings = GatewaySettings(api=ApiSettings(certificate=str(leaf.cert_file), key=str(leaf.key_file)))
        (finding,) = doctor.given_certificate(home, settings, time.time())
        return finding.verdict

    assert [judged(days) for days in (60, 5, -2)] == ["ok", "warn", "fail"]
    assert doctor.given_certificate(home, GatewaySettings(), time.time()) == []
