"""The tables' file over its damages: a `CellStore` that is mended when it is loaded (promise P6).

    load ─► sound? ─► image
            └─► damaged ─► set aside (`cell_rescue`) ─► a new file with what goes on ─► image, `losses`

Not here: rows (`cells`), what can be saved (`cell_rescue`), a thread (`cell_thread`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_node.store.cell_store import Commit, Image
from edge_node.store.mark import SUFFIX as MARK_SUFFIX
from edge_node.store.mark import beside
from edge_node.store.storage.cells import NO_KEY_FIX, SqliteCellStore
from edge_node.tasks.rows import StoreDamaged
from security.errors import BadInput
from security.keystore import KeyStore

READY = ".new"
"""A mended file that has not taken the damaged one's place yet: `cell_rescue` goes on with it."""

log = logging.getLogger(__name__)


def state_key(path: Path, keystore: KeyStore, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """The key of the tables' file of a home; made if neither key nor file are there.

    Raises: BadInput: the file is there and its key is not, or the key is damaged. Unavailable: the disk
    refuses.
    """
    key = keystore.state_key()
    if key is None:
        if any(beside(path, part).exists() for part in ("", MARK_SUFFIX, READY)):
            raise BadInput(f"the key of {path} is gone", fix=NO_KEY_FIX)
        key = keystore.make_state_key(entropy)
    return key


class CellFile:
    """Opened by the first `load`. Args: as `SqliteCellStore`'s.

    Raises (load): BadInput: of another mesh or node, another key or a newer version. Unavailable: it cannot
    be opened, read or set aside.
    """

    def __init__(
        self,
        path: Path,
        mesh_id: str,
        node_id: str,
        key: bytes,
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._path = path
        self._whose = mesh_id, node_id, key
        self._entropy = entropy
        self._store: SqliteCellStore | None = None
        self._before = 0  # log bytes of stores that are closed
        self.losses = ""

    @property
    def log_bytes(self) -> int:
        return self._before + (0 if self._store is None else self._store.log_bytes)

    def commit(self, commits: Sequence[Commit]) -> None:
        self._opened().commit(commits)

    def load(self) -> Image:
        try:
            if beside(self._path, READY).exists():
                raise StoreDamaged("an earlier damage was not mended to its end")
            return self._opened().load()
        except StoreDamaged as damage:
            from edge_node.store.storage import cell_rescue  # most daemons never need it

            self.close()
            self.losses = cell_rescue.rescue(self._path, *self._whose, damage.cause)
            log.error("the tables were damaged", extra={"cause": damage.cause, "losses": self.losses})
            return self._opened().load()

    def tidy(self) -> bool:
        return False if self._store is None else self._store.tidy()

    def close(self) -> None:
        """Idempotent."""
        store, self._store = self._store, None
        if store is not None:
            store.close()
            self._before += store.log_bytes

    def _opened(self) -> SqliteCellStore:
        if self._store is None:
            self._store = SqliteCellStore(self._path, *self._whose, entropy=self._entropy)
        return self._store
