"""The gateway's desk: a token is spent once, on disk, before anything is issued."""

import os
from dataclasses import dataclass, field

import pytest

from security.authority import Authority
from security.canonical import decode, encode
from security.certificates import read_pem
from security.enrolment import (
    REQUEST_BYTES_MAX,
    Asked,
    Issue,
    Issued,
    JoinCode,
    JoinDesk,
    Joined,
    JoinLimits,
    NotIssued,
    NotPersisted,
    Persisted,
    PersistInvitations,
    Reply,
    Waiting,
    _mac,
    accepted,
    build_request,
    read_answer,
)
from security.errors import BadInput, ProtocolViolation, Refused, Unavailable
from security.identity import NodeKeys, fingerprint_words, spki_sha256
from security.roster import Member, MemberKey, RosterDraft

NOW_S = 1_795_000_000
LEAF_HASH = b"L" * 32
BROKERS = ("127.0.0.1:8883",)


@pytest.fixture(scope="module")
def mesh():
    return Authority.create(now_s=NOW_S, entropy=os.urandom)


@pytest.fixture(scope="module")
def keys():
    return NodeKeys.generate()


@dataclass
class Gateway:
    """A shell in ten lines: persists when told, issues, and notes the order of what happened."""

    mesh: Authority
    limits: JoinLimits = field(default_factory=JoinLimits)
    now_s: int = NOW_S
    disk: bytes = b""
    story: list = field(default_factory=list)
    replies: dict = field(default_factory=dict)
    members: dict = field(default_factory=dict)
    held: list = field(default_factory=list)  # effects not carried out yet, when ``slow``
    slow: bool = False

    def __post_init__(self):
        self.desk = self._new_desk()

    def _new_desk(self):
        return JoinDesk(
            root_spki_sha256=self.mesh.root_spki_sha256,
            taken=lambda name: name in self.members,
            limits=self.limits,
        )

    def restart(self, *, void_open=False):
        self.desk, self.held = self._new_desk(), []
        self.do(self.desk.restore(self.disk, now_s=self.now_s, void_open=void_open))

    def invite(self, **more):
        code, effects = self.desk.invite(
            self.now_s, entropy=os.urandom(20), addresses=("127.0.0.1:8443",), **more
        )
        self.do(effects)
        return JoinCode.parse(code.text())

    def ask(self, request, address="10.0.0.9", leaf_hash=LEAF_HASH):
        reply = len(self.story) + 1
        self.story.append(("asked", reply))
        self.do(self.desk.handle(self.now_s, Asked(reply, request, leaf_hash, address)))
        return reply

    def do(self, effects):
        for effect in effects:
            self.desk.check()
            if self.slow and not isinstance(effect, Reply):
                self.held.append(effect)
            else:
                self.carry_out(effect)

    def catch_up(self):
        self.slow = False
        held, self.held = self.held, []
        self.do(held)

    def carry_out(self, effect):
        match effect:
            case PersistInvitations(token, data):
                self.disk = data
                self.story.append(("persisted", token))
                self.do(self.desk.handle(self.now_s, Persisted(token)))
            case Issue(token_id, node_id, key, x25519, roles, labels, replaces):
                if replaces:
                    roles, labels = self.members[node_id].roles, self.members[node_id].labels
                self.story.append(("issued", node_id))
                leaf = self.mesh.issue(key, node_id, roles=roles, now_s=self.now_s)
                member_key = MemberKey(spki_sha256(key), x25519, self.now_s - 3600)
                self.members[node_id] = Member(node_id, (member_key,), roles, labels)
                version = len(self.story)
                roster = self.mesh.sign_roster(
                    RosterDraft(version, bytes(32), self.now_s, BROKERS, (), tuple(self.members.values()))
                )
                answer = accepted(leaf, self.mesh.chain_pem, roster, wall_s=self.now_s, brokers=BROKERS)
                self.do(self.desk.handle(self.now_s, Issued(token_id, answer)))
            case Reply(reply, body):
                assert reply not in self.replies, "one reply for one request"
                self.replies[reply] = body

    @property
    def issued(self):
        return [name for what, name in self.story if what == "issued"]


@pytest.fixture
def gateway(mesh):
    return Gateway(mesh)


