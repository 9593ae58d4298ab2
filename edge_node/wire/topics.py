"""Topics: built here, parsed here, nowhere else.

    direct    ew/1/<mesh>/d/<dst>/<src>      group   ew/1/<mesh>/g/<group>/<src>
    presence  ew/1/<mesh>/p/<src>            roster  ew/1/<mesh>/roster   (retained, the gateway alone writes)

A member writes only where <src> is itself and reads only where <dst> is itself, its groups, presence
(everybody's or one member's) and the roster. ``topic_for`` and ``parse`` are inverses.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from edge_node.wire.ids import GATEWAY, is_mesh_id, is_node_id
from security.errors import ProtocolViolation

VERSION = "1"
EVERYBODY = "mesh"
"""The group of all active members."""


class Direct(msgspec.Struct, frozen=True):
    mesh: str
    dst: str
    src: str


class Group(msgspec.Struct, frozen=True):
    mesh: str
    group: str
    src: str


class Presence(msgspec.Struct, frozen=True):
    mesh: str
    src: str


class RosterTopic(msgspec.Struct, frozen=True):
    mesh: str


Topic = Direct | Group | Presence | RosterTopic


@lru_cache(maxsize=4096)  # asked for with every frame of presence; as many as `parse` remembers
def topic_for(topic: Topic) -> str:
    match topic:
        case Direct(mesh, dst, src):
            return f"ew/{VERSION}/{mesh}/d/{dst}/{src}"
        case Group(mesh, group, src):
            return f"ew/{VERSION}/{mesh}/g/{group}/{src}"
        case Presence(mesh, src):
            return f"ew/{VERSION}/{mesh}/p/{src}"
        case RosterTopic(mesh):
            return f"ew/{VERSION}/{mesh}/roster"


@lru_cache(maxsize=4096)  # the topics of a mesh of 1 024 members, and some; each is parsed a thousand times
def parse(text: str) -> Topic:
    """Raises: ProtocolViolation: not a topic of this version, or a name that no member can bear."""
    parts = text.split("/")
    if len(parts) < 4 or parts[0] != "ew":
        raise ProtocolViolation("not an edgeweave topic")
    if parts[1] != VERSION:
        raise ProtocolViolation(f"topic version {parts[1][:8]!r}, this member speaks {VERSION!r}")
    if not is_mesh_id(parts[2]):
        raise ProtocolViolation("topic names no mesh")
    match parts[2:]:
        case [mesh, "d", dst, src] if is_node_id(dst) and is_node_id(src):
            return Direct(mesh, dst, src)
        case [mesh, "g", group, src] if is_node_id(group) and is_node_id(src):
            return Group(mesh, group, src)
        case [mesh, "p", src] if is_node_id(src):
            return Presence(mesh, src)
        case [mesh, "roster"]:
            return RosterTopic(mesh)
    raise ProtocolViolation("topic has an unknown shape")


def subscriptions(mesh: str, me: str) -> list[str]:
    """What a member reads from its start: its inbox, the roster, the gateway's presence (the gateway:
    everybody's), what is said to all. A node adds the presence of those that it follows."""
    presence = "+" if me == GATEWAY else GATEWAY
    root = f"ew/{VERSION}/{mesh}"
    return [f"{root}/d/{me}/+", f"{root}/p/{presence}", f"{root}/g/{EVERYBODY}/+", f"{root}/roster"]
