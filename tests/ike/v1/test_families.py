"""Every family of refused IKEv1 messages (FEATURES A20), provoked by an exchange, not by calling what makes the error.

Each case is two ends that do not agree, or a message changed on its way; then the event is looked at, the notify that
went over the wire, the recommended action, and what the tunnel's status says.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from agents.contract.config import ExchangeMode, Identity, IdentityType, IpsecProposal
from agents.contract.events import KINDS, Severity
from agents.contract.status import TunnelState
from agents.ike.wire.isakmp.families import BY_CODE, FAMILIES, Action, Family
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Payload, SecurityAssociation
from agents.ike.wire.isakmp.registry import NotifyType, Protocol
from tests.harness.documents import Side, child, key, mirrored
from tests.harness.pki import certify
from tests.harness.v1 import FAST_IKE as IKE
from tests.harness.v1 import LYON, PARIS, policy
from tests.harness.world import World

from .cast import short, with_attributes
from .ends import CHILD, ESP, Ends, meet, notifies, patch, remake, sides, standing, the

H = bytes.fromhex

MAIN_1 = {"phase": "1", "message": "1", "exchange": "main-mode"}
MAIN_2 = {**MAIN_1, "message": "2"}
MAIN_5 = {**MAIN_1, "message": "5"}
QUICK_1 = {"phase": "2", "message": "1", "exchange": "quick-mode"}
QUICK_2 = {**QUICK_1, "message": "2"}

_ACTIONS = {
    Action.CHECK_IKE: "Compare the IKE policies of both ends.",
    Action.CHECK_IPSEC: "Compare the IPsec policies of both ends.",
    Action.SUPPORT: "Contact support",
    Action.RESET: "Reset the VPN connection",
    Action.NONE: "",
}


@dataclass(kw_only=True)
class Case:
    """One way to a family. ``at`` is who reports, ``teller`` who sends the notify where it is not the same."""

    play: Callable[[], Ends]
    words: str
    received: str | None = None
    configured: str | None = None
    place: dict[str, str] = field(default_factory=lambda: MAIN_1)
    at: str = "lyon"
    teller: str | None = None
    notify: NotifyType | None = None
    down: bool = True


# --- documents that differ


def differing(left: dict[str, Any], right: dict[str, Any], mode: ExchangeMode = ExchangeMode.MAIN) -> Ends:
    """Let two ends meet whose tunnels were changed."""
    documents = sides(mode)
    for side, changes in zip(documents, (left, right), strict=True):
        side.change(**changes)
    return meet(documents)


def suites(ours: dict[str, Any], theirs: dict[str, Any]) -> Ends:
    """Let two ends meet whose IKE suites differ; ``theirs`` is what Paris offers."""
    legacy = sides()
    for side, changes in zip(legacy, (theirs, ours), strict=True):
        side.allow_legacy = True
        side.change(ike=policy(ExchangeMode.MAIN, replace(IKE, **changes)))
    return meet(legacy)


def children(theirs: dict[str, Any], ours: dict[str, Any]) -> Ends:
    """Let two ends meet whose children differ; ``theirs`` is what Paris asks for."""
    return differing({"children": (replace(CHILD, **theirs),)}, {"children": (mirrored(replace(CHILD, **ours)),)})


def other_keys(mode: ExchangeMode = ExchangeMode.MAIN) -> Ends:
    left, right = sides(mode)
    right.keys = [key(b"a key that nobody else has got, ever", LYON, PARIS)]
    return meet((left, right))


def identity(value: str) -> Identity:
    return Identity(type=IdentityType.FQDN, value=value)


def named(side: Side, own: str, peer: str, index: int = 0) -> None:
    """Give a side's tunnel identities by name."""
    config = side.tunnels[index]
    side.change(
        index,
        local=replace(config.local, identity=identity(own)),
        remote=replace(config.remote, identity=identity(peer)),
    )


