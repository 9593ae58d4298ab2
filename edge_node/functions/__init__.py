"""User functions: manifests, bundles, the signed catalogue, and the runtimes that run them.

A function file imports one name from here, ``function``; it stays importable and callable in plain Python
(this package's door pulls in nothing but the standard library, so that workers start small).
"""

from __future__ import annotations

from edge_node.functions.decorator import function as function  # the public name

__all__ = ["function"]
