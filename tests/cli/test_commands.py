"""The command lines against a real socket: what they print, what they ask for, how they fail."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.cli import ike, ipsecstat, vpn_agent
from agents.contract.captures import CaptureRequest
from agents.contract.codec import from_plain, to_plain
from agents.contract.events import Event, EventPage, Severity
from agents.contract.status import (
    CaptureStatus,
    ChildSaStatus,
    ChildStatus,
    ComponentHealth,
    Counters,
    DataPlaneStatus,
    ExchangeCounters,
    FilterCounters,
    GatewayStatus,
    IkeSaStatus,
    NamedCount,
    QueueStatus,
    Reason,
    Refusal,
    Rejections,
    TunnelState,
    TunnelStatus,
)
from agents.runtime.rpc import Connection, RpcError, Server
from agents.runtime.version import VERSION

UP = TunnelStatus(
    id="aaaaaaaa-1111-4111-8111-111111111111",
    name="paris-lyon",
    state=TunnelState.UP,
    since=1_000.0,
    ike_sas=(
        IkeSaStatus(
            spi_i="1" * 16, spi_r="2" * 16, initiator=True, state="established", local="192.0.2.1:4500",
            remote="192.0.2.2:4500", nat_local=False, nat_remote=True, encryption="aes-128-gcm-16", integrity=None,
            prf="prf-hmac-sha2-256", group="group-31", established_at=1_000.0, rekey_at=None,
        ),
    ),
    children=(
        ChildStatus(
            name="net",
            up=True,
            sas=(
                ChildSaStatus(
                    spi_in="c0000001", spi_out="c0000002", encryption="aes-128-gcm-16", integrity=None, group=None,
                    udp_encapsulation=True, local_ts=("10.1.0.0/24",), remote_ts=("10.2.0.0/24",), installed_at=1_000.0,
                    rekey_at=None, expires_at=None, counters=Counters(),
                ),
            ),
        ),
    ),
    counters=Counters(bytes_in=2_048, bytes_out=5, packets_in=20, packets_out=10),
    interface="vpnaaaaaaaa",
    routes=("10.2.0.0/24",),
)  # fmt: skip
DOWN = TunnelStatus(
    id="bbbbbbbb-2222-4222-8222-222222222222",
    name="paris-rome",
    state=TunnelState.DOWN,
    since=1_000.0,
    reason=Reason(
        code="ike.no-proposal",
        message="No IKE proposal matches",
        received="aes-256-cbc",
        configured="aes-128-gcm-16",
        field="ike.proposals",
    ),
    children=(ChildStatus(name="net", up=False), ChildStatus(name="voice", up=False)),
)
STATUS = GatewayStatus(
    gateway_id="11111111-1111-4111-8111-111111111111",
    agent_version=VERSION,
    boot_id="boot",
    observed_at=1_500.0,
    accepted_generation=4,
    applied_generation=3,
    refusal=Refusal(generation=5, path="data_plane", message="kernel is not available here", at=1_200.0),
    problems=("add route 10.9.0.0/24: Operation not permitted",),
    data_plane=DataPlaneStatus(driver="userspace", reason="the kernel has no ESP"),
    components=(ComponentHealth(name="iked", healthy=True, pid=7),),
    tunnels=(UP, DOWN),
    exchanges=(ExchangeCounters(exchange="ike-auth", requests_in=7, responses_out=6, refused=1),),
    last_event=3,
)
EVENTS = tuple(
    Event(sequence=number, time=1_000.0, code=code, severity=severity, message=message)
    for number, (code, severity, message) in enumerate(
        (
            ("agent.started", Severity.INFO, "Agent started"),
            ("ike.initiate", Severity.INFO, "Negotiation started"),
            ("ike.no-proposal", Severity.ERROR, "No IKE proposal matches"),
        ),
        start=1,
    )
)


class FakeAgentd:
    """``agentd.sock`` in a thread of its own, since the command lines bring their own loop."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.actions: list[tuple[str, str]] = []
        self.accept = True
        self.filtered: dict[str, Any] = {"on": False, "strangers": {"ike": None, "ipsec": None}}
        self.contexts: list[dict[str, Any]] = []
        self.status = STATUS
        self.traced: list[dict[str, Any]] = []
        self.captures: dict[str, CaptureStatus] = {}
        self.levels = {"agentd": "information", "iked": "information", "iked.v1": "events"}
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> FakeAgentd:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

        async def status(_params: dict[str, Any], _connection: Connection) -> Any:
            return to_plain(self.status)

        async def events(params: dict[str, Any], _connection: Connection) -> Any:
            chosen = tuple(event for event in EVENTS if event.sequence > params["after"])[: params["limit"]]
            return to_plain(EventPage(events=chosen, oldest=1, last=EVENTS[-1].sequence))

        async def action(params: dict[str, Any], _connection: Connection) -> Any:
            if params["tunnel_id"] not in (UP.id, DOWN.id):
                raise RpcError("unknown-tunnel", "no such tunnel")
            self.actions.append((params["verb"], params["tunnel_id"]))
            return {
                "id": params["id"],
                "accepted": self.accept,
                "message": "negotiating" if self.accept else "disabled",
            }

        async def log_level(params: dict[str, Any], _connection: Connection) -> Any:
            if params:
                self.levels[params["component"]] = params["level"]
            return {"levels": self.levels}

        async def filtered(_params: dict[str, Any], _connection: Connection) -> Any:
            return self.filtered

        async def contexts(_params: dict[str, Any], _connection: Connection) -> Any:
            return {"contexts": self.contexts}

        async def capture_start(params: dict[str, Any], _connection: Connection) -> Any:
            request = from_plain(CaptureRequest, params)
            status = CaptureStatus(
                id=request.id, tunnel_id=request.tunnel_id, view=str(request.view), running=True, started_at=1_000.0
            )
            self.captures[request.id] = status
            return to_plain(status)

        async def capture_stop(params: dict[str, Any], _connection: Connection) -> Any:
            if params["id"] not in self.captures:
                raise RpcError("unknown-capture", "there is no such capture")
            return to_plain(dataclasses.replace(self.captures[params["id"]], running=False, ended_because="stopped"))

        async def trace(params: dict[str, Any], _connection: Connection) -> Any:
            self.traced.append(params)
            record = {"process": "iked", "time": 1_000.25, "category": "tunnel", "text": "an SA", "version": None}
            processes = {"iked": {"on": ["tunnel"], "ended_because": ""}, "espd": {"on": [], "ended_because": "away"}}
            return {"processes": processes, "records": [record]}

        handlers = {
            "filter": filtered,
            "contexts": contexts,
            "trace": trace,
            "capture_start": capture_start,
            "capture_stop": capture_stop,
            "status": status,
            "events": events,
            "action": action,
            "log_level": log_level,
        }
        async with Server(self.run / "agentd.sock", handlers):
            self._ready.set()
            await self._stop.wait()