def request_for(code, keys, name="pi-1", labels=None, leaf_hash=LEAF_HASH):
    return build_request(code, keys, name=name, labels=labels or {}, server_leaf_sha256=leaf_hash)


def read(gateway, reply, keys, name="pi-1"):
    return read_answer(
        gateway.replies[reply],
        root_spki_sha256=gateway.mesh.root_spki_sha256,
        keys=keys,
        name=name,
        floor_s=NOW_S,
    )


def test_a_code_makes_a_member(gateway, keys):
    code = gateway.invite(roles=("deployer",))
    joined = read(gateway, gateway.ask(request_for(code, keys, labels={"site": "a"})), keys)

    assert isinstance(joined, Joined)
    assert (joined.node_id, joined.mesh_id) == ("pi-1", gateway.mesh.mesh_id)
    assert joined.roster.member("pi-1").labels == {"site": "a"}
    assert joined.roster.member("pi-1").roles == ("deployer",)
    assert (joined.wall_s, joined.brokers) == (NOW_S, BROKERS)
    assert joined.floor_s == NOW_S
    assert read_pem(joined.root_pem)[0] == gateway.mesh.root


def test_the_token_is_spent_on_disk_before_a_certificate_is_issued(gateway, keys):
    code = gateway.invite()
    gateway.slow = True
    reply = gateway.ask(request_for(code, keys))

    assert [type(effect) for effect in gateway.held] == [PersistInvitations]
    assert (reply in gateway.replies, gateway.issued) == (False, [])

    gateway.catch_up()
    assert gateway.issued == ["pi-1"]
    assert isinstance(read(gateway, reply, keys), Joined)


def test_the_secret_never_travels_nor_lies_on_the_gateways_disk(gateway, keys):
    code = gateway.invite()
    request = request_for(code, keys)
    gateway.ask(request)

    for seen in (request, gateway.disk, *gateway.replies.values()):
        assert code.secret not in seen
    assert code.mac_key not in request


@pytest.mark.parametrize("slow", [False, True])
def test_a_code_raced_by_fifty_nodes_makes_exactly_one_member(gateway, slow):
    code = gateway.invite()
    gateway.slow = slow
    racers = {
        gateway.ask(request_for(code, keys, name=""), address=f"10.0.0.{i}"): keys
        for i, keys in enumerate(NodeKeys.generate() for _ in range(50))
    }
    gateway.catch_up()
    won, lost = [], []
    for reply, keys in racers.items():
        try:
            won.append(read(gateway, reply, keys, name=""))
        except (Refused, Unavailable) as error:
            lost.append(error.cause)

    assert len(gateway.issued) == len(won) == 1
    assert len(lost) == 49
    assert set(lost) <= {"join code was used already", "too many joining requests"}


def test_the_same_claim_gets_the_same_answer(gateway, keys):
    """A CSR built anew has another signature; the claim is still the same."""
    code = gateway.invite()
    one, other = request_for(code, keys), request_for(code, keys)
    first, second = gateway.ask(one), gateway.ask(other)

    assert one != other
    assert gateway.replies[first] == gateway.replies[second]
    assert gateway.issued == ["pi-1"]


def test_two_connections_of_one_claim_are_both_answered(gateway, keys):
    code = gateway.invite()
    gateway.slow = True
    replies = [gateway.ask(request_for(code, keys)) for _ in range(3)]
    gateway.catch_up()

    assert len({gateway.replies[reply] for reply in replies}) == 1
    assert gateway.issued == ["pi-1"]


def test_another_claim_with_a_used_code_is_refused(gateway, keys):
    code = gateway.invite()
    gateway.ask(request_for(code, keys))

    for other in (
        request_for(code, NodeKeys.generate()),
        request_for(code, keys, name="pi-2"),
        request_for(code, keys, labels={"site": "b"}),
        request_for(code, NodeKeys(keys.signing, NodeKeys.generate().static)),
    ):
        with pytest.raises(Refused, match="used already: ask for a new one"):
            read(gateway, gateway.ask(other, address=os.urandom(4).hex()), keys)
    assert gateway.issued == ["pi-1"]


