"""Replicated tables from a program's point of view: TinyDB's face, awaited or not, over the local daemon."""
