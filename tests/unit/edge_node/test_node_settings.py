"""Settings: where each value comes from, and one clear line for every mistake."""

from __future__ import annotations

import tomllib

import pytest

from edge_node.settings import NodeSettings, load, parse, template
from gateway.settings import GatewaySettings
from security.errors import BadInput


def fault(text="", environ=None, options=None, kind=NodeSettings):
    with pytest.raises(BadInput) as caught:
        parse(kind, text, name="s.toml", environ=environ or {}, options=options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_said_means_the_defaults():
    assert parse(NodeSettings, "") == NodeSettings()


def test_options_win_over_environment_over_file_over_default():
    text = "[link]\nkeepalive_s = 20\ninbox_messages_max = 64\n[log]\nlevel = 'error'\n"
    environ = {"EDGEWEAVE_LINK_KEEPALIVE_S": "30", "EDGEWEAVE_LOG_LEVEL": "warning"}

    settings = parse(
        NodeSettings, text, environ=environ, options={"log.level": "debug", "discovery.mdns": None}
    )

    assert (settings.link.inbox_messages_max, settings.link.keepalive_s, settings.log.level) == (
        64,
        30,
        "debug",
    )
    assert settings.discovery.mdns == "auto"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[link]\nkeepalive_s = 'x'",
            "s.toml:2: [link] keepalive_s is the text 'x': expected a whole number, 1 to 3,600",
        ),
        (
            "\n[link]\n\nkeepalive_s = 0",
            "s.toml:4: [link] keepalive_s is 0: expected a whole number, 1 to 3,600",
        ),
        (
            "[tasks]\nttl_s = 0.0",
            "s.toml:2: [tasks] ttl_s is 0.0: expected a number, more than 0 to 2,592,000",
        ),
        ("[log]\nlevel = 3", 'expected one of "debug", "error", "info", "warning"'),
        ("[link]\nseeds = 'a:1'", "s.toml:2: [link] seeds is the text 'a:1': expected a list of texts"),
        ("[board]\nslowdown = true", "s.toml:2: [board] slowdown is true: expected a number, 1 to 1,000"),
        ("log.level = 'loud'", "s.toml:1: [log] level is the text 'loud'"),
        ("[log]\nlevl = 'info'", "s.toml:2: unknown key [log] levl: did you mean level?"),
        ("x = 1\n[lnk]\n", "s.toml:1: unknown section 'x'"),
        ("[lnk]\na = 1", "s.toml:1: unknown section [lnk]: did you mean link?"),
        ("link = 3", "s.toml:1: 'link' is a section, not a value"),
        ("[link", "s.toml is not TOML: "),
        (
            "[link]\nkeepalive_s = 1\nkeepalive_s = 2\n",
            "s.toml is not TOML: Cannot overwrite a value (at line 3",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_says_where(text, told):
    assert told in fault(text)


def test_a_mistake_in_the_environment_names_the_variable():
    told = fault(environ={"EDGEWEAVE_WORKER_COUNT": "two"})
    assert told.startswith("environment variable EDGEWEAVE_WORKER_COUNT is the text 'two': expected a whole")
    told = fault(environ={"EDGEWEAVE_LOG_LEVL": "info"})
    assert (
        told == "environment variable EDGEWEAVE_LOG_LEVL names no setting: did you mean EDGEWEAVE_LOG_LEVEL?"
    )


def test_variables_that_are_no_settings_are_left_alone():
    environ = {"EDGEWEAVE_HOME": "/x", "EDGEWEAVE_STRICT": "1", "EDGEWEAVE_BROKER_PORT": "1"}

    assert parse(NodeSettings, "", environ=environ) == NodeSettings()


def test_a_list_in_the_environment_is_separated_by_commas():
    settings = parse(NodeSettings, "", environ={"EDGEWEAVE_LINK_SEEDS": "a:1, [::1]:2"})

    assert settings.link.seeds == ["a:1", "[::1]:2"]


def test_a_mistake_in_an_option_names_the_option():
    told = fault(options={"log.level": "loud"})
    assert told.startswith("option --level is the text 'loud': expected one of")
    with pytest.raises(BadInput, match="option --broker is the text 'mosquito'"):
        parse(GatewaySettings, "", options={"broker.kind": "mosquito"}, flags={"broker.kind": "--broker"})


def test_the_gateway_has_the_nodes_sections_and_its_own():
    settings = parse(GatewaySettings, "[broker]\nport = 0\n[link]\nseeds = ['g:1']\n", environ={})

    assert (settings.broker.port, settings.joining.port, settings.link.seeds) == (0, 8443, ["g:1"])


@pytest.mark.parametrize("kind", [NodeSettings, GatewaySettings])
def test_the_template_documents_every_key_and_says_the_defaults(kind):
    """Uncommented, it gives the defaults: the document cannot drift from the code."""
    text = template(kind)
    values = "\n".join(
        line.removeprefix("# ")
        if " = " in line and line[2:3].islower() and " " not in line[2:].split(" = ")[0]
        else line
        for line in text.splitlines()
    )

    assert parse(kind, values, environ={}) == kind()
    tree = tomllib.loads(values)
    assert all(f"# {key} = " in text for table in tree.values() for key in table)
    assert sum(len(table) for table in tree.values()) == sum(
        len(type(getattr(kind(), name)).__struct_fields__) for name in kind.__struct_fields__
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert load(NodeSettings, tmp_path / "none.toml", environ={}) == NodeSettings()
    with pytest.raises(BadInput, match="cannot read"):
        load(NodeSettings, tmp_path, environ={})
    (tmp_path / "s.toml").write_bytes(b"[log]\nlevel='\xff'")
    with pytest.raises(BadInput, match=r"s.toml:2: not UTF-8"):
        load(NodeSettings, tmp_path / "s.toml", environ={})
