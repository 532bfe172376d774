"""What the SIP phone is made of, without sockets: the pace, packets both ways, ladder and capture."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.providers.rtp.media import G722, PCMA, PCMU, MediaPlan
from offhook.providers.rtp.packet import RtpPacket, parse
from offhook.qa.activity import RATE, Span
from offhook.qa.phones.base import Rung, WirePacket
from offhook.qa.phones.capture import checksum, datagram, write_pcap
from offhook.qa.phones.ladder import Ladder, as_text, call_id_of, redacted
from offhook.qa.phones.pacer import PERIOD, STEP, Pacer
from offhook.qa.phones.rtp_in import LATE, MAX_FAULTS, RtpIn
from offhook.qa.phones.rtp_out import SILENCE, RtpOut

PLAN = MediaPlan(PCMU, 0, {0: PCMU, 8: PCMA}, dtmf_send_type=101, dtmf_receive_types=frozenset({101}))

LOUD = pcm_to_ulaw(np.full(160, 8000, np.int16).tobytes())
QUIET = b"\xff" * 160
LEVEL = int(np.frombuffer(ulaw_to_pcm(LOUD[:1]), np.int16)[0])


class Sender:
    """Packets of one stream, numbered on."""

    def __init__(self) -> None:
        self.sequence, self.timestamp, self.ssrc = 65_530, 2**32 - 500, 77

    def __call__(self, payload: bytes, *, kind: int = 0, marker: bool = False, lost: int = 0, pause: int = 0) -> bytes:
        self.sequence += 1 + lost
        self.timestamp += 160 * (1 + lost) + pause
        return RtpPacket(kind, self.sequence & 0xFFFF, self.timestamp & 0xFFFFFFFF, self.ssrc, payload, marker).encode()


def track(heard: RtpIn) -> NDArray[np.int16]:
    return np.frombuffer(bytes(heard.track), np.int16)


def loud(heard: RtpIn) -> list[tuple[float, float]]:
    """Where something was laid that is loud, in ms."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], track(heard) == LEVEL, [0]])))
    return [(float(a) / 8, float(b) / 8) for a, b in edges.reshape(-1, 2)]


# --- in


def test_speech_lies_where_its_first_packet_came_and_goes_on_by_timestamps() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    for number, late in enumerate([0, 0.004, 0.030, 0.001, 0]):
        heard.take(packet(LOUD), 0.1 + number * 0.02 + late)
    assert loud(heard) == [(100, 200)]
    assert not heard.dry
    assert list(heard.arrivals.sequence) == [65_531, 65_532, 65_533, 65_534, 65_535]
    assert 0 < heard.jitter < 0.01


def test_each_stretch_of_speech_begins_where_it_came() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    for number in range(5):
        heard.take(packet(LOUD), 0.1 + number * 0.02)
    for number in range(5, 10):
        heard.take(packet(QUIET), 0.1 + number * 0.02)
    for number in range(10, 15):  # 40 ms late from now on, and for good
        heard.take(packet(LOUD), 0.14 + number * 0.02)
    assert loud(heard) == [(100, 200), (340, 440)]


def test_one_late_packet_in_a_pause_delays_nothing() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    for number in range(10):
        heard.take(packet(LOUD if number in (0, 9) else QUIET), 0.1 + number * 0.02 + (0.05 if number == 4 else 0))
    assert loud(heard) == [(100, 120), (280, 300)]


def test_speech_that_ran_dry_has_a_hole() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    heard.take(packet(LOUD), 0.1)
    heard.take(packet(LOUD), 0.12 + 0.2)
    heard.take(packet(LOUD), 0.34)
    heard.take(packet(LOUD), 0.36 + LATE / RATE)  # just in time still
    assert loud(heard) == [(100, 120), (320, 380)]
    assert heard.dry == [Span(0.12, 0.32)]


def test_what_was_held_up_comes_one_after_another() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    heard.take(packet(LOUD), 0.1)
    for _ in range(5):
        heard.take(packet(LOUD), 0.3)
    assert loud(heard) == [(100, 120), (300, 400)]
    heard.take(packet(QUIET), 0.31)
    heard.take(packet(LOUD), 0.33)
    assert loud(heard)[-1] == (300, 420), "speech is not laid over speech"