def test_a_crash_after_spending_still_ends_in_one_member(gateway, keys):
    code = gateway.invite()
    gateway.slow = True
    gateway.ask(request_for(code, keys))
    gateway.disk = gateway.held[0].data  # written; the process dies before it issues
    gateway.slow = False
    gateway.restart()

    with pytest.raises(Refused, match="used already"):
        read(gateway, gateway.ask(request_for(code, NodeKeys.generate()), address="x"), keys)
    assert isinstance(read(gateway, gateway.ask(request_for(code, keys)), keys), Joined)
    assert gateway.issued == ["pi-1"]


def test_a_restart_keeps_codes_unless_it_must_not(gateway, keys):
    kept, voided = gateway.invite(), gateway.invite()
    gateway.restart()
    assert isinstance(read(gateway, gateway.ask(request_for(kept, keys)), keys), Joined)

    gateway.restart(void_open=True)
    with pytest.raises(Refused, match="void: the gateway was restarted"):
        read(gateway, gateway.ask(request_for(voided, NodeKeys.generate(), "pi-2")), keys)
    assert isinstance(read(gateway, gateway.ask(request_for(kept, keys)), keys), Joined)


def test_a_disk_that_refuses_issues_nothing(gateway, keys):
    code = gateway.invite()
    gateway.slow = True
    reply = gateway.ask(request_for(code, keys))
    (write,) = gateway.held
    gateway.held, gateway.slow = [], False
    gateway.do(gateway.desk.handle(NOW_S, NotPersisted(write.token)))

    with pytest.raises(Unavailable, match="cannot write to its disk"):
        read(gateway, reply, keys)
    assert gateway.issued == []
    assert isinstance(read(gateway, gateway.ask(request_for(code, keys)), keys), Joined)


def test_an_authority_that_refuses_says_why_and_may_be_asked_again(gateway, keys):
    code = gateway.invite()
    (write,) = gateway.desk.handle(NOW_S, Asked(9, request_for(code, keys), LEAF_HASH, "a"))
    (issue,) = gateway.desk.handle(NOW_S, Persisted(write.token))
    gateway.do(gateway.desk.handle(NOW_S, NotIssued(issue.token_id, "roster is full", "remove members")))

    with pytest.raises(Refused, match="roster is full: remove members"):
        read(gateway, 9, keys)
    assert isinstance(read(gateway, gateway.ask(request_for(code, keys)), keys), Joined)


def test_an_expired_code_is_named(gateway, keys):
    code = gateway.invite(ttl_s=60)
    gateway.now_s += 61 + 180

    with pytest.raises(Refused, match="expired 3 minutes ago: ask for a new one"):
        read(gateway, gateway.ask(request_for(code, keys)), keys)
    assert gateway.issued == []


def test_a_lost_answer_is_given_within_the_codes_hour_only(gateway, keys):
    code = gateway.invite()
    gateway.ask(request_for(code, keys))
    gateway.now_s += 3600
    assert isinstance(read(gateway, gateway.ask(request_for(code, keys)), keys), Joined)

    gateway.now_s += 1
    with pytest.raises(Refused, match="expired"):
        read(gateway, gateway.ask(request_for(code, keys)), keys)


def test_a_request_made_for_another_server_is_void(gateway, keys):
    """Someone in between who relays the request shows another certificate."""
    code = gateway.invite()

    with pytest.raises(Refused, match="secret does not fit"):
        read(gateway, gateway.ask(request_for(code, keys, leaf_hash=b"M" * 32)), keys)
    assert isinstance(read(gateway, gateway.ask(request_for(code, keys)), keys), Joined)


def test_the_mac_covers_everything_and_is_checked_before_the_csr_is_parsed(gateway, keys):
    code = gateway.invite()
    fields = decode(request_for(code, keys))

    for place, changed in (
        (2, b"not a CSR"),
        (3, b"x" * 32),
        (4, "pi-9"),
        (5, {"site": "z"}),
        (6, b"m" * 32),
    ):
        altered = list(fields)
        altered[place] = changed
        with pytest.raises(Refused, match="secret does not fit"):
            read(gateway, gateway.ask(encode(altered), address=f"a{place}"), keys)
    assert gateway.issued == []


