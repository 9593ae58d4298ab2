"""A mesh on several hosts of one machine: network namespaces, real multicast, weather to order."""
