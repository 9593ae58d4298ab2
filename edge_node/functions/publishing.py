"""Publishing: signed catalogue entries, made, taken, kept and handed on.

    deploy(source) ─► bundle ─► entries signed by this member ─► gateway: adopt, keep, push to every peer
                                                              ─► node with role deployer: Publish ─► gateway
    CatalogueEntries (from anybody) ─► believed by a deployer's signature alone ─► kept in the documents

The shell around `catalogue`. What a member may sign with is its own business (`deployer_key`); what a
signature is worth is the roster's. Not here: running functions (`provision`), the bundles' bytes (`bundle`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from edge_node.clock import Clock
from edge_node.functions.bundle import Bundle, Bundles, digest_of
from edge_node.functions.catalogue import Adopted, Catalogue, Fork
from edge_node.functions.manifest import Manifest
from edge_node.functions.provision import Authorised
from edge_node.wire import messages
from edge_node.wire.ids import GATEWAY
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable
from security.roster import RosterView
from security.signing import EntryDraft, open_entry, sign_entry

log = logging.getLogger(__name__)

PUBLISH_WAIT_S = 15.0
MESSAGE_BYTES = 96 * 1024
"""Entries or names in one message: a whole catalogue may be many megabytes, a parcel is not."""
ASKED_MAX = 64
"""Bundles that publications wait for, in all; a deployer that asks for more is refused."""


class Shelf(Protocol):
    """Where the entries are kept: ``store.documents.Documents``."""

    def table(self, name: str, *, key: str) -> Any: ...


class House(Protocol):
    """What the member around it does for this room: the agent."""

    def tell(self, now_ns: int, peer: str, message: messages.Message) -> None: ...
    def fetch(self, now_ns: int, wall_ms: int, digest: bytes, holders: list[str]) -> None: ...
    def soon(self, what: Callable[[int, int], None]) -> None: ...
    def peers_up(self) -> list[str]: ...
    def catalogue_changed(self, now_ns: int, wall_ms: int) -> None: ...
    def deployer_key(self) -> ec.EllipticCurvePrivateKey: ...


class Publisher:
    """One member's catalogue and its traffic."""

    def __init__(
        self,
        house: House,
        *,
        me: str,
        mesh_id: str,
        roster: RosterView,
        documents: Shelf,
        bundles: Bundles,
        clock: Clock,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.catalogue = Catalogue(mesh_id, self._open_entry)
        self.stories: Counter[str] = Counter()
        self._house = house
        self._me = me
        self._mesh_id = mesh_id
        self._roster = roster
        self._documents = documents
        self._bundles = bundles
        self._clock = clock
        self._entropy = entropy
        self._manifests: dict[tuple[str, bytes], Manifest] = {}
        self._publishing: dict[bytes, asyncio.Future[str]] = {}
        self._waiting: dict[bytes, list[tuple[str, messages.Publish, set[bytes]]]] = {}

    # ── what is known ─────────────────────────────────────────────────────────────────────────────

    def _open_entry(self, data: bytes) -> Any:
        roster = self._roster.current
        assert roster is not None
        entry = open_entry(data, mesh_id=self._mesh_id, deployers=roster.signers)
        if Manifest.from_bytes(entry.manifest).name != entry.name:  # a deployer may be malicious, too
            raise ProtocolViolation("catalogue entry names another function than its manifest")
        return entry

    def manifest_of(self, name: str, digest: bytes) -> Manifest | None:
        """The signed manifest of this function and code, whatever version names it; None: unsigned."""
        known = self._manifests.get((name, digest))
        if known is not None:
            return known
        for entry in self.catalogue.history(name):
            if entry.digest == digest:
                manifest = Manifest.from_bytes(entry.manifest)
                self._manifests[name, digest] = manifest
                return manifest
        return None

    def authorised(self, name: str, digest: bytes) -> Authorised | None:
        manifest = self.manifest_of(name, digest)
        return None if manifest is None else Authorised(manifest.timeout_s, manifest.memory_mb)

    def requirements(self) -> set[str]:
        """Modules that the current function of any name requires, as one imports them."""
        needed: set[str] = set()
        for name in self.catalogue.names():
            manifest = self.manifest_of(name, self.catalogue.current(name).digest)
            if manifest is not None:
                needed.update(manifest.requires)
        return needed

    def code(self) -> tuple[bytes, ...]:
        """Digests of the bundles that the current functions are in."""
        names = self.catalogue.names()
        return tuple(dict.fromkeys(self.catalogue.current(name).digest for name in names))

    def wish(self) -> messages.CatalogueWanted:
        """What we ask others for; names that do not fit are sent to us once more, which changes nothing."""
        have: list[tuple[str, int]] = []
        size = 0
        for name, version in self.catalogue.versions():
            size += len(name) + 16
            if size > MESSAGE_BYTES:
                break
            have.append((name, version))
        return messages.CatalogueWanted(have)

    def entries_wanted(self, now_ns: int, peer: str, asked: messages.CatalogueWanted) -> None:
        for some in _in_messages(self.catalogue.entries_newer_than(asked.have)):
            self._house.tell(now_ns, peer, messages.CatalogueEntries(some))

    def entries_came(self, now_ns: int, wall_ms: int, entries: list[bytes]) -> None:
        if self.adopt(entries):
            self._house.catalogue_changed(now_ns, wall_ms)

    def adopt(self, entries: list[bytes]) -> list[str]:
        """Take signed entries; the names that changed. What is not signed right is counted and left."""
        changed = []
        for data in entries:
            try:
                result = self.catalogue.adopt(data)
            except EdgeweaveError as error:
                self.stories["catalogue entry refused"] += 1
                log.warning("catalogue entry refused", extra={"cause": error.cause})
                continue
            match result:
                case Adopted(entry):
                    changed.append(entry.name)
                    self._keep_entry(entry.name, entry.version, data)
                    log.info("function deployed", extra={"function": entry.name, "version": entry.version})
                case Fork():
                    self.stories["catalogue fork"] += 1
                    log.error("two entries of one version", extra={"function": result.name})
        return changed

    def _keep_entry(self, name: str, version: int, raw: bytes) -> None:
        table = self._documents.table("catalogue", key="id")
        try:
            table.upsert({"id": f"{name}@{version}", "version": version, "entry": raw.hex()})
        except EdgeweaveError as error:  # known until the next start, and then asked for again
            log.error("a catalogue entry could not be kept", extra={"function": name, "cause": error.cause})

    def restore(self) -> None:
        rows = sorted(self._documents.table("catalogue", key="id").all(), key=lambda row: int(row["version"]))
        for cause in self.catalogue.restore(bytes.fromhex(row["entry"]) for row in rows):
            log.warning("a kept catalogue entry was left out", extra={"cause": cause})

    # ── making entries ────────────────────────────────────────────────────────────────────────────

    async def deploy(self, source: bytes, stem: str, *, only_if_new: bool) -> list[dict[str, Any]]:
        """Sign and publish every function of a source file.

        Raises: BadInput: the source. Refused: this member may not deploy. Unavailable: no gateway answers.
        """
        bundle = Bundle.of_source(f"{stem}.py", source)
        manifests = bundle.manifests()
        data = bundle.to_bytes()
        digest = digest_of(data)
        fresh = []
        rows = []
        for manifest in manifests:
            current = self.catalogue.find(manifest.name)
            same = current is not None and current.digest == digest
            version = (
                current.version
                if current is not None and same and only_if_new
                else self.catalogue.next_version(manifest.name)
            )
            rows.append({"name": manifest.name, "version": version, "digest": digest.hex(), "new": not same})
            if not (same and only_if_new):
                fresh.append((manifest.name, version, manifest.to_bytes()))
        if not fresh and not self._bundles.has(digest):
            await asyncio.to_thread(self._bundles.put, data)  # ours was lost or set aside
        if fresh:
            entries = [self._signed(name, version, digest, manifest) for name, version, manifest in fresh]
            await asyncio.to_thread(self._bundles.put, data)
            await self._spread(entries)
        return rows

    def compared(self, source: bytes, stem: str) -> dict[str, Any]:
        """What ``deploy`` would do: each function of the file, before and after, and those that stay.

        Raises: BadInput: the source.
        """
        bundle = Bundle.of_source(f"{stem}.py", source)
        digest, rows = digest_of(bundle.to_bytes()), []
        for manifest in bundle.manifests():
            current = self.catalogue.find(manifest.name)
            same = current is not None and current.digest == digest
            before = None if current is None else self.manifest_of(manifest.name, current.digest)
            rows.append(
                {
                    "name": manifest.name,
                    "version": current.version if current is not None and same
                    else self.catalogue.next_version(manifest.name),
                    "new": not same,
                    "digest": digest.hex(),
                    "digest_before": "" if current is None else current.digest.hex(),
                    "before": None if before is None else _wishes(before),
                    "after": _wishes(manifest),
                }
            )  # fmt: skip
        defined = {row["name"] for row in rows}
        others = [name for name in self.catalogue.names() if name.startswith(f"{stem}.")]
        return {"functions": rows, "stay": [name for name in others if name not in defined]}

    async def source(self, name: str, version: int | None) -> dict[str, Any]:
        """The file that defines a function, and what it takes. Args: version: None: the current one.

        Raises: BadInput: no such function or version. Unavailable: its code is not on this member.
        """
        current = self.catalogue.current(name)
        kept = {entry.version: entry for entry in self.catalogue.history(name)}
        entry = current if version is None else kept.get(version)
        if entry is None:
            told = ", ".join(map(str, sorted(kept)))
            raise BadInput(f"version {version} of {name} is not kept", fix=f"there are {told}")
        data = await asyncio.to_thread(self._bundles.get, entry.digest)
        bundle, manifest = Bundle.from_bytes(data), Manifest.from_bytes(entry.manifest)
        return {
            "name": name,
            "version": entry.version,
            "digest": entry.digest.hex(),
            "file": f"{bundle.stem}.py",
            "line": manifest.line,
            "params": [
                {
                    "name": param.name,
                    "annotation": param.annotation,
                    "has_default": param.has_default,
                    "kind": param.kind,
                }
                for param in manifest.params
            ],
            "returns": manifest.returns,
            "source": bundle.main.decode("utf-8", "replace"),
        }

    async def rollback(self, name: str) -> dict[str, Any]:
        """A new version of *name* that names the digest before the current one."""
        current = self.catalogue.current(name)
        older = next((e for e in self.catalogue.history(name) if e.digest != current.digest), None)
        if older is None:
            raise BadInput(
                f"{name} has no earlier code to go back to", fix=f"deploy a file that defines {name}"
            )
        version = self.catalogue.next_version(name)
        await self._spread([self._signed(name, version, older.digest, older.manifest)])
        return {"name": name, "version": version, "digest": older.digest.hex(), "new": True}

    def _signed(self, name: str, version: int, digest: bytes, manifest: bytes) -> bytes:
        draft = EntryDraft(self._mesh_id, name, version, digest, manifest, self._clock.wall_ms() // 1000)
        return sign_entry(draft, self._house.deployer_key())

    async def _spread(self, entries: list[bytes]) -> None:
        if self._me == GATEWAY:
            self.adopt(entries)
            self._house.soon(functools.partial(self._push_entries, entries))
            return
        for some in _in_messages(entries):
            await self._ask_gateway(some)

    async def _ask_gateway(self, entries: list[bytes]) -> None:
        request = self._entropy(8)
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._publishing[request] = waiting
        try:
            self._house.soon(
                lambda now_ns, _: self._house.tell(now_ns, GATEWAY, messages.Publish(request, entries))
            )
            async with asyncio.timeout(PUBLISH_WAIT_S):
                refused = await waiting
        except TimeoutError:
            raise Unavailable("the gateway did not answer", fix="is it up? see `edge-node status`") from None
        finally:
            del self._publishing[request]
        if refused:
            raise Refused(f"the gateway refused: {refused}")
        self.adopt(entries)

    def _push_entries(self, entries: list[bytes], now_ns: int, wall_ms: int) -> None:
        for some in _in_messages(entries):
            for peer in self._house.peers_up():
                self._house.tell(now_ns, peer, messages.CatalogueEntries(some))
        self._house.catalogue_changed(now_ns, wall_ms)

    # ── others' publications ──────────────────────────────────────────────────────────────────────

    def publish_asked(self, now_ns: int, wall_ms: int, peer: str, asked: messages.Publish) -> None:
        """A member with the role deployer wants its signed entries in the catalogue (gateway only)."""
        if self._me != GATEWAY:
            self._house.tell(now_ns, peer, messages.Published(asked.request, "only the gateway publishes"))
            return
        try:
            digests = {self._open_entry(data).digest for data in asked.entries}
        except EdgeweaveError as error:
            self._house.tell(now_ns, peer, messages.Published(asked.request, error.cause))
            return
        missing = {digest for digest in digests if not self._bundles.has(digest)}
        if missing and sum(map(len, self._waiting.values())) + len(missing) > ASKED_MAX:
            self._house.tell(now_ns, peer, messages.Published(asked.request, "too many publications wait"))
            return
        if not missing:
            self._take_published(now_ns, wall_ms, peer, asked)
        for digest in sorted(missing):
            self._waiting.setdefault(digest, []).append((peer, asked, missing))
            self._house.fetch(now_ns, wall_ms, digest, [peer])

    def _take_published(self, now_ns: int, wall_ms: int, peer: str, asked: messages.Publish) -> None:
        changed = self.adopt(asked.entries)
        refused = "" if changed else "another version was published in the meantime: deploy again"
        self._house.tell(now_ns, peer, messages.Published(asked.request, refused))
        if changed:
            self._push_entries(asked.entries, now_ns, wall_ms)

    def published(self, peer: str, answer: messages.Published) -> None:
        """The gateway's answer to a publication of ours."""
        waiting = self._publishing.get(answer.request)
        if waiting is not None and peer == GATEWAY and not waiting.done():
            waiting.set_result(answer.refused)

    def wants(self, digest: bytes) -> bool:
        """Whether these bytes are a bundle that the catalogue, or a publication under way, names."""
        return digest in self._waiting or digest in self.catalogue.digests()

    def bundle_came(self, now_ns: int, wall_ms: int, digest: bytes) -> None:
        """A bundle was fetched and kept."""
        for peer, asked, missing in self._waiting.pop(digest, ()):
            missing.discard(digest)
            if not missing:
                self._take_published(now_ns, wall_ms, peer, asked)

    def bundle_missed(self, now_ns: int, digest: bytes, reason: str) -> None:
        for peer, asked, _ in self._waiting.pop(digest, ()):
            refused = f"the bundle could not be fetched from {peer}: {reason}"
            self._house.tell(now_ns, peer, messages.Published(asked.request, refused))


def _wishes(manifest: Manifest) -> dict[str, Any]:
    """What callers and nodes notice when it differs."""
    return {
        "signature": manifest.signature(),
        "timeout_s": manifest.timeout_s,
        "memory_mb": manifest.memory_mb,
        "requires": list(manifest.requires),
        "labels": dict(manifest.labels),
    }


def _in_messages(entries: list[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    size = 0
    for entry in entries:
        if some and size + len(entry) > MESSAGE_BYTES:
            yield some
            some, size = [], 0
        some.append(entry)
        size += len(entry)
    if some:
        yield some
