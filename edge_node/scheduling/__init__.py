"""Where a task runs, and whether we take it."""
