"""HTML put together so that nothing is markup that was not meant to be.

``tag`` escapes every string that is not ``Html`` already, within elements and within attributes; a name from
a scenario, an error's text or a path can stand anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

_EMPTY: Final = frozenset({"img", "meta", "br"})


class Html(str):
    """Text that is markup."""

    __slots__ = ()


Inside = str | Html | None


def tag(name: str, /, *inside: Inside, **attributes: str | None) -> Html:
    """An element. An attribute that is None is left out; ``class_`` is ``class``, ``_`` is ``-``."""
    heads = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Html(f"<{name}{heads}>")
    return Html(f"<{name}{heads}>{join(inside)}</{name}>")


def join(parts: Iterable[Inside], between: str = "") -> Html:
    """One after the other; None is nothing."""
    return Html(
        between.join(
            part if isinstance(part, Html) else escape(part, quote=False)
            for part in parts
            if part is not None
        )
    )
