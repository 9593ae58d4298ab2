"""Tasks: their states, the durable ledger, leases, and the desk that decides."""