def certified(
    own: str,
    expected: str,
    *,
    more: tuple[str, ...] = (),
    mode: ExchangeMode = ExchangeMode.MAIN,
) -> Ends:
    """Let two ends with certificates meet: Paris shows ``own``, Lyon expects ``expected``, and has tunnels for more."""
    left, right = sides(mode)
    world = World()
    paris, lyon = world.host("paris", PARIS), world.host("lyon", LYON)
    for side, host in ((left, paris), (right, lyon)):
        certify(side, host)
    named(left, own, "lyon.example.org")
    named(right, "lyon.example.org", expected)
    right.change(remote_auth=replace(right.tunnels[0].remote_auth, validate_identity=True))
    for number, name in enumerate(more, 1):
        net = child(local=(f"10.{number}0.0.0/16",), remote=(f"10.{number}1.0.0/16",), proposals=(ESP,))
        id_ = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        right.tunnels.append(replace(right.tunnels[0], id=id_, name=name, children=(net,)))
        named(right, "lyon.example.org", f"{name}.example.org", number)
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(0.4)
    return Ends(world=world, paris=paris, lyon=lyon)


def psk_against_certificate() -> Ends:
    left, right = sides()
    world = World()
    paris, lyon = world.host("paris", PARIS), world.host("lyon", LYON)
    certify(right, lyon)
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(0.4)
    return Ends(world=world, paris=paris, lyon=lyon)


def other_identity(mode: ExchangeMode = ExchangeMode.MAIN) -> Ends:
    """Paris shows a name that Lyon does not expect; the pre-shared key is right."""
    left, right = sides(mode)
    right.change(remote=replace(right.tunnels[0].remote, identity=identity("paris.example.org")))
    return meet((left, right))


def cleared() -> Ends:
    """A tunnel stands; Paris deletes its IPsec SAs."""
    ends = standing()
    ends.paris.do(ends.paris.engine.clear_ipsec, ends.paris.status().id)
    ends.world.run(0.4)
    return ends


# --- messages changed on their way


def changed(offset: int, octets: bytes) -> Callable[[], Ends]:
    return lambda: meet(rewrite=patch(offset, octets))


def changed_sa(change: Callable[[SecurityAssociation], SecurityAssociation]) -> Callable[[], Ends]:
    def payloads(message: Message) -> tuple[Payload, ...]:
        return tuple(change(each) if isinstance(each, SecurityAssociation) else each for each in message.payloads)

    return lambda: meet(rewrite=remake(payloads))


def as_esp(offer: SecurityAssociation) -> SecurityAssociation:
    proposals = tuple(replace(each, protocol=Protocol.ESP, spi=b"\0\1\2\3") for each in offer.proposals)
    return replace(offer, proposals=proposals)


def longer_sa() -> Ends:
    """The SA payload says that it is twelve octets longer than its proposals."""
    length = int.from_bytes(meet().world.log[0].octets[30:32], "big")
    return meet(rewrite=patch(30, (length + 12).to_bytes(2, "big")))


