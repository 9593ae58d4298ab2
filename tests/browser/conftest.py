"""One browser and one mesh for all that only look; who breaks something makes a mesh of their own."""

from __future__ import annotations

import pytest

from tests.support.browser import Console, browsing


@pytest.fixture(scope="session")
def browser():
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="session")
def shared_console(browser, tmp_path_factory):
    with Console(tmp_path_factory.mktemp("console"), browser) as console:
        bed, gateway = console.bed, console.gateway
        assert bed.cli(gateway, "deploy", str(bed.toys)).code == 0
        for name in ("pi-1", "pi-2"):
            bed.join(name).start().connected().knows("toys.add")
        yield console


@pytest.fixture
def console(shared_console):
    shared_console.faults.clear()
    yield shared_console
    for context in list(shared_console.browser.contexts):
        context.close()
    shared_console.check()


@pytest.fixture
def own_console(browser, tmp_path):
    with Console(tmp_path, browser) as console:
        yield console
        console.check()
