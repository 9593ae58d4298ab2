"""SQLite under the stores."""
