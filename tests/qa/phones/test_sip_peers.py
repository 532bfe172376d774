"""The SIP phone and programs that owe nothing to it: the telephone baresip, SIPp, a gateway process, tshark."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.baresip import LEVEL, SIP_PORT, Baresip, Sound, baresip, needs_baresip, steady
from fakes.served import free_port
from fakes.sip_gateway import NUMBER, SIPS_PORT, loopback, sip_gateway
from fakes.sipp import Place, Scenario, needs_sipp, sipp
from fakes.tls import certificates

from offhook.codecs.pcm import tone
from offhook.qa.activity import RATE, Samples, speech_spans
from offhook.qa.phones.base import CallerLine, CallLog, CallOrder, Mouth
from offhook.qa.phones.capture import write_pcap
from offhook.qa.phones.sip import SipPhone
from offhook.qa.scenario.model import Media, Target


class Tone(Mouth):
    """Hums from the first frame on."""

    saying = True

    def __init__(self, hertz: float = 700.0, seconds: float = 20.0) -> None:
        self._left = np.frombuffer(tone(hertz, seconds, RATE, LEVEL), np.int16)

    def frame(self) -> Samples | None:
        piece, self._left = self._left[:160], self._left[160:]
        return piece if len(piece) == 160 else None


class Doing:
    """An operator that does things at frames, and hangs up at the last."""

    def __init__(self, frames: int, *, mouth: Mouth | None = None, **at: Callable[[CallerLine], None]) -> None:
        self._frames, self._mouth = frames, mouth
        self._at = {int(name.removeprefix("at")): what for name, what in at.items()}
        self._count = 0

    def frame(self, line: CallerLine) -> None:
        self._count += 1
        if self._mouth is not None:
            line.mouth = self._mouth
        if self._count in self._at:
            self._at[self._count](line)
        if self._count == self._frames:
            line.hang_up()

    def ended(self) -> None:
        pass


async def call(to: str, operator: Doing, *, media: Media | None = None, **phone: Any) -> CallLog:
    target = Target(to=to)
    async with SipPhone(target, **phone) as way:
        return await way.carry(CallOrder(target, media or Media(), "call-1", timeout=20), operator)


def heard(log: CallLog) -> Sound:
    """The middle of what came from the other side."""
    return steady(Sound(log.agent / 32768, RATE))


def place(folder: Path, which: int = 1) -> Place:
    return Place(folder, loopback(free_port(), which), {"udp": 5060})


async def done(telephone: Baresip) -> None:
    await telephone.until("CALL_CLOSED")
    await asyncio.sleep(0.05)


@needs_baresip
@pytest.mark.parametrize("codec", ["PCMU/8000/1", "PCMA/8000/1", "G722/16000/1", "opus/48000/2"])
async def test_both_hear_each_other(tmp_path: Path, codec: str) -> None:
    host, name = loopback(free_port(), 2), codec.partition("/")[0]
    async with baresip(tmp_path / "phone", host, codec=codec, account="answermode=auto") as telephone:
        media = Media.model_validate({"codecs": [name]})
        log = await call(f"sip:alice@{host}:{SIP_PORT}", Doing(70, mouth=Tone()), media=media)
        await done(telephone)
        hertz, level, purity = steady(telephone.heard).tone()
    assert (round(hertz, -1), log.codec) == (700, name)
    assert level == pytest.approx(LEVEL, abs=1)
    assert purity > 20
    hertz, level, purity = heard(log).tone()
    assert round(hertz, -1) == 440
    assert level == pytest.approx(LEVEL, abs=1)
    assert purity > 20
    assert not log.faults


@needs_baresip
async def test_keys_and_hold_and_encryption_with_a_telephone(tmp_path: Path) -> None:
    host = loopback(free_port(), 2)
    account = "mediaenc=srtp-mand;answermode=auto"
    operator = Doing(
        120,
        at10=lambda line: line.press("5#", "rfc4733", 0.1, 0.1),
        at40=lambda line: line.hold(),
        at70=lambda line: line.resume(),
    )
    async with baresip(tmp_path / "phone", host, account=account) as telephone:
        log = await call(f"sip:alice@{host}:{SIP_PORT}", operator, media=Media(srtp=True))
        await done(telephone)
        assert [event["param"] for event in telephone.events if event["type"] == "CALL_DTMF_START"] == ["5", "#"]
    sound = Sound(log.agent / 32768, RATE)
    assert sound.part(0.3, 0.7).level() == pytest.approx(LEVEL, abs=1)
    assert sound.part(1.1, 1.35).level() < -60, "it says nothing while it is held"
    assert sound.part(1.8, 2.3).level() == pytest.approx(LEVEL, abs=1)
    # baresip takes new keys with every re-INVITE: what it sends just then, protected or not yet, nobody can read.
    changing = ("SRTP:", "RTCP: unable to perform desired validation")
    assert not [fault for fault in log.faults if not any(text in fault for text in changing)]


@needs_baresip
async def test_a_telephone_holds_us_presses_keys_transfers_us_and_hangs_up(tmp_path: Path) -> None:
    host = loopback(free_port(), 2)
    async with baresip(tmp_path / "phone", host, account="answermode=auto") as telephone:
        carried = asyncio.create_task(call(f"sip:alice@{host}:{SIP_PORT}", Doing(500)))
        await telephone.until("CALL_ESTABLISHED")
        await asyncio.sleep(0.3)
        await telephone.order("hold")
        await asyncio.sleep(0.3)
        await telephone.order("resume")
        await asyncio.sleep(0.3)
        await telephone.order("sndcode", "7")
        await asyncio.sleep(0.5)
        await telephone.order("transfer", "sip:bob@127.0.0.9")
        log = await carried
    found = [(event.kind, event.detail) for event in log.events if event.kind not in ("ringing", "answered", "ended")]
    assert found == [("held", ""), ("resumed", ""), ("dtmf", "7"), ("transfer", "sip:bob@127.0.0.9")]
    assert log.ended_by == "agent"


@needs_sipp
async def test_the_ladder_of_a_call_that_sipp_makes_hard(tmp_path: Path) -> None:
    there = place(tmp_path)
    scenario = Scenario().wait("INVITE").reply_invite(180).pause(700)
    scenario.pick_up().wait("BYE").reply(200)
    async with sipp(there, scenario, host=there.host, port=SIP_PORT, number="uas") as agent:
        await agent.listening()
        log = await call(f"sip:agent@{there.host}:{SIP_PORT}", Doing(10))
        await agent.succeeded()
    assert [rung.title for rung in log.ladder if not rung.again] == [
        *("INVITE", "180 Whatever", "200 Whatever", "ACK", "BYE", "200 Whatever (BYE)")
    ]
    assert log.setup_ms is not None
    assert 700 < log.setup_ms < 900
    assert log.pdd_ms is not None
    assert log.pdd_ms < 100


async def test_an_echo_over_a_gateway_and_what_tshark_reads_of_it(tmp_path: Path) -> None:
    speech = Tone(seconds=0.4)
    async with sip_gateway(tmp_path) as gateway:
        to = f"sip:{NUMBER}@{gateway.host}:{gateway.udp}"
        log = await call(to, Doing(70, at10=lambda line: setattr(line, "mouth", speech)))
        (row,) = await gateway.over()
        assert (row["status"], row["ended_by"], row["faults"]) == ("completed", "caller", 0)
    (said,), (back,) = speech_spans(log.caller), speech_spans(log.agent)
    assert 0 < back.start - said.start < 0.15
    assert back.seconds == pytest.approx(said.seconds, abs=0.03)
    assert not log.faults
    path = tmp_path / "call.pcap"
    assert write_pcap(path, log.packets) == len(log.packets)
    if shutil.which("tshark") is None:
        pytest.skip("needs `apt-get install tshark` for the rest")
    table = subprocess.run(
        ["tshark", "-q", "-r", path, "-z", "rtp,streams"], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in table.stdout.splitlines() if "g711U" in line]
    assert len(rows) == 2, table.stdout
    methods = ["tshark", "-r", path, "-Y", "sip", "-T", "fields", "-e", "sip.Method", "-e", "sip.Status-Code"]
    told = subprocess.run(methods, capture_output=True, text=True, check=True).stdout.split()
    assert [word for word in told if word in ("INVITE", "ACK", "BYE")] == ["INVITE", "ACK", "BYE"]
    assert told[-1] == "200"


async def test_a_call_by_tls_with_encrypted_audio(tmp_path: Path) -> None:
    port = free_port()
    host = loopback(port, 1)
    ours = certificates(tmp_path / "ours", host)
    tls = {"cert_file": str(ours / f"{host}.pem")}
    trunk = {"srtp": "required"}
    to = f"sip:{NUMBER}@{host}:{SIPS_PORT};transport=tls"
    async with sip_gateway(tmp_path, trunk=trunk, transports=("tls",), sip={"tls": tls}, http_port=port) as gateway:
        operator = Doing(60, mouth=Tone())
        log = await call(to, operator, media=Media(srtp=True), ca_file=ours / "ca.pem")
        assert heard(log).tone()[0] == pytest.approx(700, abs=3)
        (row,) = await gateway.over()
        assert (row["status"], row["faults"]) == ("completed", 0)
    assert log.answered
    assert not log.faults