# Octets of a first message of Main Mode: the header ends at 28, the SA payload's at 32, then DOI and situation; the
# proposal begins at 40, its transform at 48.
CASES: dict[int, list[Case]] = {
    1: [
        Case(
            play=other_keys,
            words="Possibly mismatching pre-shared keys detected in IKE phase 1, message 5 (main-mode): ",
            place=MAIN_5,
        ),
        Case(
            play=partial(other_keys, ExchangeMode.AGGRESSIVE),
            words="Mismatching pre-shared keys detected in IKE phase 1, message 2 (aggressive-mode): the hash is wrong",
            received="another hash than our pre-shared key makes",
            place={**MAIN_2, "exchange": "aggressive-mode"},
            at="paris",
            notify=NotifyType.INVALID_HASH_INFORMATION,
        ),
    ],
    2: [
        Case(
            play=partial(suites, {"group": "group-20"}, {"group": "group-19"}),
            words="Mismatching DH group (group-19) received, (group-20) configured, "
            "in IKE phase 1, message 1 (main-mode)",
            received="group-19",
            configured="group-20",
        )
    ],
    3: [
        Case(
            play=partial(differing, {}, {"ike": policy(ExchangeMode.AGGRESSIVE)}),
            words="Mismatching exchange type (main-mode) received, (aggressive-mode) configured, "
            "in IKE phase 1, message 1 (main-mode)",
            received="main-mode",
            configured="aggressive-mode",
        ),
        Case(
            play=partial(differing, {}, {"ike": policy(ExchangeMode.AGGRESSIVE)}),
            words="Received an unprotected message of notify type UNSUPPORTED_EXCHANGE_TYPE, "
            "in IKE phase 1, message 1 (main-mode): ",
            received="UNSUPPORTED_EXCHANGE_TYPE",
            configured="main-mode",
            at="paris",
            teller="lyon",
            down=False,
        ),
    ],
    4: [
        Case(
            play=partial(suites, {"prf": "prf-hmac-sha1", "integrity": "hmac-sha1-96"}, {}),
            words="Mismatching authentication algorithm (sha256) received, (sha1) configured, "
            "in IKE phase 1, message 1 (main-mode)",
            received="sha256",
            configured="sha1",
        )
    ],
    5: [
        Case(
            play=partial(suites, {"encryption": "3des-cbc"}, {}),
            words="Mismatching encryption algorithm (aes-128-cbc) received, (3des-cbc) configured, "
            "in IKE phase 1, message 1 (main-mode)",
            received="aes-128-cbc",
            configured="3des-cbc",
        )
    ],
    6: [
        Case(
            play=psk_against_certificate,
            words="Mismatching authentication method (psk) received, (ecdsa-p256) configured, "
            "in IKE phase 1, message 1 (main-mode)",
            received="psk",
            configured="ecdsa-p256",
        )
    ],
    7: [
        Case(
            play=partial(certified, "paris.example.org", "berlin.example.org"),
            words="Mismatching ID type and data (fqdn paris.example.org) with the configured IKE policy "
            "(fqdn berlin.example.org), in IKE phase 1, message 5 (main-mode)",
            received="fqdn paris.example.org",
            configured="fqdn berlin.example.org",
            place=MAIN_5,
        ),
        Case(
            play=partial(certified, "paris.example.org", "berlin.example.org", mode=ExchangeMode.AGGRESSIVE),
            words="Mismatching ID type and data (fqdn paris.example.org) with the configured IKE policy "
            "(fqdn berlin.example.org), in IKE phase 1, message 1 (aggressive-mode)",
            received="fqdn paris.example.org",
            configured="fqdn berlin.example.org",
            place={**MAIN_1, "exchange": "aggressive-mode"},
        ),
    ],
    8: [
        Case(
            play=partial(certified, "paris.example.org", "berlin.example.org", more=("rome",)),
            words="Mismatching ID type and data (fqdn paris.example.org) with any of the configured IKE policies "
            "(fqdn berlin.example.org; fqdn rome.example.org), in IKE phase 1, message 5 (main-mode)",
            received="fqdn paris.example.org",
            configured="fqdn berlin.example.org; fqdn rome.example.org",
            place=MAIN_5,
            down=False,
        )
    ],
    9: [
        Case(
            play=other_identity,
            words="Mismatching ID type and data (ipv4 192.0.2.1) with the configured IKE policy "
            "(fqdn paris.example.org), in IKE phase 1, message 5 (main-mode)",
            received="ipv4 192.0.2.1",
            configured="fqdn paris.example.org",
            place=MAIN_5,
        ),
        Case(
            play=partial(other_identity, ExchangeMode.AGGRESSIVE),
            words="Mismatching ID type and data (ipv4 192.0.2.1) with the configured IKE policy "
            "(fqdn paris.example.org), in IKE phase 1, message 1 (aggressive-mode)",
            received="ipv4 192.0.2.1",
            configured="fqdn paris.example.org",
            place={**MAIN_1, "exchange": "aggressive-mode"},
        ),
    ],
    10: [
        Case(
            play=partial(certified, "branch.example.org", "branch.example.org"),
            words="The identity is not in the certificate, in IKE phase 1, message 5 (main-mode)",
            received="fqdn branch.example.org",
            configured="names of the certificate: CN=paris,O=VPN Console tests",
            place=MAIN_5,
        )
    ],
    11: [
        Case(
            play=other_identity,
            words="Received an unprotected message of notify type INVALID_ID_INFORMATION, "
            "in IKE phase 1, message 5 (main-mode): The peer refuses our identity",
            received="INVALID_ID_INFORMATION",
            configured="ipv4 192.0.2.1",
            place=MAIN_5,
            at="paris",
            teller="lyon",
            down=False,
        )
    ],
    12: [
        Case(
            play=changed(16, H("99")),
            words="The next payload type 153 (0x99) is invalid, in IKE phase 1, message 1 (main-mode)",
            received="0x99",
            configured="a payload type of IKEv1",
        )
    ],
    13: [
        Case(
            play=changed(32, H("00004001")),
            words="The domain of interpretation (0x4001) is not supported, in IKE phase 1, message 1 (main-mode)",
            received="0x4001",
            configured="0x1",
        )
    ],
    14: [
        Case(
            play=changed(36, H("00004001")),
            words="The situation (0x4001) is not supported, in IKE phase 1, message 1 (main-mode)",
            received="0x4001",
            configured="0x1",
        )
    ],
    15: [
        Case(
            play=changed(0, bytes(8)),
            words="The initiator's cookie is zero, in IKE phase 1, message 1 (main-mode)",
            received="0",
            configured="8 octets that are not all zero",
        )
    ],
    16: [
        Case(
            play=changed(17, H("20")),
            words="The major version (2) is not 1, in IKE phase 1, message 1 (main-mode)",
            received="2",
            configured="1",
        )
    ],
    17: [
        Case(
            play=changed(17, H("12")),
            words="The minor version (2) is not supported, in IKE phase 1, message 1 (main-mode)",
            received="2",
            configured="0",
        )
    ],
    18: [
        Case(
            play=changed(18, H("20")),
            words="The exchange type quick-mode (0x20) was received for an IKE SA that does not exist",
            received="quick-mode",
            configured="main-mode or aggressive-mode of a new IKE SA",
            place={"phase": "2", "exchange": "quick-mode"},
        )
    ],
    19: [
        Case(
            play=changed(19, H("f0")),
            words="The flags (0xf0) are invalid, in IKE phase 1, message 1 (main-mode)",
            received="0xf0",
            configured="none but 0x7",
        )
    ],
    20: [
        Case(
            play=changed(20, H("00100100")),
            words="The message ID (0x100100) is invalid in main-mode, in IKE phase 1, message 1 (main-mode)",
            received="0x100100",
            configured="0x0 in phase 1",
        )
    ],
    21: [
        Case(
            play=changed(45, H("ff")),
            words="The protocol ID (0xff) is invalid, in IKE phase 1, message 1 (main-mode)",
            received="0xff",
            configured="0x1 to 0x4",
        ),
        Case(
            play=changed_sa(as_esp),
            words="Invalid protocol ID (0x3) received, in IKE phase 1, message 1 (main-mode)",
            received="0x3",
            configured="0x1",
        ),
    ],
    22: [
        Case(
            play=changed(53, H("11")),
            words="Invalid transform ID (17) received, (1) configured, in IKE phase 1, message 1 (main-mode)",
            received="17",
            configured="1",
        )
    ],
    23: [
        Case(
            play=changed_sa(lambda offer: with_attributes(offer, short(4099, 1))),
            words="Unsupported attribute (4099) received, in IKE phase 1, message 1 (main-mode)",
            received="4099",
            configured="none",
        )
    ],
    24: [
        Case(
            play=partial(suites, {"encryption": "3des-cbc", "group": "group-20"}, {}),
            words="No IKE proposal matches. Mismatching encryption algorithm (aes-128-cbc) received, (3des-cbc) "
            "configured; Mismatching DH group (group-19) received, (group-20) configured, "
            "in IKE phase 1, message 1 (main-mode)",
            received="aes-128-cbc sha256 group-19 psk",
            configured="3des-cbc sha256 group-20 psk",
        )
    ],
    25: [
        Case(
            play=changed(54, H("0011")),
            words="A reserved field of the transform 1 is 0x11, in IKE phase 1, message 1 (main-mode)",
            received="0x11",
            configured="0x0",
        )
    ],
    26: [
        Case(
            play=changed(29, H("11")),
            words="A reserved field of the header of payload SA is 0x11, in IKE phase 1, message 1 (main-mode)",
            received="0x11",
            configured="0x0",
        )
    ],
    27: [
        Case(
            play=changed(18, H("03")),
            words="The exchange type authentication-only (0x3) is not supported",
            received="authentication-only",
            configured="main-mode, aggressive-mode, informational-v1, quick-mode",
            place={"exchange": "authentication-only"},
        )
    ],
    28: [
        Case(
            play=longer_sa,
            words="Payload length (72) is greater than SA + Proposal + Xform + Attributes size (60), "
            "in IKE phase 1, message 1 (main-mode)",
            received="72 octets",
            configured="60 octets",
        )
    ],
    29: [
        Case(
            play=partial(children, {"pfs_groups": ("group-19",)}, {"pfs_groups": ("group-20",)}),
            words="Mismatching DH group (group-19) received, (group-20) configured, "
            "in IKE phase 2, message 1 (quick-mode), child main",
            received="group-19",
            configured="group-20",
            place=QUICK_1,
        )
    ],
    30: [
        Case(
            play=partial(children, {}, {"proposals": (replace(ESP, integrity="hmac-sha1-96"),)}),
            words="Mismatching authentication algorithm (hmac-sha2-256-128) received, (hmac-sha1-96) configured, "
            "in IKE phase 2, message 1 (quick-mode), child main",
            received="hmac-sha2-256-128",
            configured="hmac-sha1-96",
            place=QUICK_1,
        )
    ],
    31: [
        Case(
            play=partial(children, {}, {"proposals": (replace(ESP, encryption="aes-256-cbc"),)}),
            words="Mismatching encryption algorithm (aes-128-cbc) received, (aes-256-cbc) configured, "
            "in IKE phase 2, message 1 (quick-mode), child main",
            received="aes-128-cbc",
            configured="aes-256-cbc",
            place=QUICK_1,
        )
    ],
    32: [
        Case(
            play=standing,
            words="Initiator's traffic selector sent: IPV4_ADDR_SUBNET 10.1.0.0/255.255.0.0, protocol 0, port 0; "
            "responder's traffic selector sent: IPV4_ADDR_SUBNET 10.2.0.0/255.255.0.0, protocol 0, port 0, "
            "in IKE phase 2, message 1 (quick-mode), child main",
            place=QUICK_1,
            at="paris",
            down=False,
        )
    ],
    33: [
        Case(
            play=standing,
            words="Initiator's traffic selector received: IPV4_ADDR_SUBNET 10.1.0.0/255.255.0.0, protocol 0, port 0; "
            "responder's traffic selector received: IPV4_ADDR_SUBNET 10.2.0.0/255.255.0.0, protocol 0, port 0, "
            "in IKE phase 2, message 1 (quick-mode)",
            place=QUICK_1,
            down=False,
        )
    ],
    34: [
        Case(
            play=lambda: differing(
                {}, {"children": (child(local=("10.8.0.0/16",), remote=("10.9.0.0/16",), proposals=(ESP,)),)}
            ),
            words="No IPsec policy for the traffic selectors received, in IKE phase 2, message 1 (quick-mode)",
            received="10.2.0.0/16 = 10.1.0.0/16",
            configured="10.8.0.0/16 = 10.9.0.0/16",
            place=QUICK_1,
        )
    ],
    35: [
        Case(
            play=partial(children, {"proposals": (IpsecProposal(ah_integrity="hmac-sha1-96"),)}, {}),
            words="Mismatching number of AH protocols received (1), configured (0); of ESP protocols received (0), "
            "configured (1), in IKE phase 2, message 1 (quick-mode), child main",
            received="AH 1, ESP 0",
            configured="AH 0, ESP 1",
            place=QUICK_1,
        )
    ],
    36: [
        Case(
            play=partial(children, {}, {"lifetime_s": 300}),
            words="Received notify RESPONDER_LIFETIME of ESP with 300 seconds, configured (3600), "
            "in IKE phase 2, message 2 (quick-mode), child main",
            received="300",
            configured="3600",
            place=QUICK_2,
            at="paris",
            teller="lyon",
            down=False,
        )
    ],
    37: [
        Case(
            play=partial(children, {}, {"lifetime_bytes": 5 * 1024}),
            words="Received notify RESPONDER_LIFETIME of ESP with 5 kilobytes, configured (none), "
            "in IKE phase 2, message 2 (quick-mode), child main",
            received="5",
            configured="none",
            place=QUICK_2,
            at="paris",
            teller="lyon",
            down=False,
        )
    ],
    38: [
        Case(
            play=cleared,
            words="Received a delete payload of protocol ESP with SPI ",
            place={"phase": "2", "protocol": "ESP", "child": "main"},
            down=False,
        )
    ],
}

