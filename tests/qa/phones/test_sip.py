"""Calls by SIP against an agent within this process, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fakes.sip_agent import SipAgent, hang_up, sip_agent

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.providers.rtp.media import G722, OPUS, PCMU
from offhook.providers.rtp.packet import RtpPacket
from offhook.qa.activity import RATE, Samples, speech_spans
from offhook.qa.phones.base import CallerLine, CallLog, CallOrder, Mouth, Unable, Unreachable
from offhook.qa.phones.ladder import call_id_of
from offhook.qa.phones.sip import SipPhone
from offhook.qa.scenario.model import Media, Network, Target


def noise(seconds: float, seed: int = 0) -> Samples:
    return np.asarray(np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)), np.int16)


class Speech(Mouth):
    """Says some samples, from the next frame on."""

    def __init__(self, samples: Samples) -> None:
        self._left = samples

    def frame(self) -> Samples | None:
        piece, self._left = self._left[:160], self._left[160:]
        self.saying = bool(len(self._left))
        return np.concatenate([piece, np.zeros(160 - len(piece), np.int16)]) if len(piece) else None


class Doing:
    """An operator that does things at frames, and hangs up at the last."""

    def __init__(self, frames: int = 10**9, **at: Callable[[CallerLine], None]) -> None:
        self._frames = frames
        self._at = {int(name.removeprefix("at")): what for name, what in at.items()}
        self.seen: list[str] = []
        self.overs = 0
        self.count = 0

    def frame(self, line: CallerLine) -> None:
        self.count += 1
        self.seen += [event.kind for event in line.events]
        line.events.clear()
        if self.count in self._at:
            self._at[self.count](line)
        if self.count == self._frames:
            line.hang_up()

    def ended(self) -> None:
        self.overs += 1


def hang_up_soon(agent: SipAgent) -> None:
    """Once the last packet was heard to its end."""
    agent._loop.call_later(0.06, hang_up, agent)


def order(agent: SipAgent | str, **fields: Any) -> CallOrder:
    media = fields.pop("media", Media())
    target = Target(to=agent if isinstance(agent, str) else agent.uri, **fields.pop("target", {}))
    return CallOrder(target, media, "call-1", **fields)


async def call(
    agent: SipAgent | str, operator: Doing, *, phone: dict[str, Any] | None = None, **fields: Any
) -> CallLog:
    placed = order(agent, **fields)
    async with SipPhone(placed.target, **(phone or {})) as way:
        return await way.carry(placed, operator)


def kinds(log: CallLog) -> list[str]:
    return [event.kind for event in log.events]


async def test_a_call_from_the_ring_to_the_callers_goodbye() -> None:
    async with sip_agent(answer_after=0.1) as agent:
        operator = Doing(15)
        log = await call(agent, operator, target={"headers": {"X-Scenario": "one"}, "from": "+15550123"})
    assert (log.status, log.answered, log.ended_by, log.codec) == (200, True, "caller", "PCMU")
    assert log.pdd_ms is not None
    assert log.setup_ms is not None
    assert 90 < log.setup_ms < 200 > log.pdd_ms
    assert 0 <= log.answered_at < 0.02
    assert log.seconds == pytest.approx(0.3)
    assert len(log.caller) == len(log.agent) == 15 * 160
    assert len(log.left_at) == len(log.lateness) == 15 == log.due
    assert operator.seen[:2] == ["ringing", "answered"]
    assert operator.overs == 1
    assert kinds(log) == ["ringing", "answered", "ended"]
    assert log.events[0].at < 0
    assert [(rung.out, rung.title) for rung in log.ladder if not rung.again] == [
        (True, "INVITE"),
        (False, "100 Trying"),
        (False, "180 Ringing"),
        (False, "200 OK"),
        (True, "ACK"),
        (True, "BYE"),
        (False, "200 OK (BYE)"),
    ]
    assert not log.faults
    assert agent.ended == "caller"
    invite = agent.invites[0]
    assert invite.headers.get("X-Scenario") == "one"
    assert invite.from_.uri.user == "+15550123"


async def test_what_is_said_leaves_frame_by_frame_and_on_time() -> None:
    speech = noise(0.2)
    async with sip_agent() as agent:
        log = await call(agent, Doing(30, at5=lambda line: setattr(line, "mouth", Speech(speech))))
        packets = [came.packet for came in agent.came]
        assert agent.rtcp
    said = pcm_to_ulaw(log.caller.tobytes())
    assert b"".join(packet.payload for packet in packets) == said
    assert np.array_equal(log.caller[5 * 160 : 15 * 160], speech)
    assert [packet.sequence - packets[0].sequence & 0xFFFF for packet in packets] == list(range(30))
    assert {(b.timestamp - a.timestamp) & 0xFFFFFFFF for a, b in pairwise(packets)} == {160}
    assert [packet.marker for packet in packets] == [True] + [False] * 29
    steps = np.diff([came.at for came in agent.came])
    assert abs(float(np.mean(steps)) - 0.02) < 0.002
    assert np.allclose(np.array(log.left_at) - np.array(log.lateness), 0.02 * np.arange(1, 31), atol=0.001)


async def test_the_agents_speech_lies_where_it_came() -> None:
    said = noise(0.4)
    async with sip_agent(on_answer=lambda agent: agent.say(said, after=0.2, then=hang_up_soon)) as agent:
        log = await call(agent, Doing())
        sent = agent.sent_at[0] + time.time() - time.monotonic()
    assert (log.ended_by, agent.ended) == ("agent", "callee")
    assert log.setup_ms is not None
    assert log.arrivals is not None
    began = log.began + log.setup_ms / 1000 - log.answered_at
    assert log.arrivals.at[0] == pytest.approx(sent - began, abs=0.008)
    (span,) = speech_spans(log.agent)
    assert span.start == pytest.approx(log.arrivals.at[0], abs=0.011)
    assert int(np.flatnonzero(log.agent)[0]) == pytest.approx(log.arrivals.at[0] * RATE, abs=2)
    assert span.seconds == pytest.approx(0.4, abs=0.021)
    first = round(span.start * RATE)
    expected = np.frombuffer(ulaw_to_pcm(pcm_to_ulaw(said.tobytes())), np.int16)
    lag = max(range(-200, 200), key=lambda lag: float(log.agent[first + lag :][:800] @ expected[:800].astype(float)))
    assert np.array_equal(log.agent[first + lag :][:2400], expected[:2400])
    assert len(log.arrivals.at) == 20
    assert (log.arrivals.ticks, log.arrivals.clock) == (160, 8000)
    assert not log.dry


async def test_the_operator_hears_what_came_before_its_frame() -> None:
    heard: list[float] = []

    def look(line: CallerLine) -> None:
        heard.append(line.activity.speaking_since or -1.0)

    async with sip_agent(on_answer=lambda agent: agent.say(noise(0.5), after=0.05)) as agent:
        log = await call(agent, Doing(15, at14=look))
    assert heard[0] == pytest.approx(speech_spans(log.agent)[0].start, abs=0.011)


@pytest.mark.parametrize("status", [302, 404, 486, 503, 603])
async def test_a_refusal(status: int) -> None:
    async with sip_agent(refuse_with=status) as agent:
        operator = Doing()
        log = await call(agent, operator)
    assert (log.status, log.answered, log.ended_by) == (status, False, "agent")
    assert kinds(log) == ["refused"]
    assert operator.overs == 1
    assert operator.count == 0
    assert [rung.title for rung in log.ladder][-1] == "ACK"


async def test_nobody_answers_in_time() -> None:
    async with sip_agent(answer_after=-1) as agent:
        log = await call(agent, Doing(), timeout=0.3)
        assert agent.ended == "cancelled"
    assert (log.status, log.answered, log.ended_by) == (487, False, "timeout")
    assert [rung.title for rung in log.ladder if rung.out] == ["INVITE", "CANCEL", "ACK"]


async def test_a_call_that_takes_too_long() -> None:
    async with sip_agent() as agent:
        log = await call(agent, Doing(), timeout=0.4)
    assert log.ended_by == "timeout"
    assert "0.4 s" in log.ended_how
    assert log.ladder[-1].title == "200 OK (BYE)"


async def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offhook.qa.phones.sip_call.SIGN_OF_LIFE", 0.2)
    operator = Doing()
    async with sip_agent(deaf=True) as agent:
        with pytest.raises(Unreachable, match=r"no answer to the INVITE within 0.2 s"):
            await call(agent, operator)
        with pytest.raises(Unreachable, match=r"no answer to the INVITE within 0.1 s"):
            await call(agent, operator, timeout=0.1)
    assert operator.overs == 2
    with pytest.raises(Unreachable, match="connection refused"):
        await call("sip:agent@127.0.0.1:9;transport=tcp", Doing())
    with pytest.raises(Unreachable, match="leads nowhere"):
        await call("sip:agent@nowhere.invalid:5060", Doing())


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
async def test_names_and_ipv6(host: str) -> None:
    async with sip_agent(host="::1" if host == "[::1]" else "127.0.0.1") as agent:
        log = await call(agent.uri.replace("127.0.0.1", host), Doing(5))
        assert len(agent.came) == 5
    assert log.answered
    assert not log.faults


async def test_a_connection_that_is_lost_before_the_answer() -> None:
    async def shut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    server = await asyncio.start_server(shut, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unreachable, match="refused or lost"):
        await call(f"sip:agent@127.0.0.1:{port};transport=tcp", Doing())
    server.close()
    await server.wait_closed()


async def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(Unable, match="no SIP address"):
        SipPhone(Target(to="tel:+15550100"))
    with pytest.raises(Unable, match=r"target.to"):
        SipPhone(Target(to="nonsense"))
    async with sip_agent() as agent:
        with pytest.raises(Unable, match="tamper"):
            await call(agent, Doing(), target={"tamper": "wrong_signature"})
        with pytest.raises(Unable, match=r"target.headers"):
            await call(agent, Doing(), target={"headers": {"X-Bad": "a\r\nb"}})
        with pytest.raises(Unable, match=r"target.from"):
            await call(agent, Doing(), target={"from": "a b"})


async def test_a_password() -> None:
    async with sip_agent(challenge=("qa", "secret")) as agent:
        log = await call(agent, Doing(3), phone={"username": "qa", "password": "secret"})
        assert log.answered
        assert len(agent.invites) == 2
        assert 'username="qa"' in (agent.invites[1].headers.get("Authorization") or "")
        told = next(rung.text for rung in log.ladder if "Authorization" in rung.text)
        assert 'response="xxxx' in told
        refused = await call(agent, Doing())
    assert (refused.status, refused.answered) == (401, False)


async def test_tcp() -> None:
    async with sip_agent("tcp", on_answer=lambda agent: agent.say(noise(0.1), then=hang_up)) as agent:
        log = await call(agent, Doing())
    assert (log.answered, log.ended_by) == (True, "agent")


@pytest.mark.parametrize(("codec", "clock"), [(G722, 8000), (OPUS, 48000)])
async def test_wide_codecs(codec: Any, clock: int) -> None:
    speech = noise(0.1)
    async with sip_agent(codecs=[codec]) as agent:
        media = Media(codecs=[codec.name, "PCMU"])
        log = await call(agent, Doing(12, at2=lambda line: setattr(line, "mouth", Speech(speech))), media=media)
        assert log.codec == codec.name
        assert len(agent.came) == 12
        steps = {b.packet.timestamp - a.packet.timestamp for a, b in pairwise(agent.came)}
    assert steps & {clock // 50}
    assert log.arrivals is not None
    assert log.arrivals.clock == clock


async def test_encrypted_audio() -> None:
    speech, said = noise(0.2), noise(0.2, 1)
    async with sip_agent(srtp=True, on_answer=lambda agent: agent.say(said)) as agent:
        log = await call(
            agent, Doing(20, at3=lambda line: setattr(line, "mouth", Speech(speech))), media=Media(srtp=True)
        )
        assert agent.plans[0].srtp_send is not None
        assert b"".join(came.packet.payload for came in agent.came) == pcm_to_ulaw(log.caller.tobytes())
    assert speech_spans(log.agent)[0].seconds == pytest.approx(0.2, abs=0.021)
    assert not log.faults
    assert "inline:xxxx" in log.ladder[0].text


async def test_an_agent_without_encryption_is_refused_it() -> None:
    async with sip_agent(refuse_with=488) as agent:
        log = await call(agent, Doing(), media=Media(srtp=True))
        assert "RTP/SAVP" in agent.invites[0].body.decode()
    assert log.status == 488


@pytest.mark.parametrize("ptime", [10, 40])
async def test_packets_of_another_length(ptime: int) -> None:
    speech = noise(0.1)
    async with sip_agent() as agent:
        agent_media = Media(ptime=ptime)  # type: ignore[arg-type]
        log = await call(agent, Doing(10, at1=lambda line: setattr(line, "mouth", Speech(speech))), media=agent_media)
        sizes = {len(came.packet.payload) for came in agent.came}
        assert b"".join(came.packet.payload for came in agent.came) == pcm_to_ulaw(log.caller.tobytes())
    assert sizes == {ptime * 8}


# --- keys


async def test_keys_by_telephone_event() -> None:
    async with sip_agent() as agent:
        log = await call(agent, Doing(40, at3=lambda line: line.press("5#", "rfc4733", 0.1, 0.06)))
        kind = agent.plans[0].dtmf_receive_types
        events = [came.packet for came in agent.came if came.packet.payload_type in kind]
    assert [key for _, key in log.pressed] == ["5", "#"]
    assert [at for at, _ in log.pressed] == pytest.approx([0.08, 0.08 + 0.16])
    assert [packet.payload[0] for packet in events if packet.marker] == [5, 11]
    ends = [packet for packet in events if packet.payload[1] & 0x80]
    assert len(ends) == 6
    assert {int.from_bytes(packet.payload[2:4], "big") for packet in ends} == {800}


async def test_keys_by_info() -> None:
    async with sip_agent() as agent:
        log = await call(agent, Doing(20, at3=lambda line: line.press("42", "info", 0.1, 0.1)))
    assert agent.infos == [b"Signal=4\r\nDuration=100\r\n", b"Signal=2\r\nDuration=100\r\n"]
    assert [key for _, key in log.pressed] == ["4", "2"]
    assert log.pressed[1][0] - log.pressed[0][0] == pytest.approx(0.2)


async def test_what_no_way_can_press() -> None:
    said: list[str] = []

    def press(line: CallerLine) -> None:
        assert "rfc4733" not in line.abilities
        for digits, way in (("1", "rfc4733"), ("1", "inband"), ("x", "info")):
            with pytest.raises(Unable) as error:
                line.press(digits, way, 0.1, 0.1)  # type: ignore[arg-type]
            said.append(str(error.value))

    async with sip_agent(telephone_event=False) as agent:
        await call(agent, Doing(5, at3=press))
    assert "telephone-events" in said[0]
    assert "mouth" in said[1]
    assert "'x'" in said[2]


async def test_keys_of_the_agent() -> None:
    def press(agent: SipAgent) -> None:
        kind = agent.plans[0].dtmf_send_type
        assert kind is not None
        for flags in (0, 0x80, 0x80, 0x80):
            agent.send(bytes([7, flags | 10, 3, 32]), 0, kind=kind, marker=not flags)
        agent.do(lambda session, now: session.info(b"Signal=9\r\nDuration=160\r\n", "application/dtmf-relay", now))

    async with sip_agent(on_answer=press) as agent:
        log = await call(agent, Doing(10))
    assert [event.detail for event in log.events if event.kind == "dtmf"] == ["7", "9"]


# --- changes of the audio


async def test_we_hold_and_come_back() -> None:
    operator = Doing(30, at5=lambda line: line.hold(), at20=lambda line: line.resume())
    async with sip_agent() as agent:
        log = await call(agent, operator)
    assert [plan.direction for plan in agent.plans] == ["sendrecv", "recvonly", "sendrecv"]
    assert [rung.title for rung in log.ladder if rung.out].count("INVITE") == 3
    assert not log.faults


async def test_the_agent_holds_us() -> None:
    def hold(agent: SipAgent) -> None:
        hold = agent.media.offer
        agent._loop.call_later(0.1, agent.do, lambda session, now: session.offer(hold(agent.local, hold=True), now))
        agent._loop.call_later(0.3, agent.do, lambda session, now: session.offer(hold(agent.local), now))

    async with sip_agent(on_answer=hold) as agent:
        operator = Doing(25)
        log = await call(agent, operator)
        assert 10 < len(agent.came) < 22
        stamps = [came.packet.timestamp for came in agent.came]
    assert kinds(log) == ["ringing", "answered", "held", "resumed", "ended"]
    assert (stamps[-1] - stamps[0] & 0xFFFFFFFF) == 24 * 160


async def test_another_codec_in_mid_call() -> None:
    operator = Doing(20, at5=lambda line: line.change_codec("PCMA"))
    async with sip_agent() as agent:
        log = await call(agent, operator)
        assert [plan.codec.name for plan in agent.plans] == ["PCMU", "PCMA"]
        assert {came.packet.payload_type for came in agent.came} == {0, 8}
    assert log.codec == "PCMA"
    async with sip_agent(codecs=[PCMU]) as agent:
        with pytest.raises(Unable, match="no codec"):
            await call(agent, Doing(20, at5=lambda line: line.change_codec("GSM")))


# --- transfers and ends


async def test_the_agent_transfers_us_and_leaves() -> None:
    def refer(agent: SipAgent) -> None:
        agent.do(
            lambda session, now: session.refer(
                "sip:+15550177@pbx.example.com?X-Account=12", headers=[("X-Reason", "billing")], now=now
            )
        )

    def leave(agent: SipAgent, status: int) -> None:
        if status == 200:
            hang_up(agent)

    async with sip_agent(on_answer=refer, on_referred=leave) as agent:
        log = await call(agent, Doing())
        assert agent.reports[-1] == 200
    (moved,) = [event for event in log.events if event.kind == "transfer"]
    assert moved.detail == "sip:+15550177@pbx.example.com"
    assert moved.headers["X-Reason"] == "billing"
    assert moved.headers["X-Account"] == "12"
    assert log.ended_by == "agent"
    assert not log.faults


async def test_an_agent_that_transfers_us_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offhook.qa.phones.sip_call.AFTER_TRANSFER", 0.1)

    def refer(agent: SipAgent) -> None:
        agent.do(lambda session, now: session.refer("sip:+15550177@pbx.example.com", now=now))

    async with sip_agent(on_answer=refer) as agent:
        log = await call(agent, Doing())
    assert (log.ended_by, log.ended_how) == ("caller", "transferred")
    assert "did not hang up" in log.faults[0]


async def test_an_operator_that_raises_ends_its_call_alone() -> None:
    def crash(line: CallerLine) -> None:
        raise ZeroDivisionError("the operator's fault")

    async with sip_agent() as agent:
        with pytest.raises(ZeroDivisionError, match="the operator's fault"):
            await call(agent, Doing(at3=crash))
        assert agent.ended == "caller"


async def test_the_network_between() -> None:
    network = Network.model_validate({"delay": "60ms", "loss": "20%", "seed": 3})
    async with sip_agent(on_answer=lambda agent: agent.say(noise(0.4), after=0.05)) as agent:
        began = time.monotonic()
        log = await call(agent, Doing(40), media=Media(network=network))
        assert time.monotonic() - began < 2
        assert 20 < len(agent.came) < 38
        came = agent.sent_at[0] - agent.answered_at
    assert log.network_s == pytest.approx(0.06, abs=0.002)
    assert log.arrivals is not None
    assert 10 < len(log.arrivals.at) < 20
    assert log.arrivals.at[0] - log.answered_at >= came + 0.045
    async with sip_agent(on_answer=lambda agent: agent.say(noise(0.4), after=0.05)) as agent:
        placed = CallOrder(Target(to=agent.uri), Media(network=network), "another-run")
        async with SipPhone(placed.target) as phone:
            again = await phone.carry(placed, Doing(40))
    assert again.arrivals is not None
    assert list(again.arrivals.sequence) == list(log.arrivals.sequence), "the same seed loses the same"


# --- several, and untimely ends


async def test_many_calls_at_once() -> None:
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(sip_agent(on_answer=lambda agent: None))
        phone = await stack.enter_async_context(SipPhone(Target(to=agent.uri)))
        placed = [CallOrder(phone.target, Media(), f"call-{number}", seed=number) for number in range(20)]
        logs = await asyncio.gather(*(phone.carry(one, Doing(25)) for one in placed))
        assert len({came.packet.ssrc for came in agent.came}) == 20
    assert {log.call_id for log in logs} == {one.call_id for one in placed}
    assert all(log.ended_by == "caller" and len(log.left_at) == 25 and not log.faults for log in logs)
    assert all(len({call_id_of(rung.text.encode()) for rung in log.ladder}) == 1 for log in logs)
    assert all(packet.kind in ("sip", "rtp", "rtcp") for log in logs for packet in log.packets)


async def test_without_evidence() -> None:
    async with sip_agent() as agent:
        log = await call(agent, Doing(5), keep_packets=False)
    assert (log.ended_by, log.ladder, log.packets) == ("caller", [], [])


async def test_a_message_that_has_to_be_sent_again() -> None:
    async with sip_agent(deaf=True) as agent:
        asyncio.get_running_loop().call_later(0.3, setattr, agent.behaviour, "deaf", False)
        log = await call(agent, Doing(5))
    assert [(rung.title, rung.again) for rung in log.ladder if rung.out][:2] == [("INVITE", False), ("INVITE", True)]


async def test_a_goodbye_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offhook.qa.phones.sip_call.GOODBYE", 0.2)
    async with sip_agent(on_answer=lambda agent: setattr(agent.behaviour, "deaf", True)) as agent:
        log = await call(agent, Doing(5))
    assert log.ended_by == "caller"
    assert log.faults == ["our goodbye was not answered within 0.2 s"]


async def test_a_phone_that_is_closed_and_a_call_that_is_cut_off() -> None:
    async with sip_agent() as agent:
        placed = order(agent)
        async with SipPhone(placed.target) as phone:
            task = asyncio.create_task(phone.carry(placed, Doing()))
            await asyncio.sleep(0.2)
        log = await task
        assert (log.ended_by, log.ended_how) == ("caller", "the phone was closed")
        operator = Doing()
        async with SipPhone(placed.target) as phone:
            task = asyncio.create_task(phone.carry(placed, operator))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert operator.overs == 1
            await asyncio.sleep(0.05)
        assert agent.ended == "caller"


async def test_an_answer_that_cannot_be_used() -> None:
    async with sip_agent() as agent:
        agent.spoil = lambda body: body.replace(b"RTP/AVP", b"UDP/TLS")
        log = await call(agent, Doing())
    assert (log.status, log.answered, log.ended_by) == (200, False, "caller")
    assert "cannot be used" in log.faults[0]
    assert log.ended_how == log.faults[0]
    assert agent.ended == "caller"


async def test_an_answer_without_audio_comes_from_somebody_who_is_there() -> None:
    async with sip_agent() as agent:
        agent.spoil = lambda body: b""
        log = await call(agent, Doing())
    assert (log.status, log.answered, log.ended_by) == (200, False, "agent")
    assert log.faults == [log.ended_how] == ["answered without SDP"]


async def test_audio_of_a_stranger_is_not_heard() -> None:
    def shout(agent: SipAgent) -> None:
        remote = agent.plans[0].remote
        assert remote is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.1", 0))
            for number in range(2):
                data = RtpPacket(0, number, number * 160, 5, pcm_to_ulaw(noise(0.02).tobytes())).encode()
                stranger.sendto(data, remote)

    async with sip_agent(on_answer=lambda agent: agent.say(noise(0.1), then=shout)) as agent:
        log = await call(agent, Doing(15))
    assert "which is not the agent's address" in log.faults[0]
    assert log.arrivals is not None
    assert set(log.arrivals.ssrc) == {agent.ssrc}


async def test_an_agent_that_sends_from_another_port_loses_nothing() -> None:
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("127.0.0.1", 0))
    other.setblocking(False)
    own: list[socket.socket] = []

    def say(agent: SipAgent) -> None:
        own.append(agent.rtp)
        agent.rtp = other
        agent.say(noise(0.2))

    async with sip_agent(on_answer=say) as agent:
        log = await call(agent, Doing(20))
        agent.rtp = own[0]
    other.close()
    assert log.arrivals is not None
    assert len(log.arrivals.at) == 10
    assert speech_spans(log.agent)[0].seconds == pytest.approx(0.2, abs=0.011)
    assert not log.faults


async def test_the_capture_says_when_packets_came_not_when_they_were_read() -> None:
    def busy(line: CallerLine) -> None:
        time.sleep(0.06)

    async with sip_agent(on_answer=lambda agent: agent.say(noise(0.5))) as agent:
        log = await call(agent, Doing(20, at5=busy))
    came = [packet.at for packet in log.packets if packet.kind == "rtp" and not packet.out]
    assert log.arrivals is not None
    assert np.diff(came) == pytest.approx(np.diff(log.arrivals.at), abs=1e-4)
    times = [packet.at for packet in log.packets if packet.kind == "sip"]
    assert times == sorted(times)
    assert times[0] == pytest.approx(log.began, abs=0.01)


async def test_what_the_network_added_is_known_packet_by_packet() -> None:
    network = Network.model_validate({"delay": "20ms", "freeze": [["200ms", "200ms"]]})
    async with sip_agent(on_answer=lambda agent: agent.say(noise(0.05), after=0.3)) as agent:
        log = await call(agent, Doing(40), media=Media(network=network))
    assert log.added_out
    assert log.added_back
    assert log.added_out.of_next(0.1) == pytest.approx(0.02, abs=0.001)
    assert 0.03 < log.added_out.of_next(0.28) <= 0.121, "what left then waited for the end of the freeze"
    assert log.added_out.of_next(0.6) == pytest.approx(0.02, abs=0.001)
    [heard] = speech_spans(log.agent)
    assert heard.start == pytest.approx(0.4, abs=0.015)
    assert heard.start - log.added_back.of_last(heard.start) == pytest.approx(0.3, abs=0.03)
