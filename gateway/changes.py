"""Changes: which administrative methods are noted in the audit log, and what is noted of each.

    look before ─► the method ─► look after ─► one entry, if they differ or nothing can be looked at

A method that fails changed nothing and is not noted. One that is done when the disk refuses is owed
(``Audit.note``), and until it is written no other is begun. Users and tokens are noted where they are changed
(``gateway.access``). What programs write into tables is their work, not administration: it is noted only for
people and tokens that came through the HTTP API, and then which documents, not what is in them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from edge_node.control.server import caller
from edge_node.log_levels import level_of
from gateway.access.access import asking, local
from gateway.access.roles import Principal
from gateway.house import House
from gateway.joining import invite_facts

Params = dict[str, Any]
Method = Callable[[str, Params], Awaitable[object]]
IDS_MAX: Final = 64  # documents named in one entry; the rest is counted


@dataclass(frozen=True, slots=True)
class Change:
    """How a method is noted.

    Args:
        what: the entry's word.   target: the parameter that names what is changed.
        look: what the target is now; None: there is nothing to compare.
        told: parameters that are noted as they were given; never a secret.
        answered: what of the answer is noted, if there is nothing to compare; never a secret.
        through_api: only what comes through the HTTP API is noted.
        writes: only if one of these parameters is given does it change something; empty: always.
    """

    what: str
    target: str
    look: Callable[[House, str], object] | None = None
    told: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    through_api: bool = False
    writes: tuple[str, ...] = ()

    def concerns(self, params: Params) -> bool:
        """Whether this call is noted."""
        if self.through_api and asking.get() is None:
            return False
        return not self.writes or any(params.get(name) for name in self.writes)


async def noted(house: House, change: Change, method: str, params: Params, call: Method) -> object:
    """Do it, and note it. Raises: as the method; Unavailable: an earlier change is still not noted."""
    audit = house.access.audit
    await audit.ready()
    target = _text(params.get(change.target))
    before = change.look(house, target) if change.look else None
    answer = await call(method, params)
    after = change.look(house, target) if change.look else None
    if change.look is not None and before == after:
        return answer
    if change.look is None:
        after = {name: params[name] for name in change.told if params.get(name) not in (None, "", [], ())}
        after |= _documents(answer) | _answered(answer, change.answered)
    cause = _text(params.get("reason"))
    await audit.note(whoever().name, change.what, target, before, after, cause)
    return answer


def whoever() -> Principal:
    """Who asks for what is done now: a principal of the HTTP API, else the program at the control socket."""
    return asking.get() or local(caller.get())


def node(house: House, name: str) -> object:
    """A member's standing, or that it waits for approval."""
    held = house.keeper.current.listed(name)
    if held is not None:
        keys = [key.spki_sha256.hex()[:16] for key in held.keys]
        return {"status": held.status, "roles": list(held.roles), "keys": keys}
    assert house.joining is not None
    if any(waiting.name == name for waiting in house.joining.desk.pending()):
        return {"status": "pending"}
    return None


def rest(house: House, name: str) -> object:
    """Whether a member is to take work, and why that was said."""
    return {"work": house.resting.mode_of(name), "reason": house.resting.reason_of(name)}


def functions(house: House, name: str) -> object:
    """Version and code of one function, or of all that a file defines."""
    assert house.agent is not None
    catalogue = house.agent.catalogue
    own = [each for each in catalogue.names() if each == name or each.startswith(f"{name}.")]
    entries = [catalogue.current(each) for each in own]
    return {each.name: {"version": each.version, "digest": each.digest.hex()} for each in entries} or None


def restoration(house: House, _: str) -> object:
    version = house.keeper.current.version
    return {"roster": version} | ({} if house.homecoming is None else house.homecoming.status())


def log_level(_: House, logger: str) -> object:
    return {"level": level_of(logger)}


def open_code(house: House, token_id: str) -> object:
    """What a join code is for, while it is open. The code itself is not kept."""
    assert house.joining is not None
    found = (each for each in house.joining.desk.open_invites() if each.id == token_id)
    return next(map(invite_facts, found), None)


def _answered(answer: object, names: tuple[str, ...]) -> dict[str, object]:
    return {name: answer[name] for name in names if name in answer} if isinstance(answer, dict) else {}


def _documents(answer: object) -> dict[str, object]:
    ids = answer.get("ids") if isinstance(answer, dict) else None
    if not isinstance(ids, list):
        return {}
    return {"ids": [str(each) for each in ids[:IDS_MAX]], "documents": len(ids)}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


_CODE: Final = ("name", "roles", "ttl_s", "approval")

CHANGES: Final[dict[str, Change]] = {
    "invite": Change("node.invite", "name", told=_CODE, answered=("id",)),
    "withdraw": Change("node.withdraw", "id", open_code),
    "replace": Change("node.replace", "node", told=("ttl_s", "approval"), answered=("id",)),
    "approve": Change("node.approve", "node", node),
    "deny": Change("node.deny", "node", node),
    "revoke": Change("node.revoke", "node", node),
    "pause": Change("node.pause", "node", rest),
    "resume": Change("node.resume", "node", rest),
    "drain": Change("node.drain", "node", rest),
    "log-level": Change("gateway.log-level", "logger", log_level, writes=("level",)),
    "settle": Change("gateway.settle", "", restoration),
    "deploy": Change("function.deploy", "stem", functions),
    "rollback": Change("function.rollback", "name", functions),
    "state.declare": Change("table.declare", "table", told=("key", "writers"), through_api=True),
    "state.insert": Change("table.insert", "table", through_api=True),
    "state.update": Change("table.update", "table", through_api=True),
    "state.put": Change("table.put", "table", through_api=True),
    "state.upsert": Change("table.upsert", "table", through_api=True),
    "state.remove": Change("table.remove", "table", through_api=True),
    "state.truncate": Change("table.truncate", "table", through_api=True),
    "state.counter": Change("table.count", "name", told=("add",), through_api=True, writes=("add",)),
    "state.set": Change(
        "table.set", "name", told=("add", "discard"), through_api=True, writes=("add", "discard")
    ),
    "state.resolve": Change("table.resolve", "table", told=("id", "field"), through_api=True),
}
"""By method. What else changes something is added here, with what can be looked at."""
