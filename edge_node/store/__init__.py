"""Small local stores: documents on SQLite, seen as TinyDB tables."""
