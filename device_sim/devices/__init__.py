"""A device of a fleet: what it measured, and how it hands that to the daemon beside it."""
