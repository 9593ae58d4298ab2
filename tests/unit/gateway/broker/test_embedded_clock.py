"""The embedded broker on a machine whose clock is certainly wrong."""

from __future__ import annotations

import ssl

import pytest

from gateway.broker import embedded
from gateway.broker.access import Listener
from security.certificates import RELEASED_S
from security.tls import NO_CHECK_TIME
from tests.support.certs_for_tests import MESH, TestAuthority


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """In memory. Raises: ssl.SSLError: one of the two refuses the other."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(there, back, server_side=True),
        client.wrap_bio(back, there, server_hostname=name),
    ]
    waiting = set(sides)
    for _ in range(8):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.discard(side)
        if not waiting:
            return
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize(("now_s", "admitted"), [(0, True), (RELEASED_S - 1, True), (RELEASED_S, False)])
def test_dates_count_unless_the_clock_is_before_our_release(tmp_path, monkeypatch, now_s, admitted):
    """What "not valid yet" is for a board in 1970, an expired leaf is here: OpenSSL asks the real clock."""
    authority = TestAuthority(tmp_path / "ca")
    shown, expired = authority.broker(), authority.leaf("a", days=-1)
    files = {"ca_file": authority.ca_file, "cert_file": shown.cert_file, "key_file": shown.key_file}
    listener = Listener(
        mesh=MESH, host="127.0.0.1", port=1, folder=str(tmp_path), log_file=str(tmp_path / "log"),
        **{name: str(path) for name, path in files.items()},
    )  # fmt: skip
    monkeypatch.setattr(embedded.time, "time", lambda: now_s)
    server = embedded.server_context(listener)
    monkeypatch.undo()

    assert bool(server.verify_flags & NO_CHECK_TIME) is admitted
    if admitted:
        handshake(server, authority.client_context(expired), authority.broker_name)
    else:
        with pytest.raises(ssl.SSLError, match="expired"):
            handshake(server, authority.client_context(expired), authority.broker_name)
