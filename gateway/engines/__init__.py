"""Where offloaded work runs behind the gateway."""
