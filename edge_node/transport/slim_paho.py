"""aiomqtt and paho without what a broker's client never uses.

Paho imports ``urllib.request`` to look up HTTP proxies, and with it http.client, email, tempfile and shutil:
0.6 MB of a node's 50 and 10 ms of its start. Our link connects its own sockets (`mqtt`), so paho never asks.
A process that has imported ``urllib.request`` already keeps it, and so does one that imports it later.
"""

from __future__ import annotations

import sys
import types
import urllib.parse

_NAME = "urllib.request"

if _NAME in sys.modules:
    import aiomqtt
    import paho.mqtt.client as paho
else:
    _stand_in = types.ModuleType(_NAME)
    _stand_in.getproxies = dict  # type: ignore[attr-defined]
    sys.modules[_NAME] = _stand_in
    urllib.request = _stand_in
    try:
        import aiomqtt
        import paho.mqtt.client as paho
    finally:
        del sys.modules[_NAME]  # the next import of it is the real one, here and in paho

from paho.mqtt import MQTTException  # noqa: E402  after the stand-in
from paho.mqtt.packettypes import PacketTypes  # noqa: E402
from paho.mqtt.reasoncodes import ReasonCode  # noqa: E402

__all__ = ["MQTTException", "PacketTypes", "ReasonCode", "aiomqtt", "paho"]
