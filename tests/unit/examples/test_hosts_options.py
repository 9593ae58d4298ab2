"""What `make mesh-hosts` takes, and what it tells of a mistake before anything is started."""

from __future__ import annotations

import pytest

from examples.hosts.__main__ import options_of
from examples.hosts.network import HOSTS_MAX, Network
from security.errors import BadInput


def test_the_options_of_the_documentation_are_taken():
    told = options_of(
        ["--hosts", "6", "--loss", "5", "--bandwidth", "10mbit", "--delay", "20ms", "--jitter", "5ms",
         "--partition"]
    )  # fmt: skip

    assert (told.hosts, told.loss, told.bandwidth, told.partition) == (6, 5, "10mbit", True)
    assert (told.delay, told.jitter) == (20, 5)


def test_without_options_the_weather_is_fair():
    told = options_of([])

    assert (told.hosts, told.loss, told.bandwidth, told.delay, told.partition) == (4, 0, None, 0, False)


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [
        ("--loss", "100", "0 to 99"),
        ("--loss", "-1", "0 to 99"),
        ("--bandwidth", "fish", "10mbit"),
        ("--bandwidth", "0mbit", "10mbit"),
        ("--delay", "1s", "20ms"),
        ("--jitter", "fish", "20ms"),
        ("--hosts", "9", "choose from"),
    ],
)
def test_a_mistake_is_told_with_the_right_spelling(option, value, fix, capsys):
    with pytest.raises(SystemExit) as ended:
        options_of([f"{option}={value}"])

    assert ended.value.code == 2
    assert fix in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("count", [0, HOSTS_MAX + 1])
def test_no_hosts_or_too_many_are_refused_before_anything_is_made(count):
    with pytest.raises(BadInput, match=f"{count} hosts"):
        Network([f"h{n}" for n in range(count)])