def test_an_unknown_token_and_garbage_are_refused(gateway, keys):
    code = JoinCode.make(gateway.mesh.root_spki_sha256, (), os.urandom(20))

    with pytest.raises(Refused, match="not known here"):
        read(gateway, gateway.ask(request_for(code, keys)), keys)
    with pytest.raises(Refused, match="not deterministic CBOR"):
        read(gateway, gateway.ask(b"garbage"), keys)
    with pytest.raises(Refused, match="larger than 8192"):
        read(gateway, gateway.ask(bytes(REQUEST_BYTES_MAX + 1)), keys)
    with pytest.raises(Refused, match="version 'ew2', this member speaks 'ew1'"):
        read(gateway, gateway.ask(encode(["ew2"])), keys)


def test_a_refused_name_does_not_spend_the_code(gateway, keys):
    gateway.ask(request_for(gateway.invite(), NodeKeys.generate(), name="pi-1"))
    code = gateway.invite()

    with pytest.raises(
        Refused, match="the name pi-1 is taken: choose another --name, or `edge-gateway replace pi-1`"
    ):
        read(gateway, gateway.ask(request_for(code, keys)), keys)
    assert read(gateway, gateway.ask(request_for(code, keys, name="pi-2")), keys, "pi-2").node_id == "pi-2"


def test_another_board_takes_the_place_of_a_member_and_keeps_what_it_was_given(gateway, keys):
    """The dead board's own code is good no more, even within its hour, and the new one for one board only."""
    first, old = gateway.invite(roles=("deployer",)), NodeKeys.generate()
    gateway.ask(request_for(first, old, labels={"site": "b"}))
    with pytest.raises(BadInput, match="no member is named 'pi-2'"):
        gateway.invite(name="pi-2", replaces=True)
    code = gateway.invite(name="pi-1", replaces=True)

    with pytest.raises(Refused, match="pi-1 keeps the labels of the board that it replaces: join without"):
        read(gateway, gateway.ask(request_for(code, keys, labels={"site": "c"})), keys)
    joined = read(gateway, gateway.ask(request_for(code, keys, name="")), keys, "")

    member = joined.roster.member("pi-1")
    assert [key.spki_sha256 for key in member.keys] == [keys.spki_sha256]
    assert (member.roles, member.labels) == (("deployer",), {"site": "b"})
    gateway.restart()
    with pytest.raises(Refused, match="void: another board replaces pi-1 since"):
        read(gateway, gateway.ask(request_for(first, old, labels={"site": "b"})), old)
    with pytest.raises(Refused, match="used already"):
        read(gateway, gateway.ask(request_for(code, NodeKeys.generate(), name="")), keys, "")


def test_what_a_revoked_member_joined_with_does_not_bring_it_back(gateway, keys):
    first = gateway.invite()
    gateway.ask(request_for(first, keys))
    code = gateway.invite(name="pi-1", replaces=True)
    gateway.do(gateway.desk.withdraw(gateway.now_s, "pi-1"))

    for again in (first, code):
        with pytest.raises(Refused, match="void: pi-1 was revoked since"):
            read(gateway, gateway.ask(request_for(again, keys)), keys)
    assert gateway.issued == ["pi-1"]
    assert gateway.desk.withdraw(gateway.now_s, "pi-7") == []


def test_a_code_for_a_name_gives_that_name_and_no_other(gateway, keys):
    code = gateway.invite(name="pi-7")

    with pytest.raises(Refused, match="for the name 'pi-7'"):
        read(gateway, gateway.ask(request_for(code, keys)), keys)
    assert read(gateway, gateway.ask(request_for(code, keys, name="")), keys, "").node_id == "pi-7"


@pytest.mark.parametrize("name", ["gateway", "broker", "any", "A", "a.b"])
def test_reserved_and_impossible_names_are_refused_on_both_sides(gateway, keys, name):
    code = gateway.invite()
    with pytest.raises(BadInput, match="node name"):
        request_for(code, keys, name=name)
    with pytest.raises(BadInput, match="node name"):
        gateway.invite(name=name)


