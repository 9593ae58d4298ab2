"""What edgeweave looks like in use: functions, real sensor series, and a demo of a whole mesh."""
