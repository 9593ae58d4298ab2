"""Nothing readable on a link, no number twice under one key: shown with real envelopes, and real leaks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.virtual.checkers.sealed import NEWEST, NUMBERS_MAX, WHOLE_EACH, Sealed
from edge_node.wire.messages import Ping
from security.control import M1, Control
from tests.support.virtual_stories import (
    FUNCTION,
    MESH,
    Speaker,
    Story,
    Wire,
    marker_of,
    name_of,
    offer_of,
    plain_of,
)


def verdict(story: Story):
    return story.judged_by(Sealed())


def the_violation(story: Story) -> str:
    found = verdict(story)
    assert (found.word, found.total) == ("failed", 1), found
    return found.violations[0]


@pytest.fixture
def wire() -> Wire:
    return Wire("pi-1", "pi-2")


@pytest.fixture
def story(wire) -> Story:
    """Task 1 is offered, sealed; a handshake, a beat, a will and a roster pass too."""
    told = Story()
    told.asks(1.0, "pi-1", 1)
    told.frames(0.5, "pi-1", wire.topic, Control(M1, bytes(8), 1, bytes(8), bytes(8), b"noise").encode())
    told.frames(2.0, "pi-1", wire.topic, wire.seal(offer_of(1)))
    speaker = Speaker("pi-1", 1)
    for at_s in (3.0, 4.0):
        told.frames(at_s, "pi-1", speaker.topic, speaker.beat())
    told.frames(5.0, "pi-1", speaker.topic, b"")
    told.frames(6.0, "gateway", f"ew/1/{MESH}/roster", b"public: " + FUNCTION.encode())
    return told


def leaks(story: Story, at_s: float, wire: Wire, content: bytes) -> None:
    """An envelope whose bytes are not encrypted: shape and numbers are right."""
    sealed = wire.seal(Ping(1))
    head_ends = 20 + sealed[19] - 0x40  # behind the number
    body = content.ljust(256, b"\x00") + sealed[-16:]
    story.frames(at_s, wire.src, wire.topic, sealed[:head_ends] + b"\x59\x01\x10" + body)


def test_sealed_frames_pass(story):
    assert (verdict(story).word, verdict(story).why) == ("passed", "3 frames under 2 keys")


def test_nothing_said_is_nothing_judged():
    story = Story()
    story.asks(1.0, "pi-1", 1)

    assert (verdict(story).word, verdict(story).why) == ("not applicable", "nothing was said under a seal")


def test_without_markers_only_numbers_are_judged_and_it_says_so(wire):
    story = Story()
    story.frames(1.0, "pi-1", wire.topic, wire.seal(Ping(1)))

    assert verdict(story).why == "1 frames under 1 keys; no client handed in a marker"


# ── plaintext


@pytest.mark.parametrize("what", [marker_of(1), name_of(1).encode()], ids=["marker", "task id"])
def test_what_a_client_handed_in_is_told_where_it_can_be_read(story, wire, what):
    leaks(story, 7.0, wire, b"some bytes, then " + what)

    assert the_violation(story) == f"7.000 s pi-1 {name_of(1)}: readable on {wire.topic}"


def test_it_is_told_on_the_way_back_too(story):
    back = Wire("pi-2", "pi-1")
    leaks(story, 7.0, back, marker_of(1))

    assert the_violation(story) == f"7.000 s pi-2 {name_of(1)}: readable on {back.topic}"


def test_a_functions_name_is_told(story, wire):
    leaks(story, 7.0, wire, b"call " + FUNCTION.encode())

    assert f"the function {FUNCTION} is readable" in the_violation(story)


def test_a_whole_plain_parcel_is_told(story, wire):
    """Neither an envelope, nor silent about what it carries."""
    story.frames(7.0, "pi-1", wire.topic, plain_of(offer_of(1)))

    found = verdict(story)

    assert found.word == "failed"
    assert any("are not sealed" in line for line in found.violations)
    assert any(f"{name_of(1)}: readable" in line for line in found.violations)


def test_an_older_tasks_input_is_found_when_it_leaks_again_and_again(wire):
    """It is not among the newest of its node; a whole search comes each so many frames."""
    story = Story()
    for number in range(4 * NEWEST):
        story.asks(1.0 + number / 100, "pi-1", number)
    leaks(story, 3.0, wire, marker_of(0))
    assert verdict(story).word == "passed"  # the limit that its docstring tells

    for number in range(WHOLE_EACH):
        leaks(story, 4.0 + number, wire, marker_of(0))
    assert the_violation(story).endswith(f"{name_of(0)}: readable on {wire.topic}")


def test_another_nodes_input_is_found_by_the_whole_search(wire):
    story = Story()
    story.asks(1.0, "pi-7", 1)
    for number in range(WHOLE_EACH):
        leaks(story, 4.0 + number, wire, b"x" * (number + 1) + marker_of(1))

    assert the_violation(story).endswith(f"{name_of(1)}: readable on {wire.topic}")


def test_a_leak_in_presence_is_told(story):
    speaker = Speaker("pi-1", 1)
    story.frames(7.0, "pi-1", speaker.topic, speaker.beat()[:60] + marker_of(1))

    assert any(f"readable on {speaker.topic}" in line for line in verdict(story).violations)


def test_settled_tasks_are_forgotten():
    """Memory: what is kept of ended tasks is the newest few of each node."""
    checker = Sealed()
    story = Story()
    for number in range(100):
        story.tells(50.0 + number, story.asks(1.0, "pi-1", number))

    story.judged_by(checker)

    assert not checker._open and not checker._tails
    assert len(checker._newest["pi-1"]) == 2 * NEWEST


@pytest.mark.parametrize("size", [1, 4, 7])
def test_markers_too_short_to_be_told_from_chance_are_not_looked_for(wire, size):
    story = Story()
    event = Story()
    event.asks(1.0, "pi-1", 1)
    asked = event.events[0]
    story.events.append(type(asked)(asked.at_ns, "pi-1", asked.task, "f", asked.ttl_ns, b"m" * size))
    leaks(story, 2.0, wire, b"m" * 100 + b"f")

    assert verdict(story).word == "passed"


# ── shape


def test_a_probe_of_the_link_is_empty_and_goes_to_its_sender(story, wire):
    own = wire.topic.replace("pi-1", "pi-2")
    story.frames(7.0, "pi-2", own, b"")
    assert not verdict(story).violations
    story.frames(8.0, "pi-2", wire.topic, b"")
    assert "are not sealed" in the_violation(story)


@pytest.mark.parametrize(
    "payload",
    [b"hello", b"\xd0\x83", b"\x00" * 100, bytes.fromhex("d08344a1011818a20448") + bytes(8)],
    ids=["text", "short", "zeros", "head alone"],
)
def test_what_is_no_envelope_is_told(story, wire, payload):
    story.frames(7.0, "pi-1", wire.topic, payload)

    assert "are not sealed" in the_violation(story)


@pytest.mark.parametrize("change", ["longer", "shorter", "number zero", "other algorithm"])
def test_an_envelope_with_a_wrong_head_or_length_is_told(story, wire, change):
    sealed = wire.seal(Ping(1))
    if change == "longer":
        sealed += b"\x00"
    elif change == "shorter":
        sealed = sealed[:-1]
    elif change == "number zero":
        sealed = sealed[:20] + b"\x00" + sealed[21:]
    else:
        sealed = sealed[:5] + b"\x01" + sealed[6:]
    story.frames(7.0, "pi-1", wire.topic, sealed)

    assert "are not sealed" in the_violation(story)


def test_a_parcel_on_a_presence_topic_is_told(story, wire):
    story.frames(7.0, "pi-1", Speaker("pi-1", 1).topic, wire.seal(Ping(1)))

    assert "are not sealed" in the_violation(story)


def test_something_that_only_begins_like_a_control_frame_is_told(story, wire):
    story.frames(7.0, "pi-1", wire.topic, b"\x86" + b"anything")

    assert "neither sealed nor control" in the_violation(story)


# ── numbers


def test_a_number_used_twice_is_told(story, wire):
    story.frames(7.0, "pi-1", wire.topic, wire.seal(Ping(7), seq=1))

    assert the_violation(story) == f"7.000 s pi-1: number 1 of key {wire.kid.hex()} sealed two frames"


def test_the_same_bytes_again_are_a_doubling_of_the_network(story, wire):
    sealed = wire.seal(Ping(7))
    story.frames(7.0, "pi-1", wire.topic, sealed)
    story.frames(7.5, "pi-1", wire.topic, sealed)

    assert verdict(story).word == "passed"


def test_numbers_may_come_in_any_order(wire):
    frames = [wire.seal(Ping(number)) for number in range(200)]
    random.Random(1).shuffle(frames)
    story = Story()
    for at_s, sealed in enumerate(frames + frames):
        story.frames(at_s, "pi-1", wire.topic, sealed)

    assert verdict(story).word == "passed"


def test_the_same_number_under_another_key_is_fine():
    story = Story()
    for at_s, wire in enumerate((Wire("a", "b", seed=1), Wire("a", "b", seed=2), Wire("b", "a", seed=1))):
        story.frames(1.0 + at_s, wire.src, wire.topic, wire.seal(Ping(at_s)))

    assert verdict(story).why.startswith("3 frames under 3 keys")


def test_a_restart_that_counts_a_group_stream_from_one_again_is_told():
    """Two processes with the same stream id: what a random source that repeats itself would do."""
    story = Story()
    for at_s, speaker in ((1.0, Speaker("pi-1", 1)), (2.0, Speaker("pi-1", 1))):
        speaker._beats = int(at_s)
        story.frames(at_s, "pi-1", speaker.topic, speaker.beat())

    assert "number 1 of key" in the_violation(story)


def test_a_new_epoch_is_a_new_key_for_the_same_stream():
    story = Story()
    speaker = Speaker("pi-1", 1)
    story.frames(1.0, "pi-1", speaker.topic, speaker.beat())
    speaker.adopts(2)
    story.frames(2.0, "pi-1", speaker.topic, speaker.beat())

    assert verdict(story).why.startswith("2 frames under 2 keys")


def test_memory_of_a_long_key_is_bounded_and_its_newest_numbers_are_kept(wire):
    checker = Sealed()
    story = Story()
    story.frames(1.0, "pi-1", wire.topic, wire.seal(Ping(0), seq=1))
    story.frames(2.0, "pi-1", wire.topic, wire.seal(Ping(0), seq=NUMBERS_MAX // 2 + 9))
    story.frames(3.0, "pi-1", wire.topic, wire.seal(Ping(0), seq=NUMBERS_MAX + 9))
    story.frames(4.0, "pi-1", wire.topic, wire.seal(Ping(0), seq=(1 << 24) - 1))
    story.frames(5.0, "pi-1", wire.topic, wire.seal(Ping(1), seq=1))  # too old: told as such
    story.frames(6.0, "pi-1", wire.topic, wire.seal(Ping(1), seq=(1 << 24) - 1))

    found = story.judged_by(checker)

    assert found.violations == (
        f"6.000 s pi-1: number {(1 << 24) - 1} of key {wire.kid.hex()} sealed two frames",
    )
    assert "1 numbers too old to compare" in found.why
    assert all(len(numbers.prints) <= NUMBERS_MAX for numbers in checker._keys.values())


@pytest.mark.slow
@settings(max_examples=50)
@given(
    numbers=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    again=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_order_passes_and_any_second_frame_under_a_number_fails(numbers, again, seed):
    wire = Wire("pi-1", "pi-2", seed=seed)
    story = Story()
    sealed = {number: wire.seal(Ping(number), seq=number) for number in numbers}
    for at_s, number in enumerate(numbers):
        story.frames(at_s, "pi-1", wire.topic, sealed[number])
    if again:
        story.frames(len(numbers), "pi-1", wire.topic, wire.seal(Ping(1000), seq=numbers[0]))

    assert verdict(story).total == (1 if again else 0)