def test_labels_are_bounded_at_the_door(gateway, keys):
    code = gateway.invite()

    for labels, told in (
        ({str(i): "x" for i in range(9)}, "at most 8 labels, not 9"),
        ({"site": "x" * 65}, "label 'site' has the value 'x+.*which does not fit"),
        ({"site": ""}, "label 'site' has the value ''"),
        ({"site": " b"}, "label 'site' has the value ' b'"),
        ({"si te": "b"}, "label 'si te' has a key that does not fit"),
        ({"a\n": "x"}, r"label 'a\\n' has a key that does not fit"),
        ({"": "x"}, "label '' has a key"),
        ({"a=b": "x"}, "label 'a=b' has a key"),
    ):
        with pytest.raises(BadInput, match=told):
            request_for(code, keys, labels=labels)
        fields = decode(request_for(code, keys), what="request")
        mac = _mac(code.mac_key, LEAF_HASH, fields[2], fields[3], fields[4], labels)
        forged = encode([*fields[:5], labels, mac])  # a node that does not look at its own labels
        gateway.now_s += 60
        with pytest.raises(Refused, match=told if "a\n" not in labels else "printable"):
            read(gateway, gateway.ask(forged), keys)
    assert gateway.issued == []


def test_an_operator_compares_words_and_approves(gateway, keys):
    code = gateway.invite(approval="pending")
    waiting = read(gateway, gateway.ask(request_for(code, keys)), keys)
    own = fingerprint_words(code.mesh_id, keys.spki_sha256, keys.x25519_public)

    assert waiting == Waiting(own, 5)
    assert len(own.split()) == 6
    assert [(node.name, node.words) for node in gateway.desk.pending()] == [("pi-1", own)]
    assert gateway.issued == []

    gateway.now_s += 5
    gateway.do(gateway.desk.approve(gateway.now_s, "pi-1"))
    assert gateway.issued == ["pi-1"]
    assert isinstance(read(gateway, gateway.ask(request_for(code, keys)), keys), Joined)
    assert gateway.issued == ["pi-1"]
    assert gateway.desk.pending() == []


def test_codes_that_nobody_used_are_listed_until_they_are_used_or_over(gateway, keys):
    code = gateway.invite(approval="pending")
    gateway.invite(ttl_s=60, name="pi-7", roles=("store",))
    told = [(one.name, one.approval, one.roles) for one in gateway.desk.open_invites(gateway.now_s)]
    assert told == [("pi-7", "auto", ("store",)), ("", "pending", ())]

    gateway.ask(request_for(code, keys))
    assert [one.name for one in gateway.desk.open_invites(gateway.now_s)] == ["pi-7"]
    assert gateway.desk.open_invites(gateway.now_s + 61) == []


def test_a_code_that_was_called_off_is_told_so_and_spent_by_nobody(gateway, keys):
    code, other = gateway.invite(name="pi-1"), gateway.invite()
    assert {one.id for one in gateway.desk.open_invites(NOW_S)} == {code.token_id, other.token_id}
    gateway.do(gateway.desk.call_off(NOW_S, code.token_id))

    assert [one.id for one in gateway.desk.open_invites(NOW_S)] == [other.token_id]
    for restarted in (False, True):
        if restarted:
            gateway.restart()
        with pytest.raises(Refused, match="join code is void: an operator withdrew it: ask for a new one"):
            read(gateway, gateway.ask(request_for(code, keys), address=f"a{restarted}"), keys)
        with pytest.raises(BadInput, match=r"void: an operator withdrew it .*: there is nothing left"):
            gateway.desk.call_off(NOW_S, code.token_id)
    assert gateway.issued == []
    assert isinstance(read(gateway, gateway.ask(request_for(other, keys)), keys), Joined)


def test_only_who_holds_the_secret_learns_that_a_code_was_withdrawn(gateway, keys):
    code = gateway.invite()
    gateway.do(gateway.desk.call_off(NOW_S, code.token_id))
    guessed = JoinCode(code.root_spki_sha256, code.token_id, bytes(16), ())

    with pytest.raises(Refused, match="secret does not fit"):
        read(gateway, gateway.ask(request_for(guessed, keys)), keys)


