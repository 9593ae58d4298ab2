"""Where a function's code actually executes."""
