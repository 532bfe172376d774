"""One call's RTP on lines that misbehave: pauses, stalls, changes in flight, echoes, clocks that are off."""

from __future__ import annotations

import dataclasses
import itertools
import random

import numpy as np
import pytest

from offhook.codecs.audio import PCMU as PCMU_8K
from offhook.codecs.audio import AudioFormat
from offhook.codecs.convert import Converter
from offhook.codecs.dtmf import tones
from offhook.codecs.g711 import pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm
from offhook.codecs.pcm import scale, tone
from offhook.providers.base import DtmfReceived, MediaReceived, ProtocolFault, StreamEvent
from offhook.providers.rtp.coding import Encoder
from offhook.providers.rtp.incoming import GAP, MAX_FILL, MAX_REPORTED
from offhook.providers.rtp.media import G722, L16_16K, OPUS, PCMA, PCMU, Address, Codec, MediaPlan, SrtpKey
from offhook.providers.rtp.packet import RtpPacket, parse
from offhook.providers.rtp.rtcp import ReceiverReport, build
from offhook.providers.rtp.session import RtpSession
from offhook.providers.rtp.srtp import SrtpContext

PEER = Address("192.0.2.10", 4000)
REPORTS = Address("192.0.2.10", 4001)
PLAN = MediaPlan(PCMU, 0, {0: PCMU}, 101, frozenset({101}), remote=PEER)
QUIET = b"\xff" * 160


class Line:
    """A session in virtual time; `step` is one tick of 20 ms."""

    def __init__(self, plan: MediaPlan = PLAN, **settings: object) -> None:
        self.now = 1000.0
        self.session = RtpSession(plan, self.now, ssrc=1, sequence=100, timestamp=0, **settings)  # type: ignore[arg-type]
        self.events: list[StreamEvent] = []
        self.heard_at: list[float] = []
        self.sent: list[bytes] = []

    def take(self, events: object) -> None:
        for event in events:  # type: ignore[attr-defined]
            self.events.append(event)
            self.heard_at += [self.now] if isinstance(event, MediaReceived) else []

    def hear(self, data: bytes) -> None:
        self.take(self.session.receive(data, PEER, self.now))

    def step(self, seconds: float = 0.02) -> None:
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.sent += [data for data, _, is_rtcp in self.session.tick(self.now) if not is_rtcp]
            self.take(self.session.poll(self.now))

    def report(self) -> None:
        self.take(self.session.receive(build([ReceiverReport(7, ())], "peer"), REPORTS, self.now, is_rtcp=True))

    @property
    def audio(self) -> bytes:
        return b"".join(event.payload for event in self.events if isinstance(event, MediaReceived))

    @property
    def keys(self) -> str:
        return "".join(event.digit for event in self.events if isinstance(event, DtmfReceived))

    @property
    def faults(self) -> list[str]:
        return [event.kind for event in self.events if isinstance(event, ProtocolFault)]


def packet(number: int, payload: bytes = b"\x11" * 160, kind: int = 0, ssrc: int = 7) -> bytes:
    return RtpPacket(kind, number & 0xFFFF, number * 160 & 0xFFFFFFFF, ssrc, payload).encode()


# --- pauses


def test_a_peer_that_says_nothing_but_reports_is_heard_as_silence_for_as_long_as_it_does() -> None:
    line = Line()
    for number in range(10):
        line.hear(packet(number))
        line.step()
    for _ in range(12):
        line.step(5.0)
        line.report()
    assert len(line.audio) == pytest.approx(8000 * 60, rel=0.01)
    assert line.now - line.session.last_heard < 0.1, "the call does not end"
    line.step(MAX_REPORTED + 10)
    assert line.now - line.heard_at[-1] == pytest.approx(10, abs=0.1), "a dead line still shows"
    line.hear(RtpPacket(0, 10, 600 * 8000, 7, b"\x22" * 160).encode())
    line.step(0.04)
    assert line.audio.endswith(b"\x22" * 160)
    assert line.session.stats().lost == 0


