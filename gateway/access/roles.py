"""Roles, scopes, and who asks.

    viewer    sees everything but accounts and the audit log
    operator  and gives work, lets nodes in and out, changes tables
    admin     and publishes code, manages accounts, reads the audit log

A role includes those below it. A token may also be bound to scopes, ``nodes:read``, ``tasks:write``: it does
what both its role and a scope allow. What each request needs is said where the request is served.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Literal

from security.errors import BadInput


class Role(enum.IntEnum):
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        return self.name.lower()


WORDS: Final = tuple(role.word for role in Role)
RESOURCES: Final = (
    "access", "audit", "events", "functions", "joining", "metrics", "nodes", "roster", "state", "tasks",
)  # fmt: skip
SCOPES: Final = frozenset(f"{resource}:{verb}" for resource in RESOURCES for verb in ("read", "write"))

Kind = Literal["session", "token", "setup", "local"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as far as it was proved.

    Args:
        name: a user's name; ``token:<name>#<id>``; ``local:<account>`` for the owner of the control socket.
        scopes: None: all; else of ``SCOPES``.
        csrf: what a browser must send in a header with its cookie; "" where no cookie is used.
    """

    name: str
    role: Role
    kind: Kind
    scopes: frozenset[str] | None = None
    csrf: str = ""

    def lacks(self, role: Role, scope: str) -> str:
        """Why this may not be asked, in one line; "" if it may."""
        if self.role < role:
            return f"this needs the role {role.word}, and {self.name} is {self.role.word}"
        if self.scopes is not None and scope not in self.scopes:
            return f"this needs the scope {scope}, which {self.name} does not have"
        return ""


def role_of(word: str) -> Role:
    """Raises: BadInput: there is no such role."""
    if word not in WORDS:
        raise BadInput(f"role {word!r:.40} is not known", fix=f"there are {', '.join(WORDS)}")
    return Role[word.upper()]
