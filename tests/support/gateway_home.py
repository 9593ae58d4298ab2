"""A gateway's home as its daemon leaves it, with something of everything in it."""

from __future__ import annotations

import time
from pathlib import Path

from edge_node.clock import SystemClock
from edge_node.functions.bundle import Bundle, BundleStore
from edge_node.home import Home
from edge_node.store.documents import Documents
from gateway import backup
from gateway.backup import write_backup
from gateway.house import open_trust
from security.authority import Authority
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft

NOW_S = int(time.time())
WORDS = b"four words of dice"
SOURCE = b"from edge_node.functions import function\n\n\n@function\ndef one() -> int:\n    return 1\n"


def signed(authority: Authority, version: int) -> bytes:
    key = MemberKey(bytes(32), bytes(32), NOW_S)
    return authority.sign_roster(
        RosterDraft(version, bytes(32), NOW_S, (), (), (Member("gateway", (key,), ("gateway",)),))
    )


class GatewayHome:
    """``documents`` stay open, as while the daemon runs; scrypt costs next to nothing here."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.home.create()
        self.keystore = KeyStore(self.home.keys)
        self.authority = open_trust(self.keystore, SystemClock()).authority
        self.keystore.save_roster(signed(self.authority, 12))
        self.keystore.write("group-mesh.key", b"an epoch's secret")
        for name in ("invitations", "joining.pem", "joining.token"):
            self.keystore.write(name, b"not to be kept")
        self.digest = BundleStore(self.home.bundles).put(Bundle.of_source("one.py", SOURCE).to_bytes())
        self.home.settings.write_text("[log]\nlevel = 'debug'\n")
        self.home.ledger.write_bytes(b"tasks")
        self.documents = Documents(self.home.documents)
        self.documents.table("catalogue", key="id").upsert({"id": "one.one", "version": 1})

    def backup(self, target: Path, passphrase: bytes = WORDS) -> backup.Summary:
        return write_backup(self.home, target, passphrase, now_s=NOW_S, cost=4)
