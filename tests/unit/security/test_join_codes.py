"""The text that a person copies: whatever happens to it is noticed and named."""

import pytest

from security.enrolment import JoinCode
from security.errors import BadInput

PIN = bytes(range(32))
CODE = JoinCode.make(PIN, ("192.168.1.7:8443", "[fe80::1]:8443", "gate.local:443"), bytes(range(20)))


def test_text_and_code_are_inverses():
    assert JoinCode.parse(CODE.text()) == CODE
    assert JoinCode.parse(JoinCode.make(PIN, (), bytes(20)).text()).addresses == ()
    assert CODE.mesh_id == PIN[:8].hex()


def test_blanks_line_breaks_and_capitals_do_not_matter():
    text = CODE.text()

    assert JoinCode.parse(f"  {text[:50]}\n  {text[50:].upper()}\r\n") == CODE


def test_the_secret_is_not_printed():
    assert CODE.secret.hex() not in repr(CODE)
    assert repr(CODE.secret) not in repr(CODE)


def test_every_truncation_is_noticed():
    text = CODE.text()

    for length in range(len(text)):
        with pytest.raises(BadInput) as caught:
            JoinCode.parse(text[:length])
        assert caught.value.fix
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="truncated"):
        JoinCode.parse(text[:-1])
    with pytest.raises(BadInput, match="truncated"):
        JoinCode.parse(text[: len(text) // 2])


def test_every_altered_character_is_noticed():
    text = CODE.text()

    for place in range(len(text)):
        other = "a" if text[place] != "a" else "b"
        with pytest.raises(BadInput):
            JoinCode.parse(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "not a join code"),
        ("hello", "not a join code"),
        ("ew2.aaaa", "version 'ew2', this program speaks 'ew1'"),
        ("ew1.", "truncated"),
        (CODE.text() + ".more", "altered"),
        (CODE.text() + "a", "altered"),
        ("e" * 5000, "not a join code"),
        ("ew1.é.é.é.é.éééé", "altered"),
    ],
)
def test_what_is_no_code_is_named_in_one_line(text, cause):
    with pytest.raises(BadInput, match=cause):
        JoinCode.parse(text)


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:65536", "a b:1", "host:1,other:2", "h:1x"])
def test_no_code_is_made_for_what_is_no_address(address):
    with pytest.raises(BadInput, match="not an address"):
        JoinCode.make(PIN, (address,), bytes(20))
