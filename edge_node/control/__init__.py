"""The local control socket: how programs on this machine speak to their daemon."""