def test_a_lost_packet_leaves_its_place_empty_and_one_overtaken_fills_it() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    heard.take(packet(LOUD), 0.1)
    missing = packet(LOUD)
    heard.take(packet(LOUD), 0.14)
    assert loud(heard) == [(100, 120), (140, 160)]
    heard.take(missing, 0.15)
    assert loud(heard) == [(100, 160)]
    heard.take(missing, 0.151)
    heard.take(packet(LOUD, lost=3), 0.22)
    assert loud(heard) == [(100, 160), (220, 240)]
    assert heard.reception is not None
    assert heard.reception.expected == 7


def test_silence_that_was_not_sent() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    heard.take(packet(LOUD), 0.1)
    heard.take(packet(LOUD, pause=8000, marker=True), 1.2)
    heard.take(packet(LOUD), 1.21)
    assert loud(heard) == [(100, 120), (1200, 1240)]
    assert not heard.dry


def test_another_stream_begins_where_it_came() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    heard.take(packet(LOUD), 0.1)
    packet.ssrc, packet.timestamp = 78, 5
    heard.take(packet(LOUD), 0.15)
    packet.timestamp += 20 * RATE  # it counts anew, without a word
    heard.take(packet(LOUD), 0.18)
    assert loud(heard) == [(100, 120), (150, 170), (180, 200)]
    assert set(heard.arrivals.ssrc) == {77, 78}


def test_another_codec_is_heard_by_its_own_payload_type() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    heard.take(packet(LOUD), 0.1)
    heard.take(packet(b"\x2a" * 160, kind=8), 0.12)
    assert abs(int(track(heard)[-1])) > 8000 != LEVEL
    heard.update(replace(PLAN, codec=G722, receive_types={9: G722}))
    heard.take(packet(bytes(160), kind=9), 0.14)
    assert len(track(heard)) == (0.14 + 0.02) * RATE
    assert not heard.faults


def test_noise_behind_an_agent_is_no_speech() -> None:
    hiss = pcm_to_ulaw(np.random.default_rng(1).normal(0, 60, 160).astype(np.int16).tobytes())
    heard, packet = RtpIn(PLAN), Sender()
    for number in range(5):
        heard.take(packet(LOUD), 0.1 + number * 0.02)
    for number in range(5, 8):
        heard.take(packet(hiss), 0.1 + number * 0.02)
    heard.take(packet(LOUD), 0.1 + 8 * 0.02 + 0.05)
    assert loud(heard) == [(100, 200), (310, 330)]


def test_keys_and_what_is_no_audio() -> None:
    heard, packet = RtpIn(PLAN), Sender()
    assert heard.take(packet(bytes([3, 10, 0, 160]), kind=101, marker=True), 0.1) == "3"
    assert heard.take(packet(bytes([3, 0x8A, 3, 160]), kind=101, pause=-160), 0.12) == ""
    assert heard.take(packet(b"\x40", kind=13), 0.14) == ""
    for data in (b"", b"\0\1" * 20, b"\x80", b"\xbf" + bytes(30)):
        assert heard.take(data, 0.2) == ""
    heard.take(packet(b"x" * 20, kind=99), 0.2)
    heard.take(packet(b"x", kind=101), 0.2)
    assert len(heard.faults) == 3
    assert "payload type 99" in " ".join(heard.faults)
    assert not heard.track


def test_nothing_that_comes_raises_or_grows_without_bound() -> None:
    chance = random.Random(5)
    heard, packet = RtpIn(PLAN), Sender()
    for _ in range(3000):
        data = bytearray(packet(LOUD))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        heard.take(bytes(data[: chance.choice((len(data), chance.randrange(len(data))))]), chance.random() * 10)
    assert len(heard.faults) <= MAX_FAULTS
    assert len(heard.track) < 2 * RATE * 120


# --- out


