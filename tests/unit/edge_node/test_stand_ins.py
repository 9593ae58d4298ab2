"""What was left out of a library is lent while it is imported, and comes when it is asked for."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from edge_node.stand_ins import Later, lent, on_demand

ROOT = Path(__file__).resolve().parents[3]


def test_a_stand_in_answers_what_it_was_given_and_else_asks_the_real_module():
    colours = Later("colorsys", rgb_to_hsv="ours")
    sys.modules.pop("colorsys", None)

    assert colours.rgb_to_hsv == "ours"
    assert "colorsys" not in sys.modules
    assert colours.hsv_to_rgb(0, 0, 1) == (1, 1, 1)
    assert "colorsys" in sys.modules


def test_a_lent_module_is_gone_after_the_block_and_a_missing_one_is_missing_only_within():
    for name in ("colorsys", "sndhdr"):
        sys.modules.pop(name, None)

    with lent(Later("colorsys", mark="lent"), absent=("chunk",)):
        import colorsys

        assert colorsys.mark == "lent"
        with pytest.raises(AttributeError, match="the stand-in for colorsys has no rgb_to_hls"):
            colorsys.rgb_to_hls(0, 0, 0)
        with pytest.raises(ImportError):
            import chunk  # noqa: F401
    import colorsys

    assert not hasattr(colorsys, "mark")
    assert "chunk" not in sys.modules


def test_a_module_that_is_loaded_already_is_not_lent():
    import json

    with lent(Later("json", dumps=None)):
        import json as within

        assert within is json


def test_a_name_that_a_library_took_from_a_stand_in_comes_from_the_real_module():
    sys.modules.pop("colorsys", None)
    library = types.ModuleType("library")
    stand_in = Later("colorsys", pending=("rgb_to_hls",))
    library.rgb_to_hls = stand_in.rgb_to_hls
    library.own = 1

    on_demand(library, stand_in)

    assert "rgb_to_hls" not in vars(library)
    assert library.rgb_to_hls(1, 1, 1) == (0.0, 1.0, 0.0)
    assert library.own == 1
    with pytest.raises(AttributeError, match="'library' has no attribute 'other'"):
        library.other  # noqa: B018


@pytest.mark.slow
def test_what_a_daemon_does_without_is_there_for_whoever_asks():
    code = """if True:
        import sys, edge_node.slim
        missing = {"ast", "locale", "email.utils", "msgspec.inspect"}
        assert not missing & set(sys.modules), missing & set(sys.modules)
        import inspect, msgspec, edge_node.functions.manifest as manifest
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_key
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
        key = Ed25519PrivateKey.generate().public_key()
        assert load_ssh_public_key(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)) == key
        assert x509.RFC822Name("a@example.org").value == "a@example.org"
        assert msgspec.json.schema(int) == {"type": "integer"}
        assert msgspec.inspect.type_info(int) == msgspec.inspect.IntType()
        assert inspect.signature(dict.get).parameters["default"].default is None
        import ast
        assert inspect.ast.Module is ast.Module and manifest.ast.parse is ast.parse
        import locale, subprocess
        told = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True)
        assert told.stdout == "1\\n"
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
