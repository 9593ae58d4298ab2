"""Stand-ins: a library is imported without a module that it names and we never use.

    with lent(Later("email.utils", parseaddr=...)):      what is used while importing is handed over,
        import cryptography.x509                          everything else comes when it is asked for

A stand-in changes what is loaded, never what is answered: whatever else is asked of it comes from the real
module, which is imported then. A process that has the real one already keeps it.

Not here: which modules a daemon does without (``slim``).
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Final, cast

_PENDING: Final = object()
"""In the place of what a library took from a stand-in by name; `on_demand` sees to it."""


class Later(types.ModuleType):
    """Looks like the module *name*, and loads it at the first question that *present* does not answer.

    Args: pending: names that a library takes at its import, and that `on_demand` gives it later.
    """

    def __init__(self, name: str, pending: Sequence[str] = (), **present: object) -> None:
        super().__init__(name)
        self.__dict__.update(dict.fromkeys(pending, _PENDING), _pending=pending, **present)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import system's questions
            raise AttributeError(name)
        real = importlib.import_module(self.__name__)
        if real is self:  # lent at this moment: the library needs more of it than we knew
            raise AttributeError(f"the stand-in for {self.__name__} has no {name}")
        value: object = getattr(real, name)
        self.__dict__[name] = value
        return value


@contextlib.contextmanager
def lent(*stand_ins: Later, absent: tuple[str, ...] = ()) -> Iterator[None]:
    """Within the block imports find these, and no module *absent*; what is loaded already stays."""
    modules = cast("dict[str, types.ModuleType | None]", sys.modules)  # None: there is no such module
    lendable: dict[str, types.ModuleType | None] = {each.__name__: each for each in stand_ins}
    lendable.update(dict.fromkeys(absent))
    ours = {name: each for name, each in lendable.items() if name not in modules}
    modules.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del modules[name]  # the next import of it is the real one


def on_demand(library: types.ModuleType, stand_in: Later) -> None:
    """The names that *library* took from the stand-in come from the real module when they are asked for."""
    names = frozenset(name for name in vars(stand_in)["_pending"] if getattr(library, name) is _PENDING)

    def look(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {library.__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(stand_in.__name__), name)
        setattr(library, name, value)
        return value

    for name in names:
        delattr(library, name)
    if names:
        library.__getattr__ = look  # type: ignore[method-assign]  # PEP 562
