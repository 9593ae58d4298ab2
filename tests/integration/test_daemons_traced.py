"""A caller's trace through real daemons: to the function on another node, and to a collector."""

from __future__ import annotations

import pytest

from edge_node.tasks.tracing import span_id
from tests.support.daemons import Bed
from tests.support.otlp_collector import Collector, told

pytestmark = pytest.mark.slow

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SOURCE = """
import os
from edge_node.functions import function

@function
def context():
    return [os.environ.get("TRACEPARENT"), os.environ.get("TRACESTATE")]
"""


def test_a_trace_goes_with_its_task_and_a_collector_gets_the_whole_of_it(tmp_path):
    (tmp_path / "traced.py").write_text(SOURCE)
    with Collector() as collector, Bed(tmp_path) as bed:
        bed.environment["EDGEWEAVE_TELEMETRY_OTLP_ENDPOINT"] = collector.url
        gateway, node = bed.pair()

        ran = bed.cli(
            gateway, "submit", "traced.py:context", "--where", "pi-1", "--traceparent", PARENT, "--json"
        )
        task = ran.value["task"]
        seen, _ = bed.cli(gateway, "result", task, "--wait", "30", "--json").value

        run = span_id(task, "run", 1)
        assert seen == f"00-{TRACE}-{run}-01", "the function's caller is its run"
        spans = collector.spans(3)
        assert {each.trace_id.hex() for each in spans.values()} == {TRACE}
        whole, ran_there = spans["task traced.context"], spans["run traced.context"]
        assert whole.parent_span_id.hex() == "00f067aa0ba902b7" and ran_there.span_id.hex() == run
        assert told(ran_there.attributes)["edgeweave.place"] == "pi-1"
        assert collector.resource["service.instance.id"] == "gateway", "its owner tells, alone"
        gateway.until("told", lambda status: status["telemetry"]["spans"]["exported"] == 3)
        assert 'edgeweave_spans_total{outcome="exported"} 3' in bed.cli(gateway, "metrics").out
        story = bed.cli(gateway, "why", task, "--json").value["entries"]
        (accepted,) = [each for each in story if each["what"] == "accepted"]
        assert accepted["details"]["traceparent"] == PARENT

        gateway.ask(
            lambda mesh: mesh.run("traced.context", traceparent=PARENT[:-2] + "00", tracestate="rojo=1")
        )
        assert bed.cli(gateway, "run", "traced.context", "--json").value == [None, None]
        wrong = bed.cli(gateway, "run", "traced.context", "--traceparent", PARENT.upper())
        assert wrong.code != 0 and "is no traceparent" in wrong.line
        assert gateway.ask(lambda mesh: mesh.status())["telemetry"]["spans"]["exported"] == 3, "not sampled"
        node.term()

        bed.environment["EDGEWEAVE_TELEMETRY_OTLP_ENDPOINT"] = "collector:4318"
        refused = node.launch().ended()
        assert refused.code != 0 and "[telemetry] otlp_endpoint" in refused.out
