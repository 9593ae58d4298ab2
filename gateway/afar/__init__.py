"""A gateway asked from another machine: what its control socket answers, over its HTTP API."""
