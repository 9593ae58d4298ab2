"""Where the graph of the mesh draws its nodes: the browser's own code, run by Playwright's JavaScript."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable

GRAPH = Path(__file__).resolve().parents[4] / "gateway/console/static/mesh_graph.js"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Evaluate an expression over the module ``g``; its value comes back as JSON."""
    folder = tmp_path_factory.mktemp("graph")
    (folder / "graph.mjs").write_bytes(GRAPH.read_bytes())
    engine = compute_driver_executable()[0]

    def evaluated(body, given=None):
        script = folder / "run.mjs"
        script.write_text(
            "import * as g from './graph.mjs';\n"
            f"const given = {json.dumps(given)};\n"
            f"const answer = (() => {{ {body} }})();\n"
            "const plain = (_, each) => each instanceof Map ? Object.fromEntries(each) : each;\n"
            "console.log(JSON.stringify(answer, plain));\n"
        )
        done = subprocess.run([engine, script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return evaluated


def fleet(count, racks=0):
    labels = [{"rack": f"r{number % racks}"} if racks else {} for number in range(count)]
    return [{"id": f"n-{number}", "labels": each, "roles": ["node"]} for number, each in enumerate(labels)]


def nearest(places):
    """The least distance between two, by a grid: a thousand have half a million pairs."""
    cells = {}
    for x, y in places:
        cells.setdefault((math.floor(x), math.floor(y)), []).append((x, y))
    least = math.inf
    for (cx, cy), some in cells.items():
        around = [
            other
            for dx, dy in itertools.product((-1, 0, 1), repeat=2)
            for other in cells.get((cx + dx, cy + dy), ())
        ]
        for one in some:
            least = min(least, *(math.dist(one, other) for other in around if other != one), 9)
    return least


@pytest.mark.parametrize(
    ("count", "racks", "by"), [(3, 0, "none"), (18, 0, "none"), (19, 0, "none"), (1000, 0, "none"),
     (999, 40, "label:rack"), (90, 2, "label:rack")]
)  # fmt: skip
def test_nobody_lies_on_another_or_on_the_gateway_and_everybody_is_in_reach(run, count, racks, by):
    laid = run("return g.arrange(given[0], given[1])", [fleet(count, racks), by])
    places = list(laid["places"].values())

    assert len(places) == count
    assert nearest([*places, [0, 0]]) > 0.68, "a node's circle is 0.34 wide"
    assert all(abs(x) <= laid["reach"][0] and abs(y) <= laid["reach"][1] for x, y in places)
    assert [group["count"] for group in laid["groups"]] == (
        [] if by == "none" else [count // racks + (k < count % racks) for k in range(racks)]
    )


def test_the_same_mesh_is_drawn_the_same_way_in_whatever_order_it_is_told(run):
    body = "return [g.arrange(given, 'label:rack'), g.arrange([...given].reverse(), 'label:rack')]"
    one, other = run(body, fleet(200, 5))

    assert one == other


def test_who_stays_keeps_its_place_when_others_come_and_go(run):
    body = """
        const before = g.arrange(given, 'label:rack');
        const gone = given.filter((each) => each.id !== 'n-7');
        const less = g.arrange(gone, 'label:rack', before);
        const more = g.arrange([...gone, {id: 'a-new', labels: {rack: 'r3'}, roles: []}], 'label:rack', less);
        return [before.places, less.places, more.places];
    """
    before, less, more = run(body, fleet(230, 5))

    assert {name: place for name, place in before.items() if name != "n-7"} == less
    assert {name: place for name, place in more.items() if name != "a-new"} == less


def test_groups_do_not_overlap(run):
    laid = run("return g.arrange(given, 'label:rack')", fleet(500, 23))

    for one, other in itertools.combinations(laid["groups"], 2):
        assert math.dist((one["x"], one["y"]), (other["x"], other["y"])) >= one["r"] + other["r"]
    assert all(math.hypot(each["x"], each["y"]) > each["r"] + 1 for each in laid["groups"])


def test_a_mesh_is_grouped_by_the_label_with_the_fewest_values_that_most_bear(run):
    some = fleet(60, 20)
    for number, each in enumerate(some):
        each["labels"] |= {"site": "ab"[number % 2], "serial": f"s{number}", "mesh": "same"}
    few = some[:6]

    assert run("return [g.grouping(given[0]), g.grouping(given[1])]", [some, few]) == ["label:site", "none"]


def test_arrow_keys_lead_to_the_nearest_in_their_direction(run):
    points = {"left": [-2, 0.2], "far": [-5, 0], "up": [0, -2], "right": [3, 0]}
    keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]

    found = run(
        "const all = new Map(Object.entries(given[0]));"
        "return given[1].map((key) => g.neighbour([0, 0], key, all))",
        [points, keys],
    )

    assert found == ["left", "right", "up", None]


def test_arrow_keys_reach_every_node(run):
    body = """
        const {places} = g.arrange(given, 'label:rack');
        places.set('gateway', [0, 0]);
        const seen = new Set(['gateway']), next = ['gateway'];
        while (next.length) {
          const from = places.get(next.pop());
          for (const key of ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown']) {
            const to = g.neighbour(from, key, places);
            if (to && !seen.has(to)) { seen.add(to); next.push(to); }
          }
        }
        return [seen.size, places.size];
    """
    seen, all_ = run(body, fleet(150, 4))

    assert seen >= 0.97 * all_


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("seconds(0)", "idle"), ("seconds(0.25)", "250 ms"), ("seconds(12.4)", "12 s"),
        ("seconds(600)", "10 min"),
        ("rate(0)", "0 B/s"), ("rate(2048)", "2 KiB/s"), ("rate(3e6)", "2.9 MiB/s"), ("fullness(1)", 0.5),
        ("[...['n-10', 'n-9', 'a']].sort(g.natural).join()", "a,n-9,n-10"),
        ("[8, 9, 13, 17, 25].map(g.roomFor).join()", "8,12,16,24,32"),
    ],
)  # fmt: skip
def test_figures_are_said_as_people_read_them(run, call, said):
    assert run(f"return {call if call.startswith('[') else 'g.' + call}") == said