@pytest.fixture
def agentd(tmp_path: Path) -> Iterator[FakeAgentd]:
    with FakeAgentd(tmp_path) as made:
        yield made


def vpn(agentd: FakeAgentd, *words: str) -> int:
    return vpn_agent.main([words[0], "--run", str(agentd.run), *words[1:]])


def test_status_shows_every_tunnel_and_why_one_is_down(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn(agentd, "status") == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    assert lines["paris-lyon"] == ["paris-lyon", "up", "8", "min", "1", "of", "1", "2.0", "KiB", "5", "B", "-"]
    assert lines["paris-rome"][1:5] == ["down", "8", "min", "0"]
    assert "No IKE proposal matches" in shown
    assert "generation 4 accepted, 3 in force" in shown
    assert "Problem        add route 10.9.0.0/24" in shown
    assert "Last refusal   generation 5: data_plane: kernel" in shown


def test_status_as_json_is_the_contract(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn(agentd, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == to_plain(STATUS)


def test_one_tunnel_in_detail(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn(agentd, "status", "paris-lyon") == 0
    shown = capsys.readouterr().out
    assert "ESP in c0000001 out c0000002, aes-128-gcm-16, 10.1.0.0/24 === 10.2.0.0/24, in UDP" in shown
    assert "route 10.2.0.0/24" in shown
    assert vpn(agentd, "status", "paris-rome") == 0
    assert "received aes-256-cbc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (("up",), "initiate"),
        (("down",), "terminate"),
        (("rekey",), "rekey-child"),
        (("rekey", "--ike"), "rekey-ike"),
        (("clear-ike",), "clear-ike"),
        (("clear-ipsec",), "clear-ipsec"),
    ],
)
def test_verbs_are_asked_for_by_name(agentd: FakeAgentd, words: tuple[str, ...], verb: str) -> None:
    assert vpn(agentd, *words, "paris-lyon") == 0
    assert agentd.actions == [(verb, UP.id)]


def test_a_refused_verb_and_an_unknown_tunnel_fail(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    agentd.accept = False
    assert vpn(agentd, "up", "paris-lyon") == 1
    assert "disabled" in capsys.readouterr().out
    assert vpn(agentd, "up", "nowhere") == 1
    assert "tunnels: paris-lyon, paris-rome" in capsys.readouterr().err


def test_events_are_shown_from_the_end(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn(agentd, "events", "--limit", "2") == 0
    shown = capsys.readouterr().out.splitlines()
    assert ["ike.initiate" in shown[0], "ike.no-proposal" in shown[1], len(shown)] == [True, True, 2]
    assert vpn(agentd, "events", "--after", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["code"] == "ike.no-proposal"


def test_an_agent_that_is_away_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn_agent.main(["status", "--run", str(tmp_path)]) == 1
    assert "does not answer" in capsys.readouterr().err
    assert ike.main(["cmd=list", "--run", str(tmp_path)]) == 1
    assert ipsecstat.main(["--run", str(tmp_path)]) == 1


def test_status_shows_every_part_with_its_version_and_log_level(
    agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = (
        ComponentHealth(name="iked", healthy=True, version="1.2", pid=7, log_level="information"),
        ComponentHealth(
            name="iked.credentials",
            healthy=False,
            version="1.2",
            pid=7,
            detail="certificates: 1 own, 1 CA, 1 cannot be used",
            log_level="debug",
        ),
    )
    agentd.status = dataclasses.replace(STATUS, components=parts)
    assert vpn(agentd, "status") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "COMPONENT STATE VERSION PID LOGS DETAIL" in lines
    assert "iked healthy 1.2 7 information -" in lines
    assert "iked.credentials not healthy 1.2 7 debug certificates: 1 own, 1 CA, 1 cannot be used" in lines


def test_log_levels_are_shown_and_changed(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn(agentd, "log-level") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["PART", "LOGS", "FROM"],
        ["agentd", "information"],
        ["iked", "information"],
        ["iked.v1", "events"],
    ]
    assert vpn(agentd, "log-level", "iked.v1", "debug") == 0
    assert capsys.readouterr().out == "iked.v1 logs debug until its process ends.\n"
    assert vpn(agentd, "log-level", "--json") == 0
    assert json.loads(capsys.readouterr().out) == agentd.levels
    assert agentd.levels["iked.v1"] == "debug"


def test_a_log_level_needs_a_part_and_both_must_be_known(
    agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vpn(agentd, "log-level", "iked.v1") == 1
    assert "none, errors, events, information, debug" in capsys.readouterr().err
    for words in (("iked.v3", "debug"), ("iked.v1", "loud")):
        with pytest.raises(SystemExit):
            vpn(agentd, "log-level", *words)
    assert agentd.levels["iked.v1"] == "events"


def of_ikev1(tunnel: TunnelStatus) -> TunnelStatus:
    sa = dataclasses.replace(
        tunnel.ike_sas[0], version="v1", exchange_mode="aggressive", encryption="aes-128-cbc", integrity="hmac-sha1-96"
    )
    return dataclasses.replace(tunnel, ike_sas=(sa,))


def test_a_tunnel_of_ikev1_says_version_and_mode(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    counted = ExchangeCounters(exchange="quick-mode", requests_in=2, responses_out=2, retransmissions_in=1)
    agentd.status = dataclasses.replace(STATUS, tunnels=(of_ikev1(UP), DOWN), exchanges=(*STATUS.exchanges, counted))
    assert vpn(agentd, "status", "paris-lyon") == 0
    assert f"IKEv1 aggressive mode SA {'1' * 16}_{'2' * 16} established, initiator" in capsys.readouterr().out
    assert aix(agentd, "cmd=list", "phase=1", "numlist=1") == 0
    assert "Active  IKEv1 aggressive mode  192.0.2.1:4500" in capsys.readouterr().out
    assert aix(agentd, "cmd=list", "--json") == 0
    assert [row["ike"] for row in json.loads(capsys.readouterr().out)][:2] == ["IKEv1 aggressive mode", ""]
    assert ipsecstat.main(["--run", str(agentd.run)]) == 0
    line = "quick-mode: requests 2 in, 0 out; answers 0 in, 2 out; again 1 in, 0 out; refused 0"
    assert line in capsys.readouterr().out.splitlines()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn_agent.main(["version"]) == 0
    assert capsys.readouterr().out.strip() == VERSION


def aix(agentd: FakeAgentd, *words: str) -> int:
    return ike.main([*words, "--run", str(agentd.run)])


def test_ike_list_shows_both_phases(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert aix(agentd, "cmd=list") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "Phase Tun Id Status IKE Local Id Remote Id Name",
        "1 1 Active IKEv2 192.0.2.1:4500 192.0.2.2:4500 paris-lyon",
        "2 1 Active - 10.1.0.0/24 10.2.0.0/24 paris-lyon/net",
        "1 2 Dormant not available not available not available paris-rome",
        "2 2 Dormant - not available not available paris-rome/net",
        "2 3 Dormant - not available not available paris-rome/voice",
    ]
    assert aix(agentd, "cmd=list", "phase=2", "numlist=2,3", "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["paris-rome/net", "paris-rome/voice"]
    assert aix(agentd, "cmd=list", "phase=1", "verbose=yes") == 0
    assert "paris-rome: No IKE proposal matches" in capsys.readouterr().out


def test_ike_activate_and_remove(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert aix(agentd, "cmd=activate", "numlist=1,2") == 0
    assert aix(agentd, "cmd=remove", "name=paris-rome") == 0
    assert aix(agentd, "cmd=remove", "phase=2", "numlist=1") == 0
    assert agentd.actions == [
        ("initiate", UP.id),
        ("initiate", DOWN.id),
        ("terminate", DOWN.id),
        ("clear-ipsec", UP.id),
    ]
    assert aix(agentd, "cmd=activate") == 1
    assert aix(agentd, "cmd=activate", "numlist=99") == 1
    assert "no such tunnel" in capsys.readouterr().err


def test_ike_log_filters_by_level(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert aix(agentd, "cmd=log") == 0
    shown = capsys.readouterr().out
    assert "Negotiation started" in shown
    assert "Agent started" not in shown
    assert aix(agentd, "cmd=log", "level=errors") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert aix(agentd, "cmd=log", "level=none") == 0
    assert capsys.readouterr().out == ""


def test_ike_log_has_what_ikev1_says(
    agentd: FakeAgentd, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = ("ikev1.psk-mismatch", "wire.isakmp", "agent.started")
    said = [dataclasses.replace(EVENTS[2], sequence=number, code=code) for number, code in enumerate(codes, 1)]
    monkeypatch.setattr(f"{__name__}.EVENTS", tuple(said))
    assert aix(agentd, "cmd=log", "--json") == 0
    shown = [json.loads(line)["code"] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["ikev1.psk-mismatch", "wire.isakmp"]


@pytest.mark.parametrize("words", [(), ("cmd=explode",), ("cmd=list", "colour=red")])
def test_ike_explains_itself(agentd: FakeAgentd, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert aix(agentd, *words) == 2
    assert "usage" in capsys.readouterr().err


def counted(**counts: int) -> tuple[NamedCount, ...]:
    return tuple(NamedCount(name=name.replace("__", "."), count=count) for name, count in counts.items())


def test_ipsecstat_prints_real_numbers_or_says_there_are_none(
    agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = counted(
        packets__in=20, packets__out=10, esp__in=17, ah__in=5, esp__out=10, dropped__in=9, dropped__out=2,
        out__no_policy=1, sa__added=5, sa__expired=1, sa__deleted=3, rejected__integrity=3, esp__rejected__integrity=1,
        ah__rejected__integrity=2, rejected__late=4, rejected__replayed=1, esp__rejected__late=4,
        esp__rejected__replayed=1, rejected__selectors=1, esp__rejected__selectors=1,
    )  # fmt: skip
    counts += (NamedCount(name="out.no-policy", count=1),)
    filtered = dataclasses.replace(UP, filter=FilterCounters(admitted_ipsec=30, dropped_clear=2, dropped_leaving=6))
    agentd.status = dataclasses.replace(
        STATUS,
        ipsec_counts=counts,
        data_plane_counts=(NamedCount(name="in.link", count=4),),
        tunnels=(filtered, DOWN),
    )
    assert ipsecstat.main(["--run", str(agentd.run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["IP Security Devices:", "ipsec_v4 Available (userspace)", "ipsec_v6 Available (userspace)"]
    for line in (
        "AES-128-GCM-16 -- AES-128-GCM",
        "Total incoming packets: 31",
        "Incoming AH packets: 7",
        "Incoming ESP packets: 24",
        "Srcrte packets allowed: not available",
        "Total outgoing packets: 18",
        "Outgoing AH packets: 0",
        "Outgoing ESP packets: 10",
        "Total incoming packets dropped: 11",
        "Filter denies on input: 3",
        "AH did not compute: 2",
        "ESP did not compute: 1",
        "AH replay violation: 0",
        "ESP replay violation: 5",
        "Total outgoing packets dropped: 8",
        "Filter denies on output: 7",
        "Tunnel cache entries added: 5",
        "Tunnel cache entries expired: 1",
        "Tunnel cache entries deleted: 3",
        "integrity: 3",
        "in.link: 4",
        "ike-auth: requests 7 in, 0 out; answers 0 in, 6 out; again 0 in, 0 out; refused 1",
    ):
        assert line in lines
    assert ipsecstat.main(["--run", str(agentd.run), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["Incoming AH packets"], plain["Srcrte packets allowed"]) == (7, None)
    assert (plain["Rejected packets"]["late"], plain["Data plane counters"]) == (4, {"in.link": 4})


def test_a_kernel_that_counts_no_drops_is_not_said_to_drop_nothing(
    agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]
) -> None:
    plane = DataPlaneStatus(driver="kernel")
    agentd.status = dataclasses.replace(STATUS, data_plane=plane, ipsec_counts=counted(packets__out=3))
    assert ipsecstat.main(["--run", str(agentd.run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Total outgoing packets dropped: not available" in lines
    assert "Filter denies on output: not available" in lines
    assert "Total incoming packets dropped: 0" in lines


def test_ipsecstat_invents_nothing_while_iked_is_away(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    agentd.status = dataclasses.replace(STATUS, data_plane=DataPlaneStatus(reason="iked stopped"), exchanges=())
    assert ipsecstat.main(["--run", str(agentd.run), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert {value for name, value in plain.items() if name not in ("Rejected packets", "Data plane counters")} == {None}


def test_counters_are_shown_down_to_the_sas(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    passed, refused = Counters(bytes_in=2_048, packets_in=2), Rejections(late=3, integrity=1)
    sa = dataclasses.replace(UP.children[0].sas[0], counters=passed, rejected=refused)
    child = dataclasses.replace(UP.children[0], sas=(sa,), counters=passed, rejected=refused)
    queues = (QueueStatus(queue=0, packets=7, bytes=700, dropped_packets=1, depth_packets=2),)
    tunnel = dataclasses.replace(UP, children=(child,), rejected=refused, queues=queues, rate_kbps=800)
    agentd.status = dataclasses.replace(
        STATUS,
        tunnels=(tunnel, DOWN),
        ipsec_counts=counted(packets__in=99, bytes__in=1_024, rejected__late=8),
        data_plane_counts=(NamedCount(name="XfrmInNoStates", count=6),),
    )
    assert vpn(agentd, "counters") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["paris-lyon", "2.0", "KiB", "20", "5", "B", "10", "4"] in lines
    assert ["gateway,", "over", "all", "time", "1.0", "KiB", "99", "0", "B", "0", "8"] in lines
    assert ["XfrmInNoStates", "6"] in lines
    assert vpn(agentd, "counters", "paris-lyon") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["SA", "c0000001", "c0000002", "2.0", "KiB", "2", "0", "B", "0", "4"] in lines
    assert [line for line in lines if line and line[0] in ("integrity", "late")] == [["integrity", "1"], ["late", "3"]]
    assert ["0", "700", "B", "7", "1", "2"] in lines
    assert ["Together", "they", "send", "800", "kbit/s", "at", "most."] in lines
    assert vpn(agentd, "counters", "paris-lyon", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["children"]["net"]["sas"][0]["rejected"]["late"] == 3
    assert plain["rate_kbps"] == 800
    assert vpn(agentd, "counters", "--json") == 0
    assert json.loads(capsys.readouterr().out)["gateway"]["packets.in"] == 99


def test_captures_are_begun_by_name_listed_and_ended(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    def capture(*words: str) -> int:
        return vpn_agent.main(["capture", *words, "--run", str(agentd.run)])

    assert capture("start", "paris-lyon", "--view", "inner", "--seconds", "5") == 0
    ((capture_id, status),) = agentd.captures.items()
    assert capsys.readouterr().out == f"Capture {capture_id} runs.\n"
    assert (status.tunnel_id, status.view) == (UP.id, "inner")
    assert capture("list") == 0
    assert capsys.readouterr().out == "There is no capture.\n"
    agentd.status = dataclasses.replace(STATUS, captures=(status,))
    assert capture("list") == 0
    assert f"{capture_id}  paris-lyon  inner  running" in capsys.readouterr().out
    assert capture("stop", capture_id) == 0
    assert capsys.readouterr().out == "0 packets: stopped.\n"
    assert capture("stop", "nothing") == 1
    assert "no such capture" in capsys.readouterr().err
    assert capture("start", "paris-lyon", "--seconds", "0") == 1
    assert "--seconds: must be between 1 and 600, not 0" in capsys.readouterr().err


def test_a_trace_is_switched_and_shown(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    def trace(*words: str) -> int:
        return vpn_agent.main(["trace", *words, "--run", str(agentd.run)])

    assert trace("on", "tunnel", "error", "tunnel", "--seconds", "5", "-6") == 0
    shown = capsys.readouterr()
    assert agentd.traced == [
        {"action": "on", "categories": ["tunnel", "error"], "seconds": 5, "octets": 1_048_576, "version": 6}
    ]
    assert "Warning" not in shown.err
    assert "espd does not trace: away" in shown.out
    assert trace("on", "crypto-information") == 0
    assert "slow the gateway down" in capsys.readouterr().err
    assert trace("show") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(".250000  iked    tunnel                   an SA")
    assert lines[1:] == ["-- iked: tracing tunnel", "-- espd: away"]
    assert trace("off") == 0
    assert agentd.traced[-1] == {"action": "off"}
    with pytest.raises(SystemExit):
        trace("on", "everything")
