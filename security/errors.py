"""Whose fault it is, and what happens next.

Every error that may reach a person carries its cause in one line and, where one exists, the fix.
The command line turns the class into an exit code; a peer's fault never crashes a daemon.
"""

from __future__ import annotations


class EdgeweaveError(Exception):
    """Base of the errors that we raise on purpose: ``cause`` in one line, ``fix`` what to do about it."""

    def __init__(self, cause: str, *, fix: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.cause}: {self.fix}" if self.fix else self.cause


class ProtocolViolation(EdgeweaveError):
    """The peer's fault: drop the message, count it by reason, go on."""


class BadInput(EdgeweaveError, ValueError):
    """The caller's fault: a file, argument or setting that does not fit. Nothing was changed.

    Args: field: the argument that is meant, by its name, where the caller gave several.
    """

    def __init__(self, cause: str, *, fix: str = "", field: str = "") -> None:
        super().__init__(cause, fix=fix)
        self.field = field


class Refused(EdgeweaveError):
    """Policy: send ``reason`` back; do not retry."""

    @property
    def reason(self) -> str:
        return self.cause


class Unavailable(EdgeweaveError):
    """The world's fault: wait ``retry_after_s`` and retry with jitter and a budget."""

    def __init__(self, cause: str, *, fix: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(cause, fix=fix)
        self.retry_after_s = retry_after_s
