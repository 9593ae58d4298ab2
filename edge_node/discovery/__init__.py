"""Finding members and the gateway on the local network; never the only way in."""