def test_keys_take_the_place_of_audio() -> None:
    out = RtpOut(PLAN, ssrc=1, sequence=0xFFFF, timestamp=2**32 - 160)
    speech = np.full(160, 8000, np.int16).tobytes()
    first = parse(out.frame(speech)[0])
    assert (first.payload, first.marker, first.timestamp, first.sequence) == (LOUD, True, 2**32 - 160, 0xFFFF)
    out.press("9", 0.04, 0.06)
    packets = [parse(out.frame(speech)[0]) for _ in range(6)]
    assert [packet.payload_type for packet in packets] == [101, 101, 101, 101, 0, 0]
    assert [packet.timestamp for packet in packets[:4]] == [0, 0, 0, 0]
    assert [packet.payload[1] >= 0x80 for packet in packets[:4]] == [False, True, True, True]
    assert [packet.sequence for packet in packets] == list(range(6))
    assert packets[4].timestamp == 640
    with pytest.raises(ValueError, match="keys"):
        out.press("z", 0.1, 0.1)


def test_on_hold_nothing_is_sent_and_time_goes_on() -> None:
    out = RtpOut(PLAN, ssrc=1, sequence=0, timestamp=0)
    out.frame(None)
    out.update(replace(PLAN, direction="recvonly"))
    assert [out.frame(None) for _ in range(3)] == [[], [], []]
    out.update(PLAN)
    packet = parse(out.frame(None)[0])
    assert (packet.timestamp, packet.sequence, packet.marker, packet.payload) == (640, 1, True, QUIET)


@pytest.mark.parametrize(("ptime", "counts"), [(10, [2] * 6), (30, [0, 1, 1, 0, 1, 1]), (60, [0, 0, 1, 0, 0, 1])])
def test_packets_of_another_length_leave_with_the_frame_that_completes_them(ptime: int, counts: list[int]) -> None:
    out = RtpOut(replace(PLAN, ptime=ptime), ssrc=1, sequence=0, timestamp=0)
    frames = [out.frame(np.full(160, number * 100, np.int16).tobytes()) for number in range(6)]
    assert [len(frame) for frame in frames] == counts
    packets = [parse(packet) for frame in frames for packet in frame]
    said = b"".join(np.full(160, number * 100, np.int16).tobytes() for number in range(6))
    assert b"".join(packet.payload for packet in packets) == pcm_to_ulaw(said)
    assert [packet.timestamp for packet in packets] == [number * ptime * 8 for number in range(len(packets))]


def test_g722_encodes_its_silence() -> None:
    out = RtpOut(replace(PLAN, codec=G722, send_type=9), ssrc=1, sequence=0, timestamp=0)
    assert len(parse(out.frame(None)[0]).payload) == len(parse(out.frame(SILENCE)[0]).payload) == 160


# --- the pace


class Paced:
    def __init__(self) -> None:
        self.at: list[float] = []
        self.errors: list[Exception] = []
        self.raises = False

    def tick(self, now: float) -> None:
        self.at.append(now)
        if self.raises:
            raise ValueError("broken")

    def broken(self, error: Exception) -> None:
        self.errors.append(error)


