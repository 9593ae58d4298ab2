"""The front door of a fleet: broker, joining, registry, deployer, offload engine."""
