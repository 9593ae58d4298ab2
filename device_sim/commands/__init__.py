"""Commands of ``device-sim`` that need a room of their own."""
