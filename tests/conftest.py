"""What every suite shares: strict skips, time against a budget, fuzzing effort, the daemons' last words.

`EDGEWEAVE_STRICT=1` turns a skip whose reason is not in ``LISTED`` into a failure, so that a suite cannot
quietly lose its legs. `EDGEWEAVE_FUZZ=n` multiplies the inputs of the fuzz tests.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

BUDGET_S = {
    "unit": 130,
    "property": 70,
    "contract": 20,
    "integration": 960,
    "simulation": 200,
    "packaging": 40,
    "browser": 400,
    "faults": 120,
}
"""A machine with two cores that others use too; told in the summary, never asserted on."""
SLOW_S = 1.0
"""Tests over 0.25 s are marked slow; named here are those that stay far over it on a busy machine too."""

ROOT_WITH_APT = os.geteuid() == 0 and shutil.which("apt-get") is not None
LISTED = [
    r"needs root \(network namespaces\)$",
    r"needs root \(another user\)$",
    r"needs root \(a disk of its own\)$",
    r"this machine allows no network namespaces: ",
    r"multicast does not work on lo here",
]
if not ROOT_WITH_APT:  # who cannot install it may go without; `make test` installs it otherwise
    programs = "mosquitto|ip|nft|tcpdump|tmux|libfaketime|chromium|promtool|prometheus"
    LISTED.append(rf"({programs}) is not installed$")
STRICT = os.environ.get("EDGEWEAVE_STRICT") == "1"

settings.register_profile(
    "busy machine", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machine")


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    told = report.longrepr
    text = str(told[2]) if isinstance(told, tuple) else str(told)
    return text.removeprefix("Skipped: ")


def listed(reason: str) -> bool:
    return any(re.match(pattern, reason) for pattern in LISTED)


class Tally:
    """Seconds by suite, skips by reason, tests that lack their slow mark."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        self.skips: Counter[str] = Counter()
        self.unmarked: dict[str, float] = {}

    def take(self, report: pytest.TestReport) -> None:
        suite = suite_of(report.nodeid)
        self.seconds[suite] += report.duration
        self.tests[suite] += report.when == "call"
        if report.when == "call" and report.duration > SLOW_S and "slow" not in report.keywords:
            self.unmarked[report.nodeid] = report.duration

    def lines(self) -> list[str]:
        lines = []
        for suite, seconds in sorted(self.seconds.items(), key=lambda each: each[0]):
            budget = BUDGET_S.get(suite)
            against = "" if budget is None else f" of {budget} s{', OVER BUDGET' if seconds > budget else ''}"
            lines.append(f"{suite}: {self.tests[suite]} tests took {seconds:.1f} s{against}")
        for nodeid, seconds in sorted(self.unmarked.items()):
            lines.append(f"not marked slow, but took {seconds:.1f} s: {nodeid}")
        lines += [f"skipped {count}: {reason}" for reason, count in sorted(self.skips.items())]
        return lines or ["nothing ran"]


def suite_of(nodeid: str) -> str:
    parts = nodeid.split("::")[0].split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else "other"


TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    tally = item.config.stash[TALLY]
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = reason_of(report)
        tally.skips[reason] += 1
        if STRICT and not listed(reason):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped, but every skip counts here: {reason}"
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            story = getattr(value, "story", None)
            if callable(story):
                report.sections.append((f"{type(value).__name__} at the end of {report.when}", story()))
    tally.take(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    if report.skipped:
        reason = reason_of(report)
        collector.config.stash[TALLY].skips[reason] += 1
        if STRICT and not listed(reason):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: skipped, but every skip counts here: {reason}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """After everything else, so that these are the last lines of `make test`."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.collectonly:
        return
    for line in config.stash[TALLY].lines():
        reporter.write_line(line)


@pytest.fixture(scope="session")
def fuzz_effort() -> int:
    """How many times the usual number of inputs a fuzz test takes."""
    return max(1, int(os.environ.get("EDGEWEAVE_FUZZ", "1")))
