"""A fleet of real daemons on one machine, played by a scenario."""
