"""The gateway's administrative methods, beside those of every node."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import msgspec

from edge_node.backend import PAGE_ROWS_MAX, AgentBackend
from edge_node.clock import FlooredClock
from edge_node.membership.abilities import own_version
from gateway.access.access import token_facts, user_facts
from gateway.access.roles import role_of
from gateway.changes import CHANGES, noted, whoever
from gateway.fleet.picture import Picture, Surroundings, Way
from gateway.fleet.registry import Among, NodeRow
from gateway.house import House
from gateway.joining import HOUR_S, invite_facts
from gateway.renewal import doubt_of
from security.certificates import DAY_S, LEAF_DAYS
from security.enrolment import PendingNode
from security.errors import BadInput
from security.identity import GATEWAY, fingerprint_words, is_node_id
from security.roster import REASON_MAX, Member

TTL_S_MAX = 30 * 86400


class GatewayBackend(AgentBackend):
    """``AgentBackend`` with invitations, approvals, the registry and roll-back."""

    def __init__(self, house: House) -> None:
        assert house.agent is not None
        super().__init__(house.agent)
        self._house = house
        self._picture = Picture(begin=house.clock.wall_ms() * 1000)
        self.add("nodes", self._all_nodes)
        self.add("nodes-page", self._nodes_page)
        self.add("node", self._one_node)
        self.add("fleet", self._fleet)
        self.add("invite", self._invite)
        self.add("approve", self._approve)
        self.add("deny", self._deny)
        self.add("pending", self._who_waits)
        self.add("invites", self._open_invites)
        self.add("withdraw", self._withdraw)
        self.add("revoke", self._revoke)
        self.add("replace", self._replace)
        self.add("pause", functools.partial(self._rest, "pause"))
        self.add("drain", functools.partial(self._rest, "drain"))
        self.add("resume", functools.partial(self._rest, "work"))
        self.add("settle", self._settle)
        self.add("status", self._gateway_status)
        self.add("rollback", self._rollback)
        self.add("deploy-look", self._deploy_look)
        self.add("source", self._source)
        self.add("metrics", self._metrics)
        self.add("users", self._users)
        self.add("user-add", self._user_add)
        self.add("user-passwd", self._user_passwd)
        self.add("user-role", self._user_role)
        self.add("user-remove", self._user_remove)
        self.add("user-link", self._user_link)
        self.add("tokens", self._tokens)
        self.add("token-add", self._token_add)
        self.add("token-revoke", self._token_revoke)
        self.add("audit", self._audit)

    async def call(self, method: str, params: dict[str, Any]) -> object:
        """As every node's; what changes something is noted in the audit log."""
        change = CHANGES.get(method)
        if change is None or not change.concerns(params):
            return await super().call(method, params)
        return await noted(self._house, change, method, params, super().call)

    async def _invite(self, params: dict[str, Any]) -> object:
        ttl_s = params.get("ttl_s", 3600)
        if not isinstance(ttl_s, int | float) or not 1 <= ttl_s <= TTL_S_MAX:
            raise BadInput("a code is good for 1 s to 30 days", fix="choose --ttl between 1s and 30d")
        house = self._house
        house.check_settled()  # else its token would be spent on a member that cannot be listed
        assert house.joining is not None
        code = await house.joining.desk.invite(
            addresses=house.join_addresses(),
            ttl_s=int(ttl_s),
            approval=str(params.get("approval") or "auto"),
            name=str(params.get("name") or ""),
            roles=tuple(params.get("roles") or ()),
            replaces=bool(params.get("replaces")),
        )
        expires_at_ms = house.clock.wall_ms() + int(ttl_s * 1000)
        return {
            "id": code.token_id,
            "code": code.text(),
            "expires_at_ms": expires_at_ms,
            "addresses": list(code.addresses),
        }

    async def _approve(self, params: dict[str, Any]) -> object:
        name = _name(params)
        assert self._house.joining is not None
        await self._house.joining.desk.approve(name)
        return {"node": name}

    async def _deny(self, params: dict[str, Any]) -> object:
        name = _name(params)
        assert self._house.joining is not None
        await self._house.joining.desk.deny(name)
        return {"node": name}

    async def _who_waits(self, params: dict[str, Any]) -> object:
        assert self._house.joining is not None
        desk, wall_s = self._house.joining.desk, self._house.clock.wall_ms() // 1000
        return [
            {
                "id": node.name,
                "fingerprint": node.words,
                "address": node.address,
                "asked_at_ms": node.asked_s * 1000,
                "age_s": max(0, wall_s - node.asked_s),
                "expires_at_ms": desk.pending_until_s(node) * 1000,
            }
            for node in desk.pending()
        ]

    async def _open_invites(self, params: dict[str, Any]) -> object:
        assert self._house.joining is not None
        return [invite_facts(each) for each in self._house.joining.desk.open_invites()]

    async def _withdraw(self, params: dict[str, Any]) -> object:
        assert self._house.joining is not None
        await self._house.joining.desk.call_off(_given(params, "id"))
        return {"id": params["id"]}

    async def _replace(self, params: dict[str, Any]) -> object:
        name = _name(params)
        held = self._house.keeper.current.listed(name)
        if held is None:
            raise BadInput(f"no member is named {name!r}", fix="see `edge-gateway nodes`")
        if GATEWAY in (held.id, *held.roles):
            raise BadInput("a gateway cannot be replaced", fix="move its home, or restore a backup of it")
        return await self._invite({**params, "name": name, "roles": (), "replaces": True})

    async def _rest(self, mode: str, params: dict[str, Any]) -> object:
        """``told`` False: the member is away, and is told when it comes."""
        name, house = _name(params), self._house
        member = house.keeper.current.member(name)
        if member is None:
            raise BadInput(f"no member is named {name!r}", fix="see `edge-gateway nodes`")
        members = {each.id for each in house.keeper.current.members if each.status == "active"}
        by, reason, at_ms = whoever().name, one_line(params.get("reason")), house.clock.wall_ms()
        before = await house.resting.ask(name, mode, members, by=by, reason=reason, at_ms=at_ms)
        if name != GATEWAY:  # which notes it itself, as every member does
            chronicle = self.agent.chronicle
            self.agent.soon(
                lambda now_ns, wall_ms: chronicle.rested(now_ns, wall_ms, name, mode, by, reason, at_ms)
            )
        return {
            "node": name,
            "work": mode,
            "before": before,
            "told": name == GATEWAY or house.registry.is_up(name),
        }

    async def _settle(self, params: dict[str, Any]) -> object:
        """After a restore: go on without the members that were not heard."""
        homecoming = self._house.homecoming
        if homecoming is None or homecoming.over:
            raise BadInput("there is nothing to settle", fix="it is for a gateway that was just restored")
        await homecoming.settle()
        return {"version": self._house.keeper.current.version} | homecoming.status()

    async def _gateway_status(self, params: dict[str, Any]) -> object:
        homecoming = self._house.homecoming
        facts = dict(self.agent.status())
        facts["joining"] = {"addresses": list(self._house.join_addresses())}
        if homecoming is not None:
            facts["restored"] = homecoming.status()
        if self._house.given is not None:
            facts["given certificate"] = self._house.given.facts()
        if self._house.access.broken:
            facts["audit log"] = self._house.access.broken
        clock = self._house.clock
        doubt = doubt_of(clock) if isinstance(clock, FlooredClock) else ""
        if doubt:
            facts["clock"] = doubt
        return facts

    async def _metrics(self, params: dict[str, Any]) -> object:
        """As Prometheus reads it."""
        from gateway import metrics  # a gateway that nobody measures does not load it

        status, durations = await self._gateway_status({}), await self._durations({})
        assert isinstance(status, dict) and isinstance(durations, dict)
        house = self._house
        rows, wall_ms = house.registry.rows(house.clock.now_ns()), house.clock.wall_ms()
        api = list(house.api.samples()) if house.api is not None else ()
        render = functools.partial(metrics.render, status, durations, rows, api=api)
        return {"text": await asyncio.to_thread(render, home=house.home.path, wall_ms=wall_ms)}

    async def _revoke(self, params: dict[str, Any]) -> object:
        """Answered when it is on disk, spread and cut; ``cut`` False: the broker does not answer now."""
        name = _name(params)
        before = self._house.keeper.current.listed(name)
        cut = await self._house.shut_out(
            name, by=str(params.get("by") or ""), reason=str(params.get("reason") or "")
        )
        member = self._house.keeper.current.listed(name)
        assert member is not None, "revoked members stay listed"
        return {
            "node": name,
            "already": before is not None and before.status == "revoked",
            "since_at_ms": member.since_s * 1000,
            "by": member.by,
            "reason": member.reason,
            "cut": cut,
        }

    async def _rollback(self, params: dict[str, Any]) -> object:
        name = params.get("name")
        if not isinstance(name, str):
            raise BadInput("rollback needs a function's name")
        return {"functions": [await self.agent.publisher.rollback(name)]}

    async def _deploy_look(self, params: dict[str, Any]) -> object:
        """What `deploy` of the same would change; nothing is."""
        source = params.get("source")
        if not isinstance(source, bytes):
            raise BadInput("deploy-look needs the file's bytes")
        return self.agent.publisher.compared(source, _given(params, "stem"))

    async def _source(self, params: dict[str, Any]) -> object:
        version = params.get("version")
        if version is not None and not isinstance(version, int):
            raise BadInput("version is a whole number")
        return await self.agent.publisher.source(_given(params, "name"), version)

    # ── accounts ──────────────────────────────────────────────────────────────────────────────────

    async def _users(self, params: dict[str, Any]) -> object:
        return [user_facts(user) for user in self._house.access.users()]

    async def _user_add(self, params: dict[str, Any]) -> object:
        name, role = _given(params, "name"), role_of(_given(params, "role"))
        return user_facts(
            await self._house.access.add_user(whoever(), name, _given(params, "password"), role)
        )

    async def _user_passwd(self, params: dict[str, Any]) -> object:
        name, password = _given(params, "name"), _given(params, "password")
        return user_facts(await self._house.access.set_password(whoever(), name, password))

    async def _user_role(self, params: dict[str, Any]) -> object:
        name, role = _given(params, "name"), role_of(_given(params, "role"))
        return user_facts(await self._house.access.set_role(whoever(), name, role))

    async def _user_link(self, params: dict[str, Any]) -> object:
        name = _given(params, "name")
        secret, until_ms = await self._house.access.add_link(whoever(), name)
        return {"name": name, "link": self._house.link(f"/console/log-in#{secret}"), "until_ms": until_ms}

    async def _user_remove(self, params: dict[str, Any]) -> object:
        await self._house.access.remove_user(whoever(), _given(params, "name"))
        return {"name": params["name"]}

    async def _tokens(self, params: dict[str, Any]) -> object:
        return [token_facts(token) for token in self._house.access.tokens()]

    async def _token_add(self, params: dict[str, Any]) -> object:
        scopes, ttl_s = params.get("scopes"), params.get("ttl_s")
        if scopes is not None and not (isinstance(scopes, list) and all(isinstance(s, str) for s in scopes)):
            raise BadInput("scopes is a list of texts", fix="as nodes:read")
        if not isinstance(ttl_s, int | float) or not 0 < ttl_s < 10**10:
            raise BadInput("ttl_s is missing or no number", fix="give seconds, as 86400")
        token, secret = await self._house.access.add_token(
            whoever(), _given(params, "name"), role_of(_given(params, "role")), scopes, int(ttl_s)
        )
        return token_facts(token) | {"secret": secret}

    async def _token_revoke(self, params: dict[str, Any]) -> object:
        await self._house.access.revoke_token(whoever(), _given(params, "id"))
        return {"id": params["id"]}

    async def _audit(self, params: dict[str, Any]) -> object:
        after, limit = params.get("after", 0), params.get("limit", 100)
        if not isinstance(after, int) or not isinstance(limit, int):
            raise BadInput("after and limit are whole numbers", fix="as after 0, limit 100")
        audit = self._house.access.audit
        if after < 0:  # the last ones
            after = max(0, audit.head.n - limit)
        return [msgspec.to_builtins(each) for each in await asyncio.to_thread(audit.read, after, limit)]

    # ── the fleet ─────────────────────────────────────────────────────────────────────────────────

    async def _fleet(self, params: dict[str, Any]) -> object:
        """The whole mesh in compact rows, for who draws it once a second. Of the roster's size at most.

        Args: after: a ``version`` that was told before: only what is newer is told. Absent: everything.
        Returns: ``{version, since, nodes, links, pending, totals}``; rows are shared, never change one.

        - since: the *after* that this continues: put these rows over those that you have, by ``id`` and by
          ``(a, b)``. 0: this is everything (somebody is listed no more, or the gateway was started anew).
        - nodes: ``{id, status, up, work, load_s, workers, running, rtt_ms, roles, labels, restarts}``.
          status: active, revoked or left. work: work, pause or drain. load_s: seconds of work that wait and
          run there, summed over workers. running: at the gateway what its workers run, at a member how many
          of the gateway's tasks it has, waiting or running. rtt_ms: from here; None: not measured. One
          that is not up and was ever has ``seen_at_ms``, ``reason``; ``cut: True`` if it should be up.
        - links: ``{a, b, up, rtt_ms, in_bytes_s, out_bytes_s}``: who has a session with whom, as far as the
          gateway knows: its own (a: gateway), bytes to and from the gateway. One that ended stays, up False.
        - pending: ``{id, address, asked_at_ms}`` of those that wait to be let in, always all.
        - totals: always all: ``{members, up, pending, workers, load_s, done_s, in_bytes_s, out_bytes_s, open,
          running, queued, accepted, settled, away, connected}``: of active members; workers and load of those
          that are up; done_s: tasks of the gateway's that end a second; open … settled: tasks of the
          gateway's; accepted, settled, away: since its start, away: that members did for it.

        A picture is made anew when the last is older than 0.25 s.
        """
        after = params.get("after", 0)
        if not isinstance(after, int) or after < 0:
            raise BadInput("after is the version of a picture, a whole number")
        clock = self._house.clock
        return self._picture.look(
            clock.now_ns(), clock.wall_ms(), self._house.registry, self._surroundings, after
        )

    def _surroundings(self) -> Surroundings:
        house, agent = self._house, self.agent
        tasks = agent.desk.status(house.clock.now_ns())
        load = agent.desk.load(house.clock.now_ns())
        settled = sum(agent.desk.settled.values())
        assert house.joining is not None
        return Surroundings(
            us=agent.node_id,
            ways={
                peer: Way(stream.rtt_ns, stream.counters.bytes_in, stream.counters.bytes_out)
                for peer, stream in agent.channels.streams()
                if agent.channels.has(peer)
            },
            resting=house.resting.mode_of,
            lent=agent.desk.lent,
            own={
                "load_s": round(load.backlog_ms / 1000, 2),
                "workers": load.workers,
                "running": tasks["running_here"],
            },
            pending=[
                {"id": each.name, "address": each.address, "asked_at_ms": each.asked_s * 1000}
                for each in house.joining.desk.pending()
            ],
            totals={
                "open": tasks["open"],
                "running": tasks["running_here"],
                "queued": tasks["queued_here"],
                "accepted": tasks["accepted"],
                "settled": settled,
                "away": sum(agent.desk.by_place.values()) - agent.desk.by_place.get("local", 0),
                "connected": agent.link.up,
            },
            done=settled,
        )

    async def _all_nodes(self, params: dict[str, Any]) -> object:
        house = self._house
        now_ns, wall_ms = house.clock.now_ns(), house.clock.wall_ms()
        rows = [self._row(now_ns, wall_ms, row) for row in house.registry.rows(now_ns)]
        assert house.joining is not None
        return rows + [_waiting(each) for each in house.joining.desk.pending()]

    async def _nodes_page(self, params: dict[str, Any]) -> object:
        """The rows of ``nodes``, by name, above the name ``after``.

        Args: status, up, role, label: as ``gateway.fleet.registry.Among``; limit.
        Returns: ``{nodes, next}``: after whom the next page begins; empty: that was all.
        """
        limit, after = params.get("limit", 100), str(params.get("after") or "")
        if not isinstance(limit, int) or not 1 <= limit <= PAGE_ROWS_MAX:
            raise BadInput(f"limit is a whole number from 1 to {PAGE_ROWS_MAX}")
        status, role, label = (str(params.get(each) or "") for each in ("status", "role", "label"))
        among = Among(status, params.get("up"), role, label, always_up=self.agent.node_id)
        house = self._house
        now_ns, wall_ms = house.clock.now_ns(), house.clock.wall_ms()
        members = house.registry.page(now_ns, among, after, limit + 1)
        rows = [self._row(now_ns, wall_ms, each) for each in members]
        assert house.joining is not None
        if among.has("pending", False, (), {}):
            waiting = map(_waiting, house.joining.desk.pending())
            rows = sorted(
                (*rows, *(each for each in waiting if each["id"] > after)), key=lambda row: str(row["id"])
            )
        return {"nodes": rows[:limit], "next": rows[limit - 1]["id"] if len(rows) > limit else ""}

    def _row(self, now_ns: int, wall_ms: int, row: NodeRow) -> dict[str, Any]:
        is_self = row.id == self.agent.node_id
        load = self.agent.desk.load(now_ns) if is_self else None
        heard_ms = 0 if row.heard_ago_s is None else wall_ms - int(row.heard_ago_s * 1000)
        return {
            "id": row.id,
            "status": "active" if row.state in ("up", "down", "unseen") else row.state,
            "up": is_self or row.state == "up",
            "roles": list(row.roles),
            "labels": row.labels,
            "workers": load.workers if load else row.workers,
            "load": f"{(load.backlog_ms if load else row.backlog_ms) / 1000:.1f} s",
            "last_seen_at_ms": wall_ms if is_self else heard_ms,
            "restarts": row.restarts,
            "work": self._house.resting.mode_of(row.id),
            "reason": row.reason,
            **_end_of(self._house.keeper.current.listed(row.id)),
        }

    async def _one_node(self, params: dict[str, Any]) -> object:
        """As a row of ``nodes``, and of a member what there is no room for in a list.

        Returns: also ``{software, speed, rtt_ms, lent, keys}``. rtt_ms: from here; None: no session with it.
        lent: how many of the gateway's tasks it has. keys: the newest first, ``{fingerprint, words,
        since_at_ms, until_at_ms}``: of its certificate's key; two while a renewal is under way.
        """
        name, house = _name(params), self._house
        now_ns, wall_ms = house.clock.now_ns(), house.clock.wall_ms()
        row, member = house.registry.row(now_ns, name), house.keeper.current.listed(name)
        assert house.joining is not None
        if row is None or member is None:
            for waiting in house.joining.desk.pending():
                if waiting.name == name:
                    return _waiting(waiting)
            raise BadInput(f"no member is named {name!r}", fix="see `edge-gateway nodes`")
        agent, mesh_id = self.agent, house.trust.authority.mesh_id
        stream = dict(agent.channels.streams()).get(name) if agent.channels.has(name) else None
        return self._row(now_ns, wall_ms, row) | {
            "software": own_version() if name == agent.node_id else row.version,
            "speed": row.speed,
            "rtt_ms": None if stream is None or stream.rtt_ns is None else round(stream.rtt_ns / 1e6, 1),
            "lent": agent.desk.lent(name),
            "keys": [
                {
                    "fingerprint": key.spki_sha256.hex(),
                    "words": fingerprint_words(mesh_id, key.spki_sha256, key.x25519),
                    "since_at_ms": key.not_before_s * 1000,
                    "until_at_ms": (key.not_before_s + HOUR_S + LEAF_DAYS * DAY_S) * 1000,
                }
                for key in member.keys
            ],
        }


def _waiting(node: PendingNode) -> dict[str, Any]:
    return {
        "id": node.name,
        "status": "pending",
        "up": False,
        "roles": [],
        "labels": {},
        "address": node.address,
        "last_seen_at_ms": node.asked_s * 1000,
        "fingerprint": node.words,
    }


def _name(params: dict[str, Any]) -> str:
    name = params.get("node")
    if not isinstance(name, str) or not is_node_id(name):
        raise BadInput(f"{name!r:.60} is no node's name", fix="see `edge-gateway nodes`")
    return name


def one_line(reason: object) -> str:
    """Raises: BadInput: it is too long to be told."""
    text = " ".join(reason.split()) if isinstance(reason, str) else ""
    if len(text) > REASON_MAX:
        raise BadInput(f"a reason of {len(text)} characters", fix=f"tell it in {REASON_MAX}")
    return text


def _given(params: dict[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise BadInput(f"{key} is missing or no text", fix="see --help")
    return value


def _end_of(member: Member | None) -> dict[str, Any]:
    """Since when, by whom and why a member is none any more."""
    if member is None or member.status == "active" or not member.since_s:
        return {}
    return {"since_at_ms": member.since_s * 1000, "by": member.by, "reason": member.reason}
