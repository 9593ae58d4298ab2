"""Aborting a connection that is gone already."""

from __future__ import annotations

from security.tls import abort


class Gone:
    """As CPython 3.11.2's TLS transport after connection_lost."""

    _ssl_protocol = None

    def abort(self) -> None:
        self._ssl_protocol._abort()


def test_a_lost_connection_is_aborted_without_a_word():
    abort(Gone())
