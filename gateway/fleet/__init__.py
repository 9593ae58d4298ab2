"""What the gateway knows of its fleet."""