def test_a_peer_that_was_never_heard_but_reports_lets_time_go_by() -> None:
    line = Line()
    line.step(1.0)
    assert line.audio == b""
    line.report()
    line.step(2.0)
    assert len(line.audio) == pytest.approx(8000 * (2.0 - GAP), abs=320)


def test_a_peer_that_we_do_not_listen_to_fills_nothing_in() -> None:
    line = Line(dataclasses.replace(PLAN, direction="sendonly"))
    line.report()
    line.step(2.0)
    assert line.audio == b""
    assert len(line.sent) == 100


def test_packets_of_another_length_in_mid_call_leave_no_seam() -> None:
    line = Line()
    timestamp = 0
    for number, ms in enumerate([20] * 20 + [60] * 10 + [10] * 40 + [30] * 10 + [20] * 10):
        line.hear(RtpPacket(0, number, timestamp, 7, b"\x11" * (8 * ms)).encode())
        timestamp += 8 * ms
        line.now += ms / 1000
        line.take(line.session.poll(line.now))
    line.step(0.1)
    assert line.audio == b"\x11" * timestamp
    assert line.session.stats().concealed == 0


# --- stalls


@pytest.mark.parametrize("stall", [0.15, 0.3, 0.5])
def test_what_a_stall_held_up_is_heard_whole_and_the_delay_goes_again(stall: float) -> None:
    line = Line()
    late = range(100, 100 + round(stall / 0.02))
    for number in range(800):
        if number == late[-1] + 1:
            for held_up in late:
                line.hear(packet(held_up, bytes([held_up % 100 + 1]) * 160))
        if number not in late:
            line.hear(packet(number, bytes([number % 100 + 1]) * 160))
        line.step()
    frames = [line.audio[i] for i in range(0, len(line.audio), 160)]
    said = [frame for frame in frames if frame != 0xFF]
    assert said == [number % 100 + 1 for number in range(len(said))], "in order, whole"
    filled = len(frames) - len(said)
    assert filled <= max(0, stall - GAP) / 0.02 + 2
    assert line.session.stats().concealed == 0
    assert line.session.stats().depth <= 20, "seconds later nothing waits"


@pytest.mark.parametrize("ppm", [1500, -1500])
def test_an_hour_of_a_clock_that_is_off_is_heard_whole_and_without_delay(ppm: int) -> None:
    # 1500 ppm for two minutes are an hour of the 50 ppm that a bad crystal is off
    line = Line()
    begin, chance, count = line.now, random.Random(1), 6000
    arrivals = [begin + number * 0.02 * (1 - ppm / 1e6) + chance.random() * 0.004 for number in range(count)]
    number = 0
    while number < count:
        tick = line.now + 0.02
        while number < count and arrivals[number] <= tick:
            line.take(line.session.receive(packet(number, bytes([number % 100 + 1]) * 160), PEER, arrivals[number]))
            number += 1
        line.now = tick
        line.take(line.session.poll(tick))
        line.session.tick(tick)
    line.step(0.1)
    assert line.audio == b"".join(bytes([number % 100 + 1]) * 160 for number in range(count))
    stats = line.session.stats()
    assert (stats.lost, stats.concealed) == (0, 0)
    assert stats.depth <= 20


# --- changes in flight


def test_what_was_sent_before_a_new_codec_was_known_is_still_heard() -> None:
    line = Line()
    for number in range(20):
        line.hear(packet(number))
        line.step()
    line.session.update(MediaPlan(G722, 9, {9: G722}, 101, frozenset({101}), remote=PEER), line.now)
    for number in range(20, 25):
        line.hear(packet(number))
        line.step()
    assert line.audio == b"\x11" * 25 * 160
    encode = Encoder(G722, line.session.format)
    assert encode.encode is not None
    for number in range(25, 45):
        line.hear(packet(number, encode.encode(encode.convert(b"\x11" * 160)), 9))
        line.step()
    assert line.faults == []
    assert len(line.audio) == pytest.approx(45 * 160, abs=320)