def test_what_is_not_open_is_not_called_off_and_the_operator_is_told_why(gateway, keys):
    asked, denied = gateway.invite(approval="pending"), gateway.invite(approval="pending")
    used, expired, dead = gateway.invite(), gateway.invite(ttl_s=60), gateway.invite()
    gateway.ask(request_for(used, keys, name="pi-2"), address="a")
    gateway.ask(request_for(asked, NodeKeys.generate(), name="pi-3"), address="b")
    gateway.ask(request_for(denied, NodeKeys.generate(), name="pi-4"), address="c")
    gateway.do(gateway.desk.deny(NOW_S, "pi-4"))
    gateway.do(gateway.desk.call_off(NOW_S, dead.token_id))
    before, at_s = gateway.desk.snapshot(), NOW_S + 61 + 180

    for code_id, told in (
        (used.token_id, "was used by pi-2: `edge-gateway revoke pi-2` if it may not be a member"),
        (asked.token_id, "was used: pi-3 waits to be let in: `edge-gateway deny pi-3`"),
        (denied.token_id, "the operator denied the request of pi-4 .*: there is nothing left to withdraw"),
        (expired.token_id, "expired 3 minutes ago: there is nothing left to withdraw"),
        (dead.token_id, "an operator withdrew it"),
        ("zzzzzz", "no join code has the id zzzzzz: see `edge-gateway invites`"),
    ):
        with pytest.raises(BadInput, match=told):
            gateway.desk.call_off(at_s, code_id)
    assert gateway.desk.snapshot() == before
    assert gateway.issued == ["pi-2"]


@pytest.mark.parametrize("what", ["", "k7q2m", "k7q2mzz", "K7Q2MZ", "k7q2m\n", "k7q2m1"])
def test_what_can_be_no_id_is_refused_and_a_whole_code_is_not_repeated(gateway, what):
    code = gateway.invite()
    for given in (what, code.text()):
        with pytest.raises(BadInput, match="six of a-z and 2-7, and not the code") as told:
            gateway.desk.call_off(NOW_S, given)
        assert code.text() not in str(told.value)
    assert len(gateway.desk.open_invites(NOW_S)) == 1


def test_a_use_on_its_way_to_the_disk_came_before_the_withdrawal(gateway, keys):
    """Whether its write succeeds or not: who was told that it was used has not withdrawn it."""
    code = gateway.invite()
    gateway.slow = True
    reply = gateway.ask(request_for(code, keys))
    with pytest.raises(BadInput, match="was used by pi-1: `edge-gateway revoke pi-1`"):
        gateway.desk.call_off(NOW_S, code.token_id)
    gateway.catch_up()

    assert isinstance(read(gateway, reply, keys), Joined)
    assert gateway.issued == ["pi-1"]


def test_a_withdrawal_on_its_way_to_the_disk_lets_nobody_in(gateway, keys):
    code = gateway.invite()
    gateway.slow = True
    gateway.do(gateway.desk.call_off(NOW_S, code.token_id))
    early = gateway.ask(request_for(code, keys))
    assert [one.id for one in gateway.desk.open_invites(NOW_S)] == [code.token_id], "not yet for good"
    gateway.catch_up()

    with pytest.raises(Refused, match="an operator withdrew it"):
        read(gateway, early, keys)
    assert gateway.desk.open_invites(NOW_S) == [] and gateway.issued == []


def test_a_withdrawal_that_the_disk_refused_can_be_asked_for_again(gateway, keys):
    code = gateway.invite()
    (write,) = gateway.desk.call_off(NOW_S, code.token_id)
    gateway.do(gateway.desk.handle(NOW_S, NotPersisted(write.token)))

    assert [one.id for one in gateway.desk.open_invites(NOW_S)] == [code.token_id]
    with pytest.raises(Refused, match="an operator withdrew it"):
        read(gateway, gateway.ask(request_for(code, keys)), keys)
    gateway.do(gateway.desk.call_off(NOW_S, code.token_id))
    assert gateway.desk.open_invites(NOW_S) == []
    gateway.restart()
    with pytest.raises(Refused, match="an operator withdrew it"):
        read(gateway, gateway.ask(request_for(code, keys)), keys)


def test_two_operators_withdraw_one_code_and_both_are_right(gateway):
    """Each waits for a write of their own; the first of them on the disk ends the code."""
    code = gateway.invite()
    gateway.slow = True
    first, second = (gateway.desk.call_off(NOW_S, code.token_id) for _ in range(2))
    gateway.slow = False

    gateway.do(first)
    assert gateway.desk.open_invites(NOW_S) == []
    gateway.do(second)
    assert gateway.desk.open_invites(NOW_S) == []


def test_words_of_other_keys_are_not_shown(gateway, keys):
    code = gateway.invite(approval="pending")
    reply = gateway.ask(request_for(code, keys))

    with pytest.raises(ProtocolViolation, match="other keys than ours"):
        read(gateway, reply, NodeKeys.generate())


