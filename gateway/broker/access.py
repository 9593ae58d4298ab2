"""Access: who may write and read which topic at the broker, and the same in each broker's own words.

    direct    ew/1/<mesh>/d/<dst>/<src>      write where <src> is me, read where <dst> is me
    group     ew/1/<mesh>/g/<group>/<src>    write where <src> is me, read all
    presence  ew/1/<mesh>/p/<src>            write my own, read all or those that are followed
    roster    ew/1/<mesh>/roster             the gateway alone writes, all read

The broker is never trusted with content, so these rules only keep members from wasting each other's
time and from reading who talks to whom. A subscription is granted only if it is, letter by letter, one
that a member may hold: a filter is never granted because it looks narrower or wider than another.

Out: decisions, mosquitto's configuration and dynamic-security document as text. Not here: files,
processes (``mosquitto``, ``embedded``, ``broker``).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from edge_node.transport.link import PAYLOAD_BYTES_MAX
from edge_node.wire.ids import GATEWAY, is_node_id
from edge_node.wire.topics import VERSION

PACKET_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 1024  # topic and MQTT head
# Not a node id, so that no certificate can ever bear the name of the supervisor.
CONTROL_USER: Final = "_supervisor"
CONTROL_SOCKET: Final = "control.sock"
CONTROL_TOPIC: Final = "$CONTROL/dynamic-security/v1"
MEMBERS_MAX: Final = 1024
SALT_BYTES: Final = 12  # the plugin takes no other length, and says only "not authorized"
_HASH_ROUNDS: Final = 1000  # the password has 256 random bits: rounds add nothing, but zero is refused


def matches(pattern: str, topic: str) -> bool:
    """MQTT filter match, exactly: `+` is one level, `#` is the rest (and its parent) and only at the end."""
    wanted, names = pattern.split("/"), topic.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return at == len(wanted) - 1
        if at >= len(names) or level not in ("+", names[at]):
            return False
    return len(wanted) == len(names)


@dataclass(frozen=True, slots=True)
class Access:
    """The rules for one mesh and its present members (the gateway is always one)."""

    mesh: str
    members: frozenset[str] = field(default_factory=frozenset)

    def is_member(self, name: str) -> bool:
        return name == GATEWAY or name in self.members

    def may_write(self, me: str, topic: str) -> bool:
        """`topic` is concrete: one with a wildcard in it is nobody's."""
        if "+" in topic or "#" in topic or not self.is_member(me):
            return False
        return any(matches(pattern, topic) for pattern in writes(self.mesh, me))

    def may_subscribe(self, me: str, pattern: str) -> bool:
        if not self.is_member(me):
            return False
        if pattern in reads(self.mesh, me):
            return True
        match pattern.split("/"):
            case ["ew", version, mesh, "g", group, "+"] if (version, mesh) == (VERSION, self.mesh):
                return is_node_id(group)
            case ["ew", version, mesh, "p", peer] if (version, mesh) == (VERSION, self.mesh):
                return is_node_id(peer)
        return False

    def may_receive(self, me: str, topic: str) -> bool:
        return self.is_member(me) and any(matches(pattern, topic) for pattern in reads(self.mesh, me))


def name_of(bearer: str) -> str:
    """The member whom a bearer (``security.identity.bearer``) claims to be."""
    return bearer.rpartition("CN=")[2]


def writes(mesh: str, me: str) -> list[str]:
    root = f"ew/{VERSION}/{mesh}"
    own = [f"{root}/d/+/{me}", f"{root}/g/+/{me}", f"{root}/p/{me}"]
    return [*own, f"{root}/roster"] if me == GATEWAY else own


def reads(mesh: str, me: str) -> list[str]:
    root = f"ew/{VERSION}/{mesh}"
    return [f"{root}/d/{me}/+", f"{root}/p/+", f"{root}/g/+/+", f"{root}/roster"]


# ---- mosquitto ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a broker listens and what it shows; plain paths, absolute."""

    mesh: str
    host: str
    port: int
    ca_file: str
    cert_file: str
    key_file: str
    folder: str  # the broker's own, 0700: configuration, control socket, pid record
    log_file: str