def test_a_number_of_the_agreement_before_the_last_is_unknown_again() -> None:
    line = Line()
    line.session.update(MediaPlan(PCMA, 8, {8: PCMA}, remote=PEER), line.now)
    line.session.update(MediaPlan(G722, 9, {9: G722}, remote=PEER), line.now)
    line.hear(packet(1))
    assert line.faults == ["unknown-payload"]


KEYS = [SrtpKey("AES_CM_128_HMAC_SHA1_80", bytes([number]) * 30) for number in (1, 2, 3)]


def test_a_new_key_loses_nothing_of_what_is_on_its_way() -> None:
    plan = dataclasses.replace(PLAN, srtp_send=KEYS[0], srtp_receive=KEYS[1])
    line = Line(plan)
    before, after = SrtpContext(KEYS[1], sending=True), SrtpContext(KEYS[2], sending=True)
    for number in range(10):
        line.hear(before.protect(packet(number)))
        line.step()
    line.session.update(dataclasses.replace(plan, srtp_receive=KEYS[2]), line.now)
    for number in range(10, 15):
        line.hear(before.protect(packet(number)))
        line.step()
    for number in range(15, 30):
        line.hear(after.protect(packet(number)))
        line.step()
    assert line.audio == b"\x11" * 30 * 160
    assert line.faults == []
    line.hear(before.protect(packet(30)))
    assert line.faults == ["srtp"], "once the peer has changed, the former key is worth nothing"


def test_audio_moves_with_the_peer_to_another_port_and_codec() -> None:
    line = Line()
    line.session.play(b"\x22" * 160 * 10)
    line.step(0.1)
    moved = Address("192.0.2.10", 5000)
    line.session.update(MediaPlan(PCMA, 8, {8: PCMA}, remote=moved), line.now)
    line.now += 0.02
    sent = line.session.tick(line.now)
    assert [(parse(data).payload_type, target) for data, target, _ in sent] == [(8, moved)]
    line.take(line.session.receive(packet(0, b"\xd5" * 160, 8), moved, line.now))
    line.take(line.session.receive(packet(1, b"\xd5" * 160, 8), moved, line.now + 0.02))
    line.step(0.1)
    assert len(line.audio) == 320
    line.hear(packet(2))
    assert line.faults == ["wrong-source"]


def test_another_packet_length_by_agreement_leaves_no_seam() -> None:
    line = Line()
    line.session.play(b"".join(bytes([i % 100 + 1]) * 80 for i in range(300)))
    for ptime in (60, 10, 30, 20):
        line.session.update(dataclasses.replace(PLAN, ptime=ptime), line.now)
        line.step(0.5)
    line.step(1.2)
    packets = [parse(data) for data in line.sent]
    said = b"".join(packet.payload for packet in packets).strip(b"\xff")
    assert said == b"".join(bytes([i % 100 + 1]) * 80 for i in range(300))
    for before, after in itertools.pairwise(packets):
        assert after.timestamp - before.timestamp >= len(before.payload)
    assert packets[-1].timestamp - packets[0].timestamp == pytest.approx(3.2 * 8000, abs=800)


def test_who_takes_a_call_over_from_behind_nat_is_known_by_his_own_signalling() -> None:
    line = Line(signalling="192.0.2.10")
    private, real = Address("10.0.0.5", 7000), Address("198.51.100.7", 41_000)
    line.session.update(dataclasses.replace(PLAN, remote=private), line.now, signalling=real.host)
    for number in range(5):
        line.take(line.session.receive(packet(number), real, line.now))
        line.step()
    assert line.session.peer == real
    assert line.faults == []


# --- keys


def test_tones_that_wait_are_bounded() -> None:
    line = Line(dataclasses.replace(PLAN, dtmf_send_type=None, dtmf_receive_types=frozenset()), inband_dtmf=True)
    assert line.session.send_dtmf("1" * 128)
    with pytest.raises(ValueError, match="keys"):
        line.session.send_dtmf("1")


