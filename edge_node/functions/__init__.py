"""User functions: manifests, bundles, the signed catalogue, and the runtimes that run them."""
