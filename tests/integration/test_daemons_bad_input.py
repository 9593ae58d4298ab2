"""Bad input to real daemons gets one line with cause and fix, the right exit code, and nothing is lost.

One broker is enough here: none of this reaches it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time

import pytest

from security.authority import Authority
from security.enrolment import JoinCode
from security.identity import NodeKeys
from security.signing import EntryDraft, sign_entry
from tests.support.daemons import Bed, until

ONE = "from edge_node.functions import function\n@function()\ndef f() -> int:\n    return 1\n"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("bad")) as bed:
        bed.pair("--label", "site=a")
        yield bed


@pytest.fixture
def gateway(bed):
    return bed.daemons["gateway"]


@pytest.fixture
def node(bed):
    return bed.daemons["pi-1"]


@pytest.fixture
def newcomer(bed, request):
    """A home that has not joined."""
    return bed.node("new-" + str(abs(hash(request.node.nodeid)) % 10**8))


def invite(bed, *options):
    return bed.cli(bed.daemons["gateway"], "invite", *options).text


def join(bed, newcomer, code, *options):
    return bed.cli(newcomer, "join", code, "--mdns", "none", *options)


# ── joining ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("bend", "word"),
    [
        (lambda code: code[:-3], "truncated|incomplete|cut|damaged|mistyped|check"),
        (lambda code: code[:9] + ("a" if code[9] != "a" else "b") + code[10:], "damaged|mistyped|check"),
        (lambda code: "hello", "join code"),
        (lambda code: code.replace("ew1", "ew9", 1), "ew9|version|join code|check"),
    ],
    ids=["truncated", "mistyped", "no code", "another version"],
)
def test_a_code_that_is_none_is_named_before_anything_is_asked(bed, newcomer, bend, word):
    told = join(bed, newcomer, bend(invite(bed)))

    assert told.code == 2
    assert any(each in told.line for each in word.split("|")), told.line
    assert not (newcomer.home.keys / "identity.pem").exists()


def test_a_code_works_once(bed, newcomer):
    code = invite(bed)
    first = join(bed, newcomer, code, "--name", "once")
    second = join(bed, bed.node("twice"), code, "--name", "twice")

    assert first.code == 0, first
    assert second.code == 4 and "used" in second.line


def test_a_code_expires(bed, newcomer):
    code = invite(bed, "--ttl", "1s")
    made_s = int(time.time())

    until("its second is over", lambda: int(time.time()) > made_s + 1)  # the desk counts whole seconds
    told = join(bed, newcomer, code)
    assert told.code == 4 and "expired" in told.line


def test_a_code_that_was_withdrawn_is_refused_and_its_holder_told_why(bed, gateway, newcomer):
    code = invite(bed, "--name", "pi-7", "--role", "store")
    (row,) = (each for each in bed.cli(gateway, "invites", "--json").value if each["name"] == "pi-7")
    assert row["id"] in code
    assert bed.cli(gateway, "withdraw", row["id"]).text.startswith(f"{row['id']} is withdrawn")

    told = join(bed, newcomer, code)
    assert told.code == 4 and told.out == ""
    assert "join code is void: an operator withdrew it: ask for a new one: edge-gateway invite" in told.line
    assert not (newcomer.home.keys / "identity.pem").exists()
    again = bed.cli(gateway, "withdraw", row["id"])
    assert again.code == 2 and "an operator withdrew it" in again.line
    last = bed.cli(gateway, "audit", "--json").value[-1]
    assert (last["what"], last["target"], last["before"], last["after"]) == (
        "node.withdraw", row["id"], row, None
    )  # fmt: skip
    log = (gateway.home.path / "audit.log").read_text()
    assert code not in log and code.split(".")[3] not in log


def test_a_code_that_was_used_is_not_withdrawn(bed, gateway, newcomer):
    code = invite(bed)
    assert join(bed, newcomer, code, "--name", "quick").code == 0

    told = bed.cli(gateway, "withdraw", JoinCode.parse(code).token_id)
    assert told.code == 2 and "was used by quick" in told.line and "edge-gateway revoke quick" in told.line


def test_a_gateway_that_is_down_is_told_apart_from_a_wrong_code(bed, newcomer):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        code = dataclasses.replace(JoinCode.parse(invite(bed)), addresses=(address,)).text()
        told = join(bed, newcomer, code)

    assert told.code == 3 and address in told.line


def test_a_gateway_that_does_not_match_the_pin_is_not_believed(bed, newcomer):
    other = Authority.create(now_s=int(time.time()), entropy=os.urandom)
    code = JoinCode.parse(invite(bed))
    told = join(bed, newcomer, dataclasses.replace(code, root_spki_sha256=other.root_spki_sha256).text())

    assert told.code in (3, 4) and told.line
    assert not (newcomer.home.keys / "identity.pem").exists()


def test_a_secret_that_is_wrong_is_refused(bed, newcomer):
    code = JoinCode.parse(invite(bed))
    told = join(bed, newcomer, dataclasses.replace(code, secret=bytes(16)).text())

    assert told.code == 4 and told.line


def test_a_name_that_is_taken_is_refused(bed, newcomer):
    told = join(bed, newcomer, invite(bed), "--name", "pi-1")

    assert told.code == 4 and "pi-1" in told.line


@pytest.mark.parametrize("name", ["gateway", "broker", "Not A Name"])
def test_a_name_that_cannot_be_is_bad_input(bed, newcomer, name):
    told = join(bed, newcomer, invite(bed), "--name", name)

    assert told.code == 2 and told.line


def test_a_home_joins_once(bed, node):
    told = join(bed, node, invite(bed))

    assert told.code in (2, 3) and told.line


def test_a_pending_node_waits_for_its_six_words(bed, gateway, newcomer):
    """The operator compares what the node shows with what the gateway lists."""
    import subprocess

    from tests.support.daemons import BIN

    code = invite(bed, "--approval", "pending")
    command = [BIN / "edge-node", "join", code, "--name", "waiting", "--mdns", "none"]
    joining = subprocess.Popen(
        [*command, "--home", str(newcomer.home.path)],
        env=bed.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        rows = gateway.until(
            "it is listed", lambda rows: any(r["status"] == "pending" for r in rows), method="nodes"
        )
        (row,) = [r for r in rows if r["status"] == "pending"]
        approved = bed.cli(gateway, "approve", "waiting")
        out, err = joining.communicate(timeout=60)
    finally:
        joining.kill()
        joining.wait()

    assert approved.text == "waiting is a member now"
    assert joining.returncode == 0 and "joined mesh" in out
    words = row["fingerprint"] if isinstance(row["fingerprint"], str) else " ".join(row["fingerprint"])
    assert words in err and len(words.replace("-", " ").split()) == 6
    assert bed.cli(gateway, "approve", "nobody").code == 2


# ── homes, ports, keys, settings ──────────────────────────────────────────────────────────────────────


def test_two_daemons_in_one_home_are_one_too_many(bed, gateway, node):
    for daemon in (gateway, node):
        told = bed.cli(daemon, "up")
        assert told.code == 3 and "already runs" in told.line
        assert daemon.running


@pytest.mark.parametrize("what", ["--port", "--broker-port"])
def test_a_port_in_use_is_named(tmp_path, what):
    with Bed(tmp_path) as bed, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ports = {"--port": "0", "--broker-port": "0"} | {what: port}
        options = [word for pair in ports.items() for word in pair]
        gateway = bed.gateway(
            "--listen", "127.0.0.1", "--mdns", "none", "--broker", "embedded", *options
        ).launch()
        told = gateway.ended()

        assert told.code == 3
        error = json.loads(told.out)["error"]
        assert error["code"] == "unavailable" and port in error["message"] and error["fix"]
        until("nobody is left", lambda: not bed.left())


def test_a_home_that_has_not_joined_says_what_to_do(bed, newcomer):
    up, run = bed.cli(newcomer, "up"), bed.cli(newcomer, "run", "toys.add")

    assert up.code == 2 and "edge-node join" in up.line
    assert run.code == 3 and "edge-node up" in run.line


@pytest.mark.parametrize("loosen", ["identity.pem", "."])
def test_keys_that_others_may_read_stop_the_daemon(bed, loosen):
    node = bed.join("loose" if loosen == "." else "loose-file")
    path = node.home.keys / loosen
    path.chmod(path.stat().st_mode | 0o040)
    told = bed.cli(node, "up")

    assert told.code == 2 and str(node.home.keys) in told.line and "chmod" in told.line


def test_a_key_file_that_is_damaged_is_named(bed):
    node = bed.join("damaged")
    (node.home.keys / "identity.pem").write_text("-----BEGIN NOTHING-----\n")
    told = bed.cli(node, "up")

    assert told.code in (2, 3) and "identity.pem" in told.line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tasks\n", ["settings.toml", "line 1"]),
        ("[tasks]\noutbox_tasks_max = 'many'\n", ["settings.toml:2", "outbox_tasks_max", "a whole number"]),
        ("[tasks]\noutbox_task_max = 3\n", ["settings.toml:2", "did you mean outbox_tasks_max?"]),
        ("[discovery]\nmdns = 4\n", ["settings.toml:2", "mdns", "a text"]),
    ],
)
def test_settings_that_are_wrong_name_file_key_and_type(bed, text, words):
    node = bed.daemons.get("settings") or bed.join("settings")
    node.home.settings.write_text(text)
    told = bed.cli(node, "up")

    assert told.code == 2
    for word in words:
        assert word in told.line


# ── work ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["toys.ad"], 2, "did you mean 'toys.add'"),
        (["nothing.like_it"], 2, "nothing.like_it"),
        (["toys.add", "--arg", 'a="text"'], 2, "int"),
        (["toys.add"], 2, "a"),
        (["toys.add", "--arg", "a=1", "--arg", "c=1"], 2, "c"),
        (["toys.add", "--arg", "a=1", "--where", "pi-77"], 4, "no such node"),
        (["toys.add", "--arg", "a=1", "--deadline", "soon"], 2, "soon"),
        (["toys.py:nope"], 2, "toys.py:"),
        (["absent.py:add"], 2, "absent.py"),
        (["toys.add", "--input", "absent.csv"], 2, "absent.csv"),
        (["toys.only_at_b"], 4, "labels"),
        (["toys.add", "--nonsense"], 2, "--nonsense"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_work_that_cannot_be_is_refused_at_the_door(bed, gateway, words, code, said):
    plain = bed.cli(gateway, "run", *words)
    as_json = bed.cli(gateway, "run", *words, "--json")

    assert plain.code == as_json.code == code, plain
    assert said in plain.line
    error = json.loads(as_json.out)["error"]
    assert set(error) >= {"code", "message", "fix"} and as_json.err == ""
    assert error["code"] == {2: "bad_input", 4: "refused"}[code]


def test_an_input_that_is_too_large_is_refused(bed, gateway, tmp_path):
    (tmp_path / "large.json").write_text(json.dumps("x" * 9_000_000))
    told = bed.cli(gateway, "run", "toys.size", "--input", str(tmp_path / "large.json"))

    assert told.code == 2 and "MB" in told.line


@pytest.mark.parametrize("text", ["[1, 2", "[" * 100_000, "a,b\n1\n"], ids=["json", "nested", "csv"])
def test_an_input_that_is_damaged_is_named(bed, gateway, tmp_path, text):
    path = tmp_path / ("bad.csv" if text.startswith("a,b") else "bad.json")
    path.write_text(text)
    told = bed.cli(gateway, "run", "toys.size", "--input", str(path))

    assert told.code == 2 and path.name in told.line


@pytest.mark.parametrize("where", ["local", "pi-1"])
@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        ("toys.fail", "raised", "ValueError: on purpose"),
        ("toys.forever", "timeout", "0.5 s"),
        ("toys.eat", "memory", "limit 67.1 MB"),
        ("toys.quit", "quarantined", "took 3 workers down"),
    ],
)
def test_a_function_that_goes_wrong_costs_only_its_task(bed, gateway, function, kind, said, where):
    told = bed.cli(gateway, "run", function, "--where", where, "--json")

    error = json.loads(told.out)["error"]
    assert (told.code, error["code"], error["kind"]) == (1, "task_failed", kind)
    assert said in error["message"]
    assert bed.cli(gateway, "run", "toys.add", "--arg", "a=1", "--where", where).value == 2


def test_a_traceback_reaches_the_caller(bed, node):
    told = bed.cli(node, "run", "toys.fail", "--where", "gateway")

    assert (told.code, told.out) == (1, "")
    assert "raise ValueError(word)" in told.err
    assert told.err.splitlines()[-1].startswith("edge-node: ")


def test_megabytes_of_prints_are_cut_and_the_result_is_whole(bed, gateway):
    task = bed.cli(gateway, "submit", "toys.chatter", "--arg", "megabytes=20", "--where", "pi-1").text
    outcome = gateway.ask(lambda mesh: mesh.outcome_of(task))

    assert bed.cli(gateway, "result", task).value == 20
    assert 0 < len(outcome.log) <= 64 * 1024 + 200


def test_an_output_that_is_too_large_fails_its_task(bed, gateway):
    told = bed.cli(gateway, "run", "toys.huge", "--arg", "count=9000000", "--where", "pi-1", "--json")

    error = json.loads(told.out)["error"]
    assert (told.code, error["kind"]) == (1, "output")


def test_a_deadline_that_passes_is_told(bed, gateway):
    told = bed.cli(gateway, "run", "toys.nap", "--arg", "seconds=20", "--deadline", "0.3", "--json")

    assert (told.code, json.loads(told.out)["error"]["code"]) == (1, "deadline_exceeded")


@pytest.mark.parametrize("task", ["nonsense", "0" * 23])
def test_a_task_nobody_knows_is_said_so(bed, gateway, task):
    told = bed.cli(gateway, "result", task)

    assert told.code in (2, 3) and task in told.line


# ── code ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_node_without_the_role_may_not_deploy(bed, node, tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(ONE)
    told = bed.cli(node, "run", f"{source}:f")

    assert told.code == 4 and "does not have the role deployer" in told.line


def test_a_node_with_the_role_publishes_for_everybody(bed, gateway, tmp_path):
    deployer = bed.join("deployer", invite=["--role", "deployer"]).start().connected()
    source = tmp_path / "ours.py"
    source.write_text(ONE.replace("1", "9"))
    told = bed.cli(deployer, "run", f"{source}:f", "--where", "gateway")

    assert told.value == 9
    assert bed.cli(gateway, "run", "ours.f", "--where", "pi-1").value == 9
    assert deployer.term().code == 0


@pytest.mark.parametrize(
    "source", ["def f(:\n", "x = 1\n", "\x00", ""], ids=["syntax", "none", "nul", "empty"]
)
def test_a_file_that_offers_nothing_is_named(bed, gateway, tmp_path, source):
    (tmp_path / "odd.py").write_text(source)
    told = bed.cli(gateway, "deploy", str(tmp_path / "odd.py"))

    assert told.code == 2 and "odd.py" in told.line


def change_bundle(daemon, function):
    (digest,) = {
        row["digest"] for row in daemon.ask(lambda mesh: mesh.call("functions")) if row["name"] == function
    }
    kept = daemon.home.bundles / digest
    kept.write_bytes(kept.read_bytes().replace(b"return a + b", b"return a - b"))


def test_a_bundle_that_was_changed_while_the_daemon_was_away_is_fetched_anew(bed, gateway, node):
    """What the signed digest names runs, nothing else."""
    assert bed.cli(gateway, "run", "toys.add", "--arg", "a=1", "--where", "pi-1").value == 2
    change_bundle(node, "toys.add")
    assert node.term().code == 0
    node.start().connected()
    gateway.until("pi-1 is up", lambda s: "pi-1" in s["peers_up"])

    assert bed.cli(gateway, "run", "toys.add", "--arg", "a=5", "--where", "pi-1").value == 6


def test_a_bundle_that_was_changed_under_a_daemon_is_refused_then_deployed_again(
    bed, gateway, node, tmp_path
):
    source = tmp_path / "sums.py"
    source.write_text(ONE.replace("return 1", "a, b = 2, 3; return a + b"))
    assert bed.cli(gateway, "deploy", str(source)).code == 0
    # Else its fetch ahead of need may be the first to read the changed file, and has it set aside.
    node.until(
        "has sums.f", lambda rows: {"sums.f"} <= {r["name"] for r in rows if r["here"]}, method="functions"
    )
    change_bundle(gateway, "sums.f")
    refused = bed.cli(gateway, "run", "sums.f", "--where", "local")

    assert refused.code == 1 and "changed on disk" in refused.line
    assert bed.cli(gateway, "run", f"{source}:f", "--where", "local").value == 5


def test_entries_that_no_deployer_signed_are_left_out_at_start(bed, node):
    """They lie in the node's own documents: whoever can write there still cannot make code run."""
    from edge_node.functions.bundle import Bundle
    from edge_node.store.documents import Documents

    mesh = node.ready["mesh"]
    bundle = Bundle.of_source("evil.py", bed.toys.read_bytes())
    manifest = bundle.manifests()[0].to_bytes()
    stranger = NodeKeys.generate()
    signed = sign_entry(EntryDraft(mesh, "evil.add", 1, bundle.digest, manifest, 1), stranger.signing)
    bent = bytearray(signed)
    bent[-1] ^= 1
    assert node.term().code == 0
    with Documents(node.home.documents) as documents:
        table = documents.table("catalogue", key="id")
        table.upsert({"id": "evil.add@1", "version": 1, "entry": signed.hex()})
        table.upsert({"id": "evil.add@2", "version": 2, "entry": bytes(bent).hex()})
    node.start().connected().knows("toys.add")

    assert "evil.add" not in node.ask(lambda mesh: mesh.call("functions")).__repr__()
    assert bed.cli(node, "run", "evil.add", "--arg", "a=1").code == 2
    assert (node.home.logs / "daemon.log").read_text().count("a kept catalogue entry was left out") >= 2
