"""What a daemon's libraries bring along and it never uses, left out: imported by the daemons before all else.

| left out | asked for by | kB |
|---|---|---|
| ast | inspect, and so asyncio and dataclasses | 500 |
| locale | subprocess | 350 |
| typing_extensions, msgspec.inspect, JSON schemas | msgspec | 1 000 |
| email.utils, and with it calendar | cryptography.x509, to check mail addresses in names | 800 |
| keys as OpenSSH writes them | cryptography.hazmat.primitives.serialization | 650 |

kB that a node grows by if it imports this one first; they share some. paho's part is in
``transport.slim_paho``, ifaddr's (550) in ``discovery.slim_ifaddr``.
Nothing is lost: what is asked for after all is loaded then (``stand_ins``).
"""

from __future__ import annotations

from edge_node.stand_ins import Later, lent, on_demand

with lent(Later("ast", NodeVisitor=object)):  # one of its classes inherits from that
    import inspect  # noqa: F401
with lent(Later("locale")):
    import subprocess  # noqa: F401

_schemas = Later("msgspec._json_schema", pending=("schema", "schema_components"))
with lent(Later("msgspec.inspect"), _schemas, absent=("typing_extensions",)):  # typing has all of that
    import msgspec.json
on_demand(msgspec.json, _schemas)


def _parseaddr(text: str) -> tuple[str, str]:
    from email.utils import parseaddr

    return parseaddr(text)


with lent(Later("email.utils", parseaddr=_parseaddr)):
    import cryptography.x509.general_name

_ssh = Later(
    "cryptography.hazmat.primitives.serialization.ssh",
    pending=(
        "SSHCertPrivateKeyTypes",
        "SSHCertPublicKeyTypes",
        "SSHCertificate",
        "SSHCertificateBuilder",
        "SSHCertificateType",
        "SSHPrivateKeyTypes",
        "SSHPublicKeyTypes",
        "load_ssh_private_key",
        "load_ssh_public_identity",
        "load_ssh_public_key",
        "ssh_key_fingerprint",
    ),
)
with lent(_ssh):
    import cryptography.hazmat.primitives.serialization
on_demand(cryptography.hazmat.primitives.serialization, _ssh)