ALL = [
    pytest.param(family, case, id=f"{family.number}-{case.at}") for family in FAMILIES for case in CASES[family.number]
]


@pytest.mark.parametrize(("family", "case"), ALL)
def test_family(family: Family, case: Case) -> None:
    ends = case.play()
    host = ends.named(case.at)
    report = the(host, family.code)
    assert report.message.startswith(case.words)
    assert report.attributes.items() >= case.place.items()
    if case.received is not None:
        assert (report.received, report.configured) == (case.received, case.configured)
    assert report.tunnel_id == (host.status().id if len(host.engine.snapshot(0.0)) == 1 else None)
    assert report.attributes["version"] == "v1"
    sent = notifies(ends, case.teller or case.at)
    notify = case.notify or family.notify
    assert sent.count(notify.name) == 1 if notify is not None else not sent
    reason = host.status().reason
    if case.down:
        assert host.state is TunnelState.DOWN
        assert reason is not None
        assert (reason.code, reason.message) == (family.code, report.message)
        assert (reason.received, reason.configured) == (report.received, report.configured)
        assert reason.field == report.field
    refused = {code for code in host.codes() if code in BY_CODE and BY_CODE[code].action is not Action.NONE}
    assert refused == ({family.code} if family.action is not Action.NONE else set())  # one event for one fault
    assert ends.paris.codes()["ike.bug"] == ends.lyon.codes()["ike.bug"] == 0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.code)
def test_recommended_action(family: Family) -> None:
    kind = KINDS[family.code]
    assert kind.action.startswith(_ACTIONS[family.action])
    assert bool(kind.action) == (family.action is not Action.NONE)
    assert (kind.severity is Severity.INFO) == (family.action is Action.NONE)


class TestTable:
    def test_thirty_eight_families_each_provoked(self) -> None:
        assert len(FAMILIES) == len(BY_CODE) == 38
        assert [family.number for family in FAMILIES] == list(range(1, 39)) == sorted(CASES)
        assert all(CASES.values())

    def test_the_five_actions(self) -> None:
        assert {family.action for family in FAMILIES} == set(Action)
        assert len(Action) == 5

    @pytest.mark.parametrize("mode", ExchangeMode)
    def test_a_good_negotiation_provokes_no_refusal(self, mode: ExchangeMode) -> None:
        ends = standing(sides(mode))
        seen = ends.paris.codes() | ends.lyon.codes()
        assert {code for code in seen if code in BY_CODE} == {"ikev1.selectors-sent", "ikev1.selectors-received"}
        assert not {code for code in seen if KINDS[code].severity is not Severity.INFO}
        assert notifies(ends, "paris") == notifies(ends, "lyon") == []
