"""The page of a report: complete in itself, no name in it is markup, verdicts are not mixed up."""

from __future__ import annotations

from html.parser import HTMLParser

import msgspec
import pytest

from device_sim.report.captions import Caption, Picture
from device_sim.report.glossary import FIGURES
from device_sim.report.markup import Html, tag
from device_sim.report.page import held, page
from device_sim.report.quantities import THIN, number, octets, percent, quantity, seconds
from device_sim.report.record import Check, Edge, Manifest, Node, Record, Struck
from tests.support.synthetic_records import record

EVIL = "\"><script>alert('x')</script>&amp;<img src=//example.org/x onerror=y>"
PIXEL = Picture(Caption("latency", "A title", "What it shows", "A note"), b"\x89PNG")
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Elements with their attributes, text by the element it is in; every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open:
            self.texts.append((self._open[-1], data))

    def all_text(self) -> str:
        return " ".join(text for element, text in self.texts if element != "style")


def check(word: str, name: str = "", detail: str = "") -> Check:
    return Check(name=name or word, promise="that it holds", word=word, detail=detail)


def evil_record() -> Record:
    """Wherever a name, a path or an error's text can stand."""
    honest = record(tasks=10)
    return msgspec.structs.replace(
        honest,
        manifest=Manifest(
            kind="run", scenario=EVIL, seed=1, commit=EVIL, versions={EVIL: EVIL}, machine=EVIL, command=EVIL,
            duration_s=1, wall_s=1, trace_hash=EVIL,
        ),
        figures={EVIL: 1.0, "p99_ms": 2.0},
        faults=[Struck(at_s=1, do=EVIL, node=EVIL)],
        nodes=[Node(id=EVIL, cls=EVIL, up=True, ran=0, accepted=0)],
        edges=[Edge(owner=EVIL, place=EVIL, tasks=1)],
        checks=[Check(name=EVIL, promise=EVIL, word=word, detail=EVIL) for word in ("passed", "failed")],
        notes=[EVIL],
    )  # fmt: skip


def test_a_page_asks_nobody_for_anything_and_runs_nothing():
    shown = Page(page(evil_record(), [PIXEL]))

    assert {"script", "link", "iframe", "object", "base", "form"} & {
        name for name, _ in shown.elements
    } == set()
    for name, attributes in shown.elements:
        assert not any(key.startswith("on") for key in attributes)
        assert attributes.keys() & {"href", "srcset", "action", "style", "background"} == set()
        if "src" in attributes:
            assert name == "img" and attributes["src"].startswith("data:image/png;base64,")
    policies = [attributes for _, attributes in shown.elements if "http-equiv" in attributes]
    assert [each["content"].split(";")[0] for each in policies] == ["default-src 'none'"]
    style = "".join(text for element, text in shown.texts if element == "style")
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style


def test_whatever_a_record_says_is_text():
    evil = Picture(Caption("latency", EVIL, EVIL, EVIL), b"png")

    shown = Page(page(evil_record(), [evil]))

    count = shown.all_text().count(EVIL)
    assert count >= 18, "each place shows it unchanged"
    images = [attributes for name, attributes in shown.elements if name == "img"]
    assert [each["alt"] for each in images] == [EVIL]


def test_markup_is_escaped_unless_it_was_made_here():
    assert tag("p", "<b>", tag("i", "&"), None, title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert isinstance(tag("p"), Html)
    assert tag("td", "x", class_="a", data_x=None) == '<td class="a">x</td>'


@pytest.mark.parametrize(
    ("words", "verdict", "is_held"),
    [
        (["passed", "passed"], "Held: all 2 checks passed", True),
        (["passed", "not applicable"], "Held: the one check passed, 1 not applicable", True),
        (["passed", "failed", "not applicable"], "Not held: 1 of 2 checks failed, 1 not applicable", False),
        (["not applicable"], "Nothing was checked, 1 not applicable", False),
        ([], "Nothing was checked", False),
    ],
)
def test_the_verdict_counts_what_was_judged(words, verdict, is_held):
    found = record(tasks=3, checks=[check(word) for word in words])

    assert verdict in [text for element, text in Page(page(found, [])).texts if element == "p"]
    assert held(found) is is_held


def test_every_check_stands_under_its_own_word_and_failures_first():
    found = record(
        tasks=3, checks=[check("not applicable"), check("passed"), check("failed", detail="t1: gone")]
    )

    shown = Page(page(found, []))

    words = [text for element, text in shown.texts if element == "span" and text[:1] in "✓✗–"]
    assert words[-3:] == ["✗ failed", "✓ passed", "– not applicable"]
    names = [text for element, text in shown.texts if element == "td" and text in ("failed", "passed")]
    assert names == []  # a name is the head of its row
    assert "t1: gone" in [text for element, text in shown.texts if element == "pre"]


def test_violations_come_with_the_command_that_shows_them_again():
    failed = record(tasks=3, checks=[check("failed", detail="t1: gone")])
    command = failed.manifest.command

    def codes(found: Record) -> int:
        return [text for element, text in Page(page(found, [])).texts if element == "code"].count(command)

    assert codes(failed) == 2
    assert codes(record(tasks=3)) == 1


def test_figures_have_unit_and_meaning():
    text = Page(page(record(tasks=300), [])).all_text()

    assert FIGURES["p99_ms"].text in text and f"{THIN}ms" in text
    assert "p99_ms" not in Page(page(record(tasks=0), [])).all_text()


def test_the_same_record_is_the_same_page():
    assert page(record(tasks=50), [PIXEL]) == page(record(tasks=50), [PIXEL])


def test_without_pictures_the_page_says_what_is_missing():
    assert "edgeweave[report]" in Page(page(record(tasks=3), None)).all_text()


def test_a_picture_of_nothing_is_only_its_sentence():
    shown = Page(page(record(tasks=3), [Picture(Caption("mesh", "Nobody ran anybody's work", ""), b"")]))

    assert "Nobody ran anybody's work" in shown.all_text()
    assert "img" not in {name for name, _ in shown.elements}


def test_a_record_survives_its_file():
    found = record(tasks=200)

    assert msgspec.json.decode(msgspec.json.encode(found), type=Record) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (number(12034), f"12{THIN}034"),
        (number(1234.6), f"1{THIN}235"),
        (number(0), "0"),
        (number(45.62), "45.6"),
        (number(1.5), "1.5"),
        (number(0.01234), "0.0123"),
        (number(0.00001), "under 0.001"),
        (quantity(180.4, "ms"), f"180{THIN}ms"),
        (quantity(1860, "ms"), f"1.86{THIN}s"),
        (quantity(90_000, "ms"), f"90{THIN}s"),
        (quantity(3, "1/s"), f"3{THIN}1/s"),
        (octets(1_530_000), f"1.53{THIN}MB"),
        (octets(999), f"999{THIN}B"),
        (seconds(600), f"10{THIN}min"),
        (seconds(86_400), f"24{THIN}h"),
        (percent(0.5), f"50{THIN}%"),
        (percent(0.999), f"over 99{THIN}%"),
        (percent(0.001), f"0.1{THIN}%"),
        (percent(1.0), f"100{THIN}%"),
    ],
)  # fmt: skip
def test_numbers_are_told_with_the_digits_that_count(text, told):
    assert text == told