def test_the_echo_of_our_own_tones_is_no_key_of_the_peer() -> None:
    line = Line(dataclasses.replace(PLAN, dtmf_send_type=None, dtmf_receive_types=frozenset()), inband_dtmf=True)
    line.step(0.1)
    assert line.session.send_dtmf("159")
    sent = 0
    for number in range(150):
        # 200 ms there and back, 20 dB below
        if number >= 10 and len(line.sent) > sent + 10:
            echo = pcm_to_ulaw(scale(ulaw_to_pcm(parse(line.sent[number - 5]).payload), 0.1))
            line.hear(packet(number, echo))
        else:
            line.hear(packet(number, QUIET))
        line.step()
    assert line.keys == ""
    pressed = tones("7", 0.1, PCMU_8K) + QUIET * 3
    for i in range(0, len(pressed), 160):
        line.hear(packet(150 + i // 160, pressed[i : i + 160].ljust(160, b"\xff")))
        line.step()
    assert line.keys == "7"


# --- agents


@pytest.mark.parametrize("codec", [PCMU, PCMA, G722, L16_16K, OPUS])
@pytest.mark.parametrize("ptime", [10, 20, 60])
def test_every_codec_takes_audio_in_pieces_of_any_size_at_the_pace_of_speech(codec: Codec, ptime: int) -> None:
    plan = MediaPlan(codec, 96, {96: codec}, remote=PEER, ptime=ptime)
    line = Line(plan)
    other = Line(plan)
    form = line.session.format
    wave = tone(400, 1.0, form.rate, -12.0)
    sound = pcm_to_ulaw(wave) if form.encoding == "pcmu" else wave
    if form.encoding == "pcma":
        sound = pcm_to_alaw(wave)
    chance, at = random.Random(1), 0
    while at < len(sound):
        size = chance.randrange(1, 400) * form.sample_bytes
        line.session.play(sound[at : at + size])
        at += size
    line.step(1.4)
    for data in line.sent:
        other.hear(data)
        other.step(max(0.02, ptime / 1000 // 0.02 * 0.02))
    assert len(other.audio) >= len(sound)
    if form.encoding == "l16":
        levels = np.abs(np.frombuffer(other.audio, "<i2").astype(int))
        loud = np.flatnonzero(levels > 3000)
        assert (loud[-1] - loud[0]) / form.rate == pytest.approx(1.0, abs=0.03)
        assert np.diff(loud).max() < form.rate * 0.005, "no hole within"


@pytest.mark.parametrize("codec", [PCMU, PCMA, G722, L16_16K, OPUS])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_an_agent_of_a_higher_rate_is_heard_without_a_hole_on_every_codec(codec: Codec, rate: int) -> None:
    plan = MediaPlan(codec, 96, {96: codec}, remote=PEER)
    line, other = Line(plan), Line(plan)
    form, wide = line.session.format, AudioFormat("l16", 16_000)
    convert, back = Converter(AudioFormat("l16", rate), form).convert, Converter(form, wide).convert
    wave = tone(400, 1.0, rate, -12.0)
    for at in range(0, len(wave), rate // 25):
        line.session.play(convert(wave[at : at + rate // 25]))
        line.step()
    line.step(0.1)
    for data in line.sent:
        other.hear(data)
        other.step()
    levels = np.abs(np.frombuffer(back(other.audio), "<i2").astype(int))
    loud = np.flatnonzero(levels > 3000)
    assert (loud[-1] - loud[0]) / 16_000 == pytest.approx(1.0, abs=0.03)
    assert np.diff(loud).max() < 80, "5 ms"


def test_clear_leaves_nothing_of_the_agent_on_the_line() -> None:
    line = Line()
    line.session.play(b"\x22" * 160 * 50)
    line.step(0.2)
    said = len(line.sent)
    line.session.clear()
    line.step(0.2)
    assert {parse(data).payload for data in line.sent[:said]} == {b"\x22" * 160}
    assert {parse(data).payload for data in line.sent[said:]} == {QUIET}


def test_fill_is_bounded_without_any_sign_of_life() -> None:
    line = Line()
    line.hear(packet(0))
    line.step(60)
    assert len(line.audio) / 8000 == pytest.approx(MAX_FILL, abs=0.3)
