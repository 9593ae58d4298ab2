"""Access: who may ask the gateway for what, and the record of what was changed."""
