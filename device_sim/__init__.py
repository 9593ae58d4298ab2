"""Fleets, real or imagined: the floor above every core."""
