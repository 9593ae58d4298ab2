"""Telemetry: traces of tasks, for whoever collects them elsewhere."""