def test_an_approval_outlives_a_restart_and_the_codes_end(gateway, keys):
    code = gateway.invite(approval="pending", ttl_s=10)
    gateway.ask(request_for(code, keys))
    gateway.now_s += 300
    gateway.restart()
    gateway.do(gateway.desk.approve(gateway.now_s, "pi-1"))
    gateway.restart()

    assert isinstance(read(gateway, gateway.ask(request_for(code, keys)), keys), Joined)


def test_a_denied_node_is_told(gateway, keys):
    code = gateway.invite(approval="pending")
    gateway.ask(request_for(code, keys))
    gateway.do(gateway.desk.deny(gateway.now_s, "pi-1"))

    with pytest.raises(Refused, match="the operator denied the request of pi-1: run `edge-node join`"):
        read(gateway, gateway.ask(request_for(code, keys)), keys)
    with pytest.raises(BadInput, match="the operator denied the request of pi-1"):
        gateway.desk.approve(gateway.now_s, "pi-1")
    with pytest.raises(BadInput, match="no node named 'pi-2' waits for approval: waiting: nobody"):
        gateway.desk.approve(gateway.now_s, "pi-2")


def test_nobody_waits_for_ever(gateway, keys):
    code = gateway.invite(approval="pending")
    gateway.ask(request_for(code, keys))
    assert gateway.desk.deadline_s() == NOW_S + 601

    gateway.now_s += 601
    gateway.do(gateway.desk.tick(gateway.now_s))
    told = "the request of pi-1 expired after 10 min: run `edge-node join` again with a new code"
    with pytest.raises(Refused, match=told):
        read(gateway, gateway.ask(request_for(code, keys)), keys)
    for decide in (gateway.desk.approve, gateway.desk.deny):
        with pytest.raises(BadInput, match=told):
            decide(gateway.now_s, "pi-1")
    gateway.restart()
    with pytest.raises(Refused, match=told):
        read(gateway, gateway.ask(request_for(code, keys)), keys)


def test_pending_nodes_are_bounded(mesh):
    gateway = Gateway(mesh, JoinLimits(pending=2))
    codes = [gateway.invite(approval="pending") for _ in range(3)]
    people = [NodeKeys.generate() for _ in codes]
    replies = [
        gateway.ask(request_for(code, who, name=f"pi-{i}"))
        for i, (code, who) in enumerate(zip(codes, people, strict=True))
    ]

    assert len(gateway.desk.pending()) == 2
    with pytest.raises(Refused, match="too many nodes wait"):
        read(gateway, replies[2], people[2], "pi-2")


def test_failures_are_limited_per_address_and_in_all(gateway, keys):
    wrong = request_for(JoinCode.make(gateway.mesh.root_spki_sha256, (), os.urandom(20)), keys)

    def outcome(address):
        try:
            read(gateway, gateway.ask(wrong, address=address), keys)
        except (Refused, Unavailable) as error:
            return type(error)

    assert [outcome("a") for _ in range(6)] == [Refused] * 5 + [Unavailable]
    assert [outcome(f"b{i}") for i in range(26)] == [Refused] * 25 + [Unavailable]
    gateway.now_s += 60
    assert outcome("a") is Refused


def test_a_flood_of_bad_requests_refuses_no_good_code(gateway, keys):
    """Unknown codes, wrong secrets and noise, from many addresses and from the honest one."""
    known = gateway.invite()
    forged = JoinCode(known.root_spki_sha256, known.token_id, bytes(16), ())
    for n in range(200):
        wrong = JoinCode.make(gateway.mesh.root_spki_sha256, (), os.urandom(20))
        bad = (request_for(wrong, keys), request_for(forged, keys), os.urandom(300), b"x" * 9000)[n % 4]
        address = f"10.1.{n}.1" if n % 3 else "10.0.0.1"
        with pytest.raises((Refused, Unavailable)):
            read(gateway, gateway.ask(bad, address=address), keys)
        gateway.desk.check()
    with pytest.raises(Unavailable, match="too many joining requests"):
        read(gateway, gateway.ask(request_for(forged, keys), address="10.9.9.9"), keys)

    for code, name, address in ((known, "pi-1", "10.0.0.1"), (gateway.invite(), "pi-2", "10.0.0.2")):
        who = NodeKeys.generate()
        reply = gateway.ask(request_for(code, who, name=name), address=address)
        assert isinstance(read(gateway, reply, who, name), Joined)
    gateway.desk.check()


