"""Bytes, keys, node ids: identity, joining, sessions, envelopes. Knows no topics and no tasks."""