async def test_calls_are_spread_over_a_frame_and_ticked_in_time() -> None:
    pacer = Pacer()
    calls = [Paced() for _ in range(20)]
    now = time.monotonic()
    starts = [pacer.add(call) for call in calls]
    assert all(now - PERIOD <= start <= now + 0.01 for start in starts)
    assert len({round(start / STEP) % 10 for start in starts}) == 10
    await asyncio.sleep(0.15)
    for call in calls:
        pacer.discard(call)
    assert len(pacer) == 0
    for call, start in zip(calls, starts, strict=True):
        assert 5 <= len(call.at) <= 8
        past = [(at - start) % PERIOD for at in call.at]
        assert sorted(min(late, PERIOD - late) for late in past)[len(past) // 2] < 0.005


async def test_a_call_that_raises_leaves_the_others_alone() -> None:
    pacer = Pacer()
    good, bad = Paced(), Paced()
    bad.raises = True
    pacer.add(good)
    pacer.add(bad)
    await asyncio.sleep(0.1)
    pacer.discard(good)
    assert len(bad.at) == 1
    assert [str(error) for error in bad.errors] == ["broken"]
    assert len(good.at) >= 3


# --- ladder and capture

INVITE = (
    b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1;rport\r\n"
    b"Call-ID: abc@x\r\nCSeq: 1 INVITE\r\n"
    b'Authorization: Digest username="qa", realm="r", nonce="n", response="0123456789abcdef", uri="sip:a"\r\n\r\n'
    b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:SGVsbG8hSGVsbG8h\r\n"
)


def test_secrets_are_taken_out_and_lengths_stay() -> None:
    told = redacted(INVITE)
    assert len(told) == len(INVITE)
    assert b"0123456789abcdef" not in told
    assert b"SGVsbG8h" not in told
    assert b'nonce="n"' in told
    assert call_id_of(INVITE) == "abc@x"
    assert call_id_of(b"nothing") == ""


def test_a_ladder_marks_what_was_said_again() -> None:
    times = iter([-0.5, 0.0, 0.1, 0.2])
    ladder = Ladder(lambda: next(times))
    ladder.add(INVITE, out=True)
    ladder.add(INVITE, out=True)
    for method in (b"INVITE", b"BYE"):
        ladder.add(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9\r\nCSeq: 1 " + method + b"\r\n\r\n", out=False)
    assert [(rung.title, rung.again) for rung in ladder.rungs] == [
        ("INVITE", False),
        ("INVITE", True),
        ("200 OK", False),
        ("200 OK (BYE)", False),
    ]
    lines = as_text(ladder.rungs).splitlines()
    assert lines[1].startswith("    -0.500  |-")
    assert lines[1].endswith(">|")
    assert "(again)" in lines[2]
    assert "|<" in lines[3]
    assert len({len(line) for line in lines[1:]}) == 1
    assert as_text([Rung(0, True, "BYE")])


def test_checksums() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF  # the sum that RFC 1071 section 3 works out
    packet = datagram(("127.0.0.1", 5060), ("127.0.0.2", 5061), b"odd")
    assert checksum(packet[:20]) == 0
    assert checksum(packet[12:20] + bytes([0, 17, 0, 11]) + packet[20:]) == 0
    with pytest.raises(ValueError, match="two families"):
        datagram(("127.0.0.1", 1), ("::1", 2), b"")


def test_a_capture_is_read_by_tshark(tmp_path: Path) -> None:
    packet = Sender()
    sip = INVITE.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n").partition(b"a=")[0]
    packets = [
        WirePacket(1000.5 + n / 50, n % 2 == 0, ("::1", 30_000), ("::1", 40_000), packet(LOUD)) for n in range(4)
    ]
    packets += [WirePacket(1000.0, True, ("127.0.0.1", 5062), ("127.0.0.1", 5060), sip, "sip")]
    packets += [WirePacket(1001.0, True, ("127.0.0.1", 5062), ("::1", 5060), b"", "sip")]
    path = tmp_path / "call.pcap"
    assert write_pcap(path, packets) == 5
    data = path.read_bytes()
    assert data[:4] == b"\xd4\xc3\xb2\xa1"
    assert data[20] == 101
    if shutil.which("tshark") is None:
        pytest.skip("needs `apt-get install tshark` for the rest")
    command = ["tshark", "-r", str(path), "-d", "udp.port==30000,rtp", "-o", "udp.check_checksum:TRUE"]
    fields = [
        "-T",
        "fields",
        "-e",
        "frame.time_epoch",
        "-e",
        "sip.Method",
        "-e",
        "rtp.seq",
        "-e",
        "udp.checksum.status",
    ]
    found = subprocess.run([*command, *fields], capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split("\t") for line in found]
    assert rows[0][1] == "INVITE"
    assert float(rows[0][0]) == 1000.0
    assert [row[2] for row in rows[1:]] == ["65531", "65532", "65533", "65534"]
    assert {row[3] for row in rows} == {"1"}