def test_whoever_holds_a_spent_code_is_limited_and_hinders_no_other(gateway, keys):
    spent = gateway.invite()
    gateway.ask(request_for(spent, keys), address="a")
    thief = NodeKeys.generate()

    def outcome(address):
        try:
            read(gateway, gateway.ask(request_for(spent, thief), address=address), thief)
        except (Refused, Unavailable) as error:
            return type(error)

    assert [outcome("t") for _ in range(6)] == [Refused] * 5 + [Unavailable]
    assert isinstance(read(gateway, gateway.ask(request_for(spent, keys), address="a"), keys), Joined)
    assert {outcome(f"t{n}") for n in range(40)} == {Refused, Unavailable}
    other = NodeKeys.generate()
    reply = gateway.ask(request_for(gateway.invite(), other, name="pi-2"), address="t")
    assert isinstance(read(gateway, reply, other, "pi-2"), Joined)
    gateway.desk.check()


def test_a_fleet_behind_one_address_can_join(gateway):
    for i in range(40):
        keys = NodeKeys.generate()
        reply = gateway.ask(request_for(gateway.invite(), keys, name=f"pi-{i}"), address="10.0.0.1")
        assert isinstance(read(gateway, reply, keys, f"pi-{i}"), Joined)


def test_codes_are_bounded_but_finished_ones_make_room(mesh, keys):
    gateway = Gateway(mesh, JoinLimits(codes=2))
    gateway.ask(request_for(gateway.invite(), keys))
    gateway.invite()
    gateway.invite()
    with pytest.raises(BadInput, match="too many join codes"):
        gateway.invite()
    gateway.now_s += 3601

    assert gateway.invite()


def test_old_codes_are_forgotten(gateway, keys):
    gateway.ask(request_for(gateway.invite(), keys))
    gateway.now_s = gateway.desk.deadline_s()
    gateway.do(gateway.desk.tick(gateway.now_s))

    assert gateway.desk.deadline_s() is None
    assert gateway.disk == gateway.desk.snapshot() == encode([1, []])


@pytest.mark.parametrize(
    "more", [{"ttl_s": 0}, {"ttl_s": 31 * 86400}, {"approval": "maybe"}, {"name": "pi-1"}]
)
def test_an_invitation_that_cannot_be_kept_is_not_made(mesh, more):
    gateway = Gateway(mesh)
    gateway.members["pi-1"] = None

    with pytest.raises(BadInput):
        gateway.invite(**more)


def test_a_damaged_memory_is_refused_whole(gateway):
    gateway.invite()
    for damage in (b"", gateway.disk[:-1], gateway.disk + b"\x00", encode([2, []]), encode([1, [[]]])):
        with pytest.raises(ProtocolViolation):
            JoinDesk(root_spki_sha256=gateway.mesh.root_spki_sha256).restore(
                damage, now_s=NOW_S, void_open=False
            )


def test_a_node_believes_only_an_answer_about_itself(gateway, mesh, keys):
    code = gateway.invite()
    reply = gateway.ask(request_for(code, keys))
    other = Authority.create(now_s=NOW_S, entropy=os.urandom)

    with pytest.raises(ProtocolViolation, match="another node"):
        read(gateway, reply, NodeKeys.generate())
    with pytest.raises(ProtocolViolation, match="another node"):
        read(gateway, reply, keys, "pi-2")
    with pytest.raises(ProtocolViolation, match="pinned root"):
        read_answer(
            gateway.replies[reply],
            root_spki_sha256=other.root_spki_sha256,
            keys=keys,
            name="pi-1",
            floor_s=NOW_S,
        )
    unlisted = mesh.sign_roster(RosterDraft(1, bytes(32), NOW_S, (), (), ()))
    leaf = mesh.issue(keys.public, "pi-1", now_s=NOW_S)
    with pytest.raises(ProtocolViolation, match="does not list this node"):
        read_answer(
            accepted(leaf, mesh.chain_pem, unlisted, wall_s=NOW_S, brokers=()),
            root_spki_sha256=mesh.root_spki_sha256,
            keys=keys,
            name="pi-1",
            floor_s=NOW_S,
        )
