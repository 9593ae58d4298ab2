"""The pictures of a report: there, readable in size, and their words are computed from the record."""

from __future__ import annotations

import io
import warnings

import msgspec
import pytest
from PIL import Image

from device_sim.report import charts
from device_sim.report.captions import faults, latency, load, mesh, messages
from device_sim.report.quantities import THIN
from device_sim.report.record import Edge, Load, Record
from tests.support.synthetic_records import record

NAMES = ["latency", "load", "messages", "faults", "mesh"]


def drawn(found: Record) -> dict[str, Image.Image | None]:
    """Pictures by name; a layout that does not fit is a warning of matplotlib's, and fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = charts.draw(found)
    assert [picture.caption.name for picture in pictures] == NAMES
    return {each.caption.name: Image.open(io.BytesIO(each.png)) if each.png else None for each in pictures}


@pytest.mark.slow
@pytest.mark.parametrize(
    "size", [{}, {"nodes": 1, "tasks": 1, "duration_s": 20}, {"nodes": 700, "tasks": 2000}]
)
def test_every_picture_is_there_and_shows_something(size):
    for name, image in drawn(record(**size)).items():
        assert image is not None and image.format == "PNG", name
        assert image.width == charts.WIDTH_IN * charts.DPI and image.height >= 200, name
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 20, name


def test_what_was_not_seen_is_not_drawn():
    found = msgspec.structs.replace(record(tasks=0, faults=0), messages=[])

    images = drawn(found)

    assert [name for name, image in images.items() if image is None] == [
        "latency",
        "messages",
        "faults",
        "mesh",
    ]


@pytest.mark.slow
def test_the_same_record_is_the_same_picture():
    found = record(tasks=100)

    assert charts.latency(found).png == charts.latency(found).png


@pytest.mark.slow
def test_a_busy_band_is_bright_and_an_absent_one_grey():
    shares = [[1.0] * 50, [0.0] * 50, [-1.0] * 50]
    found = msgspec.structs.replace(
        record(tasks=10), load=Load(interval_s=12.0, nodes=["busy", "idle", "gone"], shares=shares)
    )

    image = Image.open(io.BytesIO(charts.load(found).png)).convert("RGB")
    pixels = {colour: count for count, colour in image.getcolors(maxcolors=1 << 24)}

    dark, bright = (charts.mpl.colormaps["cividis"](end, bytes=True)[:3] for end in (0.0, 1.0))
    for colour in (tuple(map(int, bright)), tuple(map(int, dark)), (201, 201, 201)):  # the last is AWAY
        assert pixels.get(colour, 0) > 20_000, colour


def test_thousands_of_nodes_become_bands_and_the_caption_says_so():
    shares = [[share] for share in ([0.0, 1.0] * 1000)]
    found = msgspec.structs.replace(
        record(tasks=1), load=Load(interval_s=600.0, nodes=[f"n{n}" for n in range(2000)], shares=shares)
    )

    note = charts.load(found).caption.note
    bands = charts._bands(charts.np.array(shares))

    assert f"2{THIN}000 nodes in 400 bands, each the mean of up to 5" in note
    assert bands.shape == (400, 1) and abs(bands.mean() - 0.5) < 0.01


def test_titles_say_what_is_seen():
    found = record(tasks=1000, seed=3)
    completed, accepted = int(found.figures["completed"]), int(found.figures["accepted"])

    assert latency(found).title.startswith(f"99{THIN}% of {completed} completed tasks ended within ")
    assert "most of all at" in load(found, 13, 1).title
    assert f"{completed} of 1{THIN}000 accepted tasks were completed" in faults(found).title
    assert "messages" in messages(found).title and "crossed the broker" in messages(found).title
    assert accepted == 1000
    for caption in (latency(found), load(found, 13, 1), messages(found), faults(found)):
        assert caption.alt.endswith(".") and any(sign.isdigit() for sign in caption.alt)


def test_shares_of_places_add_up():
    found = msgspec.structs.replace(
        record(tasks=1),
        figures={},
        edges=[
            Edge(owner="a", place="a", tasks=50), Edge(owner="a", place="b", tasks=30),
            Edge(owner="a", place="gateway", tasks=20),
        ],
    )  # fmt: skip

    caption = mesh(found, by_class=False, left_out=7)

    assert caption.title == (
        f"50{THIN}% of the completed tasks ran where they were asked for, 30{THIN}% at other nodes, "
        f"20{THIN}% at the gateway"
    )
    assert "7 lighter arrows left out" in caption.note
    assert caption.alt.index("b ran 30 tasks of a") < caption.alt.index("gateway ran 20 tasks of a")


def test_a_name_that_looks_like_a_formula_is_drawn_as_it_is():
    found = record(tasks=30)
    odd = msgspec.structs.replace(found, latencies_ms={r"$\frac{$ f": found.latencies_ms["room.changes"]})

    assert charts.latency(odd).png
