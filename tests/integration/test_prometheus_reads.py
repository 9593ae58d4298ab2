"""A real Prometheus, told by the example in `deploy/`, reads a real gateway and a real node."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import promql
from tests.support.daemons import Bed
from tests.support.prometheus import Prometheus, program

pytestmark = pytest.mark.slow


class Handler(SimpleHTTPRequestHandler):
    """Hands on a file as node_exporter would: a stand-in, which is no part of what is tested."""

    def guess_type(self, path: Any) -> str:
        return "text/plain; version=0.0.4"

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def handed_on(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_prometheus_reads_a_mesh_by_the_example_and_every_expression_of_ours_is_evaluated(tmp_path):
    program("prometheus")
    (tmp_path / "p").mkdir()
    (tmp_path / "node").mkdir()
    with Bed(tmp_path) as bed, handed_on(tmp_path / "node") as exporter:
        gateway, node = bed.pair()
        for number in range(3):
            assert gateway.ask(lambda mesh, n=number: mesh.run("toys.add", n, where="pi-1")) == number + 1
        made = bed.cli(
            gateway, "tokens", "add", "prometheus", "--role", "viewer", "--scope", "metrics:read", "--json"
        ).value
        (tmp_path / "token").write_text(made["secret"])
        assert bed.cli(node, "metrics", "--to", str(tmp_path / "node" / "metrics")).code == 0

        config = yaml.safe_load(promql.EXAMPLE.read_text())
        of_gateway, of_nodes = config["scrape_configs"]
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(promql.ALERTS)]
        of_gateway["authorization"]["credentials_file"] = str(tmp_path / "token")
        tls, mesh = of_gateway["tls_config"], bed.cli(gateway, "roster", "--json").value["mesh"]
        tls["ca_file"] = str(gateway.home.path / "keys" / "root.pem")
        tls["server_name"] = tls["server_name"].replace("MESH", mesh)
        of_gateway["static_configs"] = [{"targets": [gateway.ready["joining"]]}]
        of_nodes["static_configs"] = [{"targets": [exporter]}]
        with Prometheus(tmp_path / "p", config) as prometheus:

            def all_up() -> bool:
                targets = prometheus.get("targets")["activeTargets"]
                return len(targets) == 2 and all(each["health"] == "up" for each in targets)

            prometheus.until("both are read", all_up)

            def done() -> float:
                (one,) = prometheus.query('edgeweave_tasks_settled_total{job="edgeweave",status="done"}')
                return float(one["value"][1])

            assert done() == 3
            assert gateway.ask(lambda mesh: mesh.run("toys.add", 1)) == 2
            prometheus.until("the next task is counted", lambda: done() == 4)
            (up,) = prometheus.query('edgeweave_node_up{node="pi-1"}')
            assert up["value"][1] == "1" and up["metric"]["job"] == "edgeweave"
            assert prometheus.query('edgeweave_up{job="edgeweave-nodes"}')[0]["value"][1] == "1"
            ours = prometheus.get("label/__name__/values")
            assert not [name for name in ours if name.startswith("python_")]

            for where, expression in promql.files_of_deploy():
                for name, value in promql.VARIABLES.items():
                    expression = expression.replace(name, value)
                assert isinstance(prometheus.query(expression), list), where

            def judged() -> bool:
                groups = prometheus.get("rules")["groups"]
                rules = [rule for group in groups for rule in group["rules"]]
                assert len(rules) == len(promql.rules())
                assert not [rule for rule in rules if rule["health"] == "err"], rules
                return all(rule["health"] == "ok" for rule in rules)

            prometheus.until("every rule is judged", judged)
            assert [each["labels"]["alertname"] for each in prometheus.get("alerts")["alerts"]
                    if each["state"] == "firing"] == []  # fmt: skip

            unread = bed.cli(gateway, "tokens", "revoke", made["id"])
            assert unread.code == 0

            def refused() -> bool:
                (target,) = [
                    each for each in prometheus.get("targets")["activeTargets"]
                    if each["labels"]["job"] == "edgeweave"
                ]  # fmt: skip
                return target["health"] == "down" and "401" in target["lastError"]

            prometheus.until("a revoked token is seen", refused)
