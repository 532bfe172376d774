"""The reference on real sockets, called by the dialer's own phones and by strangers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offhook.qa.activity import Samples
from offhook.qa.phones.base import CallerLine, CallLog, CallOrder, Mouth
from offhook.qa.phones.targets import open_phone
from offhook.qa.reference import reference
from offhook.qa.reference.behaviour import Behaviour, behaviour
from offhook.qa.reference.rtp import Anchor
from offhook.qa.reference.server import ReferenceServer, main
from offhook.qa.reference.truth import TruthLog, read_truth
from offhook.qa.scenario.model import Media, Target
from offhook.qa.web import WebClient

QUICK = Behaviour(ring=0.0, greeting=None)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ReferenceServer]:
    async with ReferenceServer(base=QUICK, truth=tmp_path / "truth.jsonl", voice="made-up") as found:
        yield found


class Talker(Mouth):
    """Says one second from 0.1 s on."""

    def __init__(self) -> None:
        self.frames = 0

    def frame(self) -> Samples | None:
        self.frames += 1
        if not 5 < self.frames <= 55:
            return None
        return np.where(np.arange(160) // 20 % 2, 5000, -5000).astype(np.int16)


class Person:
    """Does one thing at each of some moments, and hangs up at the end."""

    def __init__(self, seconds: float, *, mouth: Mouth | None = None, **doings: Any) -> None:
        self._end, self._mouth = seconds, mouth
        self._doings = sorted((float(at[1:]) / 100, what) for at, what in doings.items())

    def frame(self, line: CallerLine) -> None:
        if self._mouth is not None:
            line.mouth = self._mouth
        while self._doings and self._doings[0][0] <= line.seconds:
            self._doings.pop(0)[1](line)
        if line.seconds >= self._end:
            line.hang_up()

    def ended(self) -> None:
        pass


async def called(server: ReferenceServer, to: str, person: Person, **media: Any) -> CallLog:
    target = Target.model_validate({"to": to})
    async with open_phone(target, auth_token=server.auth_token) as phone:
        return await phone.carry(CallOrder(target, Media.model_validate(media), "call-1", timeout=10), person)


@pytest.mark.parametrize("way", ["sip", "twilio"])
async def test_answers_a_caller(server: ReferenceServer, way: str, tmp_path: Path) -> None:
    to = {"sip": server.sip_target, "twilio": server.twilio_target}[way]
    log = await called(server, to, Person(2.5, mouth=Talker()))
    assert log.answered
    (spoke,) = [entry for entry in server.log.entries if entry["what"] == "spoke"]
    assert spoke["at"] - spoke["after"] == pytest.approx(0.7, abs=1e-6)
    assert spoke["after"] == pytest.approx(1.1, abs=0.1)
    voiced = np.flatnonzero(np.abs(log.agent.astype(np.int32)) > 300)
    assert voiced[0] / 8000 == pytest.approx(spoke["at"], abs=0.1)
    written = read_truth(tmp_path / "truth.jsonl")
    assert [entry["what"] for entry in written][:2] == ["call", "answered"]


async def test_hears_keys_and_follows_hold_and_codec(server: ReferenceServer) -> None:
    person = Person(
        1.6,
        t20=lambda line: line.press("1", "rfc4733", 0.1, 0.1),
        t50=lambda line: line.press("2", "info", 0.1, 0.1),
        t70=lambda line: line.hold(),
        t100=lambda line: line.resume(),
        t125=lambda line: line.change_codec("PCMA"),
    )
    log = await called(server, server.sip_target, person, codecs=["PCMU", "PCMA"])
    assert log.faults == []
    truth = server.log.entries
    assert [(entry["key"], entry["way"]) for entry in truth if entry["what"] == "key"] == [
        ("1", "rfc4733"),
        ("2", "info"),
    ]
    changes = [entry["what"] for entry in truth if entry["what"] in ("held", "resumed", "codec")]
    assert changes == ["held", "resumed", "codec"]
    assert truth[-1]["what"] == "ended"
    assert truth[-1]["by"] == "caller"


@pytest.mark.parametrize("codec", ["G722", "PCMA"])
async def test_speaks_other_codecs(server: ReferenceServer, codec: str) -> None:
    log = await called(server, server.sip_target, Person(2.2, mouth=Talker()), codecs=[codec])
    assert log.codec == codec
    (spoke,) = [entry for entry in server.log.entries if entry["what"] == "spoke"]
    assert spoke["after"] == pytest.approx(1.1, abs=0.1)


@pytest.mark.parametrize("way", ["sip", "twilio"])
async def test_transfers_whoever_calls_that_name(server: ReferenceServer, way: str) -> None:
    to = server.sip_target.replace("reference@", "transfer@")
    if way == "twilio":
        to = server.twilio_target.replace("/voice", "/transfer")
    log = await called(server, to, Person(8, mouth=Talker()))
    assert "+15550123" in next(event.detail for event in log.events if event.kind == "transfer")
    assert [entry["to"] for entry in server.log.entries if entry["what"] == "transfer"] == ["+15550123"]


async def test_takes_no_call_by_fault(server: ReferenceServer) -> None:
    log = await called(server, server.sip_target.replace("reference@", "busy@"), Person(1))
    assert (log.answered, log.status) == (False, 486)


async def test_takes_nothing_that_is_not_signed(server: ReferenceServer) -> None:
    web = WebClient()
    url = server.twilio_target.removeprefix("twilio+")
    try:
        refused = await web.request("POST", url, {"X-Twilio-Signature": "bm8="}, b"CallSid=CA1")
        trusting = await web.request("POST", url.replace("voice", "trusting"), {}, b"CallSid=CA1")
    finally:
        await web.close()
    assert refused.status == 403
    assert (trusting.status, b"<Stream url=" in trusting.body) == (200, True)
    assert server.log.entries[0]["status"] == 403


@pytest.mark.parametrize(("tamper", "status"), [("wrong_signature", 403), ("replayed_token", 403)])
async def test_withstands_an_attacker(server: ReferenceServer, tamper: str, status: int) -> None:
    target = Target.model_validate({"to": server.twilio_target, "tamper": tamper})
    async with open_phone(target, auth_token=server.auth_token) as phone:
        log = await phone.carry(CallOrder(target, Media(), "call-1", timeout=10), Person(1))
    assert log.status == status


async def test_runs_in_a_process_of_its_own() -> None:
    async with reference("late-answer", voice="made-up", options=["--greeting", "0.1"]) as ref:
        assert ref.sip_target.startswith("sip:reference@127.0.0.1:")
        assert ref.target("sip", "hole").startswith("sip:hole@127.0.0.1:")
        assert ref.target("twilio", "hole").endswith("/twilio/hole")
        assert ref.truth() == []


async def test_says_why_it_does_not_start() -> None:
    with pytest.raises(RuntimeError, match="there is no fault 'absent'"):
        async with reference("absent", voice="made-up"):
            pass


def test_wants_addresses_with_a_port(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sip", "5060"])
    assert "write 127.0.0.1:5070" in capsys.readouterr().err


def test_puts_a_stream_on_the_clock_by_its_fastest_packet() -> None:
    anchor = Anchor()
    assert anchor.place(0.0, 0.02, 1.035) == pytest.approx(1.015)
    assert anchor.place(0.02, 0.02, 1.040) == pytest.approx(1.020)  # a faster one
    assert anchor.place(0.04, 0.02, 1.150) == pytest.approx(1.040)  # a late one
    for number in range(3, 8):
        placed = anchor.place(number * 0.02, 0.02, number * 0.02 + 2.0)
    assert placed == pytest.approx(7 * 0.02 + 1.98)  # another time base
    anchor.reset()
    assert anchor.place(9.0, 0.02, 5.0) == pytest.approx(4.98)


def test_keeps_the_truth_in_lines(tmp_path: Path) -> None:
    file = tmp_path / "truth.jsonl"
    assert read_truth(file) == []
    log = TruthLog(file)
    log.note("c", "key", 1.23456789, 100.5, key="1")
    log.close()
    with file.open("a") as more:
        more.write('{"half')
    assert read_truth(file) == [{"call": "c", "what": "key", "at": 1.234568, "wall": 100.5, "key": "1"}]
    assert json.loads(file.read_text().splitlines()[0])["key"] == "1"


def test_has_a_fault_for_whom_is_called() -> None:
    from offhook.qa.reference.behaviour import behaviour_of

    assert behaviour_of("silent", Behaviour()) == behaviour("silent")
    assert behaviour_of("cut-tail+goodbye", Behaviour()) == behaviour("cut-tail", "goodbye")
    assert behaviour_of("clinic", QUICK) == behaviour_of("+15550100", QUICK) == QUICK
