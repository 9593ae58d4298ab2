"""A run starts only with signed code, its bundle and its input; each is fetched if it is missing."""

from __future__ import annotations

from edge_node.functions.provision import (
    CATALOGUE_WAIT_NS,
    AskCatalogue,
    Authorised,
    CannotRun,
    Provision,
    Start,
    Want,
)
from edge_node.tasks.events import Run
from edge_node.tasks.states import Refusal

ALLOWED = Authorised(timeout_s=5, memory_mb=64)


class Desk:
    """The kept things around a provision."""

    def __init__(self) -> None:
        self.signed: dict[tuple[str, bytes], Authorised] = {}
        self.bundles: set[bytes] = set()
        self.bodies: dict[bytes, bytes] = {}
        self.core = Provision(
            me="me",
            gateway="gateway",
            authorised=lambda f, d: self.signed.get((f, d)),
            has_bundle=self.bundles.__contains__,
            body=self.bodies.get,
        )


def run(**changes) -> Run:
    fields = {
        "owner": "pi",
        "task": "t",
        "attempt": 1,
        "function": "room.changes",
        "digest": b"D",
        "input": b"in",
        "input_digest": None,
    }
    return Run(**{**fields, **changes})


def test_a_run_with_everything_here_starts_at_once_with_the_signed_limits():
    desk = Desk()
    desk.signed["room.changes", b"D"] = ALLOWED
    desk.bundles.add(b"D")

    assert desk.core.run(0, run()) == [Start(run(), b"in", 5, 64)]
    assert desk.core.deadline_ns() is None


def test_entry_bundle_and_input_are_fetched_in_turn():
    desk = Desk()
    wanted = run(input=None, input_digest=b"I")

    assert desk.core.run(0, wanted) == [AskCatalogue(("pi", "gateway"))]
    desk.signed["room.changes", b"D"] = ALLOWED
    assert desk.core.catalogue_changed() == [Want(b"D", ("pi", "gateway"))]
    desk.bundles.add(b"D")
    assert desk.core.fetched(b"D") == [Want(b"I", ("pi", "gateway"))]
    desk.bodies[b"I"] = b"large"
    assert desk.core.fetched(b"I") == [Start(wanted, b"large", 5, 64)]
    desk.core.check()


def test_unsigned_code_never_starts():
    desk = Desk()
    desk.bundles.add(b"D")
    desk.signed["room.changes", b"other"] = ALLOWED
    desk.core.run(0, run())

    assert desk.core.tick(CATALOGUE_WAIT_NS - 1) == []
    (refused,) = desk.core.tick(CATALOGUE_WAIT_NS)
    assert isinstance(refused, CannotRun) and refused.reason is Refusal.UNKNOWN_FUNCTION


def test_a_body_nobody_has_ends_the_run_with_its_reason():
    desk = Desk()
    desk.signed["room.changes", b"D"] = ALLOWED
    desk.core.run(0, run())

    (refused,) = desk.core.not_fetched(b"D", "pi was silent")
    assert refused == CannotRun(
        run(), Refusal.UNKNOWN_FUNCTION, "the bundle could not be fetched: pi was silent"
    )


def test_a_stopped_run_is_not_started_later():
    desk = Desk()
    desk.core.run(0, run())

    assert desk.core.stop("t", 1) and not desk.core.stop("t", 1)
    desk.signed["room.changes", b"D"] = ALLOWED
    desk.bundles.add(b"D")
    assert desk.core.catalogue_changed() == []


def test_peers_that_ran_the_bundle_are_asked_between_the_owner_and_the_gateway():
    """The mesh goes on when the gateway is away, and when the owner never held the bundle itself."""
    desk = Desk()
    wanted = run(holders=("pi-2", "me", "pi", "pi-3"))

    assert desk.core.run(0, wanted) == [AskCatalogue(("pi", "pi-2", "pi-3", "gateway"))]
    desk.signed["room.changes", b"D"] = ALLOWED
    assert desk.core.catalogue_changed() == [Want(b"D", ("pi", "pi-2", "pi-3", "gateway"))]


def test_our_own_node_is_never_asked():
    desk = Desk()
    desk.signed["room.changes", b"D"] = ALLOWED

    assert desk.core.run(0, run(owner="me")) == [Want(b"D", ("gateway",))]
