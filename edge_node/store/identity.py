"""Identity of documents: the id that follows from a table's name and a document's key, on every machine.

The key's kind is part of it: the text "1" and the number 1 are two documents. Never changes: ids are stored
and compared between members.
"""

from __future__ import annotations

import hashlib

Key = str | int


def doc_id_for(table: str, key: Key) -> int:
    """63 bits of SHA-256(table ‖ 0 ‖ kind ‖ key), never 0."""
    kind = "s" if isinstance(key, str) else "i"
    digest = hashlib.sha256(f"{table}\0{kind}{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1 or 1