def mosquitto_conf(listener: Listener, *, plugin: str, as_root: bool) -> str:
    """mosquitto.conf. The control socket lies in a 0700 folder and wants a password besides."""
    # A running broker knows the roles with which it was started: other rules make another configuration,
    # and so it is not adopted.
    rules = digest_of([json.dumps(_role(listener.mesh, "member")).encode()])
    lines = [
        f"# access rules {rules}",
        *(["user root"] if as_root else []),  # else it drops to an account that cannot read the home
        "persistence false",
        "per_listener_settings false",
        "allow_anonymous false",
        f"plugin {plugin}",
        f"plugin_opt_config_file {listener.folder}/access.json",
        "set_tcp_nodelay true",  # the default costs 44 ms a message at QoS 1
        "max_inflight_messages 512",
        "max_queued_messages 16384",  # a flood beyond it is lost; the outbox sends again
        "max_queued_bytes 67108864",
        f"max_packet_size {PACKET_BYTES_MAX}",
        # No memory_limit: what the plugin frees makes 2.0.11's count run below zero, and then it refuses all.
        "max_keepalive 120",
        "sys_interval 0",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
        f"log_dest file {listener.log_file}",
        "log_type error",
        "log_type warning",
        "log_type notice",
        f"listener {listener.port} {listener.host}",
        f"max_connections {MEMBERS_MAX + 64}",
        f"cafile {listener.ca_file}",
        f"certfile {listener.cert_file}",
        f"keyfile {listener.key_file}",
        "tls_version tlsv1.3",
        "require_certificate true",
        "use_subject_as_username true",  # name and key: another key of the same name is another client
        "use_username_as_clientid true",
        f"listener 0 {CONTROL_SOCKET}",
    ]
    for line in lines:
        assert "\n" not in line, "a path with a line break cannot be configured"
    return "\n".join(lines) + "\n"


def mosquitto_access(mesh: str, members: Iterable[str], *, password: str, salt: bytes) -> str:
    """access.json of the dynamic-security plugin: everything denied but what a role allows."""
    assert len(salt) == SALT_BYTES, "the plugin takes 12 bytes of salt"
    hashed = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _HASH_ROUNDS)
    control = [
        _acl(kind, "$CONTROL/dynamic-security/#")
        for kind in ("publishClientSend", "publishClientReceive", "subscribePattern")
    ]
    bearers = sorted(set(members))
    names = sorted({name_of(one) for one in bearers})
    document = {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": False,
            "unsubscribe": False,
        },
        "clients": [
            {
                "username": CONTROL_USER,
                "password": base64.b64encode(hashed).decode(),
                "salt": base64.b64encode(salt).decode(),
                "iterations": _HASH_ROUNDS,
                "roles": [{"rolename": CONTROL_USER}],
            },
            *({"username": one, "roles": [{"rolename": name_of(one)}]} for one in bearers),
        ],
        "groups": [],
        "roles": [
            {"rolename": CONTROL_USER, "acls": control},
            *({"rolename": name, "acls": _role(mesh, name)} for name in names),
        ],
    }
    return json.dumps(document, indent=1)


def mosquitto_changes(
    mesh: str, clients: Iterable[str], roles: Iterable[str], wanted: Iterable[str]
) -> list[dict[str, Any]]:
    """Commands from what it has to the `wanted` bearers; a removed one is cut off at once.

    In this order any beginning of them may be carried out: the rest follows from what it has then.
    """
    target = set(wanted)
    current = {one for one in clients if one != CONTROL_USER}
    named, named_before = {name_of(one) for one in target}, {one for one in roles if one != CONTROL_USER}
    commands: list[dict[str, Any]] = []
    commands += ({"command": "deleteClient", "username": one} for one in sorted(current - target))
    commands += ({"command": "deleteRole", "rolename": name} for name in sorted(named_before - named))
    commands += (
        {"command": "createRole", "rolename": name, "acls": _role(mesh, name)}
        for name in sorted(named - named_before)
    )
    commands += (
        {"command": "createClient", "username": one, "roles": [{"rolename": name_of(one)}]}
        for one in sorted(target - current)
    )
    return commands


def _role(mesh: str, me: str) -> list[dict[str, Any]]:
    root = f"ew/{VERSION}/{mesh}"
    return [
        *(_acl("publishClientSend", pattern) for pattern in writes(mesh, me)),
        *(_acl("publishClientReceive", pattern) for pattern in reads(mesh, me)),
        *(_acl(kind, pattern) for kind in ("subscribeLiteral", "unsubscribeLiteral")
          for pattern in reads(mesh, me) if "/d/" in pattern or pattern.endswith("/roster")),
        *(_acl(kind, f"{root}/{one}") for kind in ("subscribePattern", "unsubscribePattern")
          for one in ("g/+/+", "p/+")),
    ]  # fmt: skip


def _acl(kind: str, topic: str) -> dict[str, Any]:
    return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}


def digest_of(parts: Iterable[bytes]) -> str:
    """Names a whole configuration: a running broker is adopted only if it was started with this very one."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()
