"""A whole fleet in one process: production cores in virtual time, from one seed."""
