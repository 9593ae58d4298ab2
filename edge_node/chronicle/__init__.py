"""What happened and why: noted at each member, kept bounded, told across members."""
