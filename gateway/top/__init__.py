"""The terminal view: ``edge-gateway top``. Imported by that command alone, never by a daemon."""
