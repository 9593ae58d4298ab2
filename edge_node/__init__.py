"""The node daemon and the vocabulary (`edge_node.wire`) that every floor above it speaks."""
