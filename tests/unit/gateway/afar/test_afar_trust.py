"""Which gateway is meant, with which token, by what it is believed."""

from __future__ import annotations

import pytest

from gateway.afar.trust import anchor_of, checked_url, is_mesh_root, reach_of
from security.authority import Authority
from security.certificates import pem_of, spki_sha256_of
from security.errors import BadInput
from security.identity import mesh_id_of

TOKEN = "ewt_k7q2mzpe_c2VjcmV0c2VjcmV0"
URL = "https://192.0.2.7:8443"


@pytest.fixture(scope="module")
def authority():
    return Authority.create(now_s=1_790_000_000, entropy=lambda count: b"7" * count)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (URL, URL), (f"{URL}/", URL), ("https://gw.example", "https://gw.example"),
        ("https://[2001:db8::7]:8443", "https://[2001:db8::7]:8443"), ("HTTPS://GW:1", "https://gw:1"),
    ],
)  # fmt: skip
def test_a_url_is_a_host_and_a_port(given, meant):
    assert checked_url(given) == meant


@pytest.mark.parametrize(
    "given",
    [
        "http://192.0.2.7:8443", "192.0.2.7:8443", "https://", "https://:8443", "https://a b:1", "https://x:0",
        "https://x:70000", "https://x:y", "https://ann:pw@x:1", "https://x:1/v1", "https://x:1?y", "https://[x",
        "https://x:1#y", "ftp://x", "",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_gateway_is_said_so(given):
    with pytest.raises(BadInput) as caught:
        checked_url(given)
    assert "https" in f"{caught.value.cause} {caught.value.fix}"


def test_a_token_comes_from_the_command_line_or_a_file_that_others_cannot_read(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)

    assert reach_of(URL, token="", token_file=str(file), ca="").token == TOKEN
    assert reach_of(URL, token=TOKEN, token_file="", ca="").token == TOKEN

    file.chmod(0o640)
    with pytest.raises(BadInput, match="may be read by others") as caught:
        reach_of(URL, token="", token_file=str(file), ca="")
    assert caught.value.fix == f"chmod 600 {file}"
    for token, path in (("", ""), (TOKEN, str(file)), ("", str(tmp_path / "none"))):
        with pytest.raises(BadInput):
            reach_of(URL, token=token, token_file=path, ca="")


@pytest.mark.parametrize(
    "token", ["short", "ewt_with space_here", "ewt_line\nbreak", "ewt_é_éééééé", "x" * 600]
)
def test_what_is_no_token_is_not_sent_and_not_repeated(token):
    with pytest.raises(BadInput) as caught:
        reach_of(URL, token=token, token_file="", ca="")
    assert token not in f"{caught.value.cause} {caught.value.fix}"


def test_a_meshs_root_means_its_gateway_at_whatever_address(tmp_path, authority):
    file = tmp_path / "root.pem"
    file.write_bytes(pem_of(authority.root))

    anchor = anchor_of(str(file))

    mesh_id = mesh_id_of(spki_sha256_of(authority.root))
    assert is_mesh_root(authority.root) and anchor.name == f"gateway.{mesh_id}.mesh"
    assert anchor.context.check_hostname and len(anchor.context.get_ca_certs()) == 1


def test_another_ca_vouches_for_the_host_of_the_url(tmp_path, authority):
    """An issuing CA stands for any that is no mesh's root."""
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.chain_pem)

    anchor = anchor_of(str(file))

    assert anchor.name == "" and anchor.context.check_hostname


@pytest.mark.parametrize("data", [b"", b"no certificate", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nxx"])
def test_a_file_without_a_certificate_is_said_so(tmp_path, data):
    file = tmp_path / "ca.pem"
    file.write_bytes(data)

    with pytest.raises(BadInput, match="holds no certificate"):
        anchor_of(str(file))


def test_a_pin_is_sixty_four_digits(authority):
    pin = spki_sha256_of(authority.root).hex()

    for ca in (pin, f"sha256:{pin}"):
        assert reach_of(URL, token=TOKEN, token_file="", ca=ca).pin == pin
    assert reach_of(URL, token=TOKEN, token_file="", ca="root.pem").pin == ""
