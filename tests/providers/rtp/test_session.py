"""One call's RTP without sockets: what is heard, what is sent, hold, changes, and everything a peer may do wrong."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest

from offhook.providers.base import FAULT_KINDS, DtmfReceived, HoldChanged, MediaReceived, ProtocolFault, StreamEvent
from offhook.providers.rtp.media import G722, L16_16K, OPUS, PCMA, PCMU, Address, Codec, MediaPlan, SrtpKey
from offhook.providers.rtp.packet import RtpPacket, parse
from offhook.providers.rtp.rtcp import Goodbye, ReceiverReport, SenderReport, build
from offhook.providers.rtp.rtcp import parse as parse_rtcp
from offhook.providers.rtp.session import RtpSession

PEER = Address("192.0.2.10", 4000)
PLAN = MediaPlan(PCMU, 0, {0: PCMU, 8: PCMA}, 101, frozenset({101}), remote=PEER)
TYPES = {PCMU: 0, PCMA: 8, G722: 9, L16_16K: 97, OPUS: 96}


class Line:
    """A session and a clock, and a peer that speaks one packet every 20 ms."""

    def __init__(self, plan: MediaPlan = PLAN, **settings: object) -> None:
        self.now = 1000.0
        self.session = RtpSession(plan, self.now, ssrc=1, sequence=100, timestamp=0, chance=lambda: 0.5, **settings)  # type: ignore[arg-type]
        self.events: list[StreamEvent] = []
        self.sent: list[tuple[bytes, Address, bool]] = []

    def hear(self, packet: RtpPacket | bytes, source: Address = PEER, *, is_rtcp: bool = False) -> None:
        data = packet if isinstance(packet, bytes) else packet.encode()
        self.events += self.session.receive(data, source, self.now, is_rtcp=is_rtcp)

    def step(self, seconds: float = 0.02) -> None:
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.sent += self.session.tick(self.now)
            self.events += self.session.poll(self.now)

    def speak(self, count: int, sequence: int = 0, timestamp: int = 0, ssrc: int = 7, kind: int = 0) -> None:
        for i in range(count):
            at = timestamp + 160 * i & 0xFFFFFFFF
            self.hear(RtpPacket(kind, sequence + i & 0xFFFF, at, ssrc, bytes([i % 100 + 1]) * 160))
            self.step()

    @property
    def audio(self) -> bytes:
        return b"".join(event.payload for event in self.events if isinstance(event, MediaReceived))

    @property
    def faults(self) -> list[str]:
        kinds = [event.kind for event in self.events if isinstance(event, ProtocolFault)]
        assert set(kinds) <= FAULT_KINDS
        return kinds

    @property
    def packets(self) -> list[RtpPacket]:
        return [parse(data) for data, _, is_rtcp in self.sent if not is_rtcp]


def frames(line: Line) -> list[int]:
    """First byte of each frame heard."""
    return [line.audio[i] for i in range(0, len(line.audio), 160)]


# --- hearing


def test_what_the_peer_says_is_heard_untouched_and_in_order() -> None:
    line = Line()
    line.speak(50)
    line.step(0.04)
    assert frames(line) == list(range(1, 51))
    assert line.session.stats().lost == 0
    assert line.session.last_heard == pytest.approx(1000.98)


def test_a_reordering_is_put_right_and_a_duplicate_dropped() -> None:
    line = Line()
    for number in (1, 3, 2, 2, 4, 5):
        line.hear(RtpPacket(0, number, number * 160, 7, bytes([number]) * 160))
    line.step(0.1)
    assert frames(line)[:5] == [1, 2, 3, 4, 5]
    stats = line.session.stats()
    assert (stats.reordered, stats.duplicate, stats.lost) == (1, 1, 0)


def test_a_lost_packet_is_concealed_for_as_long_as_it_was() -> None:
    line = Line()
    line.speak(10)
    line.speak(10, 11, 11 * 160)
    line.step(0.1)
    assert len(frames(line)) == 21
    assert line.session.stats().concealed == 1
    assert line.session.stats().loss == pytest.approx(1 / 21)


def test_another_ssrc_goes_on_within_a_tenth_of_a_second() -> None:
    line = Line()
    line.speak(20)
    before = len(frames(line))
    line.speak(5, 40_000, 5_000_000, ssrc=99)
    assert len(frames(line)) - before >= 4 - 1
    assert line.faults == []
    # the first packet of the new one was its trial
    assert line.session.stats().packets_received == 24
    assert line.session.stats().loss == 0.0


def test_a_leap_of_the_timestamp_goes_on_too() -> None:
    line = Line()
    line.speak(20)
    before = len(frames(line))
    line.speak(5, 20, 20 * 160 + 10 * 60 * 8000)
    assert len(frames(line)) - before >= 4


def test_a_stray_packet_of_another_ssrc_changes_nothing() -> None:
    line = Line()
    line.speak(10)
    line.hear(RtpPacket(0, 777, 777, 99, b"\x63" * 160))
    line.speak(10, 10, 1600)
    line.step(0.1)
    assert 0x63 not in frames(line)
    assert len(frames(line)) == 20


def test_the_wrap_of_sequence_and_timestamp_is_not_heard() -> None:
    line = Line()
    line.speak(60, 65_510, 2**32 - 30 * 160)
    line.step(0.04)
    assert frames(line) == list(range(1, 61))


def test_comfort_noise_is_quiet_noise_and_never_decoded() -> None:
    for kind in (13, 19):
        line = Line()
        line.speak(10)
        line.hear(RtpPacket(kind, 10, 1600, 7, b"\x46"))
        line.step(0.5)
        noise = frames(line)[10:]
        assert len(noise) > 20
        assert all(byte & 0x7F > 0x60 for byte in line.audio[1600:])  # near the middle of μ-law
        line.speak(5, 11, 1600 + 26 * 160)
        assert line.session.stats().lost == 0
        assert line.faults == []


def test_a_pause_without_a_word_is_filled_with_silence_but_not_for_ever() -> None:
    line = Line()
    line.speak(10)
    line.step(20.0)
    assert 4.5 < (len(line.audio) - 1600) / 8000 < 5.1
    assert set(line.audio[1600:]) == {0xFF}


def test_an_unknown_payload_type_is_ignored_and_told_once() -> None:
    line = Line()
    line.speak(5)
    for i in range(5):
        line.hear(RtpPacket(97, 5 + i, 800 + i * 160, 7, b"noise"))
    line.step(0.04)
    assert frames(line)[:5] == [1, 2, 3, 4, 5]
    assert b"noise" not in line.audio
    assert line.faults == ["unknown-payload"]
    assert line.session.stats().faults == {"unknown-payload": 5}


def test_the_other_law_in_the_middle_is_brought_to_the_format_of_the_call() -> None:
    line = Line()
    line.hear(RtpPacket(0, 0, 0, 7, b"\xff" * 160))
    line.step()
    for i in range(1, 5):
        line.hear(RtpPacket(8, i, i * 160, 7, b"\xd5" * 160))
        line.step()
    line.step(0.06)
    assert len(line.audio) >= 5 * 160
    assert set(line.audio) <= {0xFF, 0x7F, 0xFE, 0x7E}


@pytest.mark.parametrize("size", [80, 160, 240, 320, 480])
def test_packets_of_any_length_are_heard_whole(size: int) -> None:
    line = Line()
    for i in range(60):
        line.now = 1000 + i * size / 8000
        line.hear(RtpPacket(0, i, i * size, 7, bytes([i + 1]) * size))
        line.events += line.session.poll(line.now)
    line.step(0.1)
    assert line.audio[: 60 * size] == b"".join(bytes([i + 1]) * size for i in range(60))


def test_a_codec_that_cannot_be_decoded_here_is_told_and_not_heard() -> None:
    line = Line(dataclasses.replace(PLAN, receive_types={0: PCMU, 97: Codec("L16", 44100)}))
    line.speak(5)
    for i in range(5, 10):
        line.hear(RtpPacket(97, i, i * 160, 7, bytes(160)))
    line.step(0.04)
    assert line.faults == ["unknown-payload"]
    assert frames(line)[:5] == [1, 2, 3, 4, 5]


# --- keys


def test_a_key_is_told_once_and_leaves_no_loss_behind() -> None:
    line = Line()
    line.speak(10)
    for i in range(8):
        line.hear(RtpPacket(101, 10 + i, 1600, 7, bytes((5, 10)) + (160 * (i + 1)).to_bytes(2, "big"), i == 0))
        line.step()
    for i in range(3):
        line.hear(RtpPacket(101, 18 + i, 1600, 7, bytes.fromhex("058a05a0")))
    line.speak(10, 21, 1600 + 9 * 160)
    line.step(0.04)
    assert [event.digit for event in line.events if isinstance(event, DtmfReceived)] == ["5"]
    assert (line.session.stats().lost, line.session.stats().concealed) == (0, 0)


def test_keys_of_ours_delay_the_audio_and_do_not_replace_it() -> None:
    line = Line()
    line.step(0.1)
    assert line.session.send_dtmf("5#")
    for _ in range(5):
        line.session.play(b"\x11" * 160)
    line.step(0.8)
    kinds = [packet.payload_type for packet in line.packets]
    assert kinds.count(101) == 16
    assert sum(packet.payload == b"\x11" * 160 for packet in line.packets) == 5
    assert [packet.sequence for packet in line.packets] == list(range(100, 100 + len(kinds)))
    with pytest.raises(ValueError, match="key"):
        line.session.send_dtmf("x")


def test_without_telephone_event_keys_are_tones_where_wanted_and_come_back_as_keys() -> None:
    plan = dataclasses.replace(PLAN, dtmf_send_type=None, dtmf_receive_types=frozenset())
    assert not Line(plan).session.send_dtmf("1")
    here, there = Line(plan, inband_dtmf=True), Line(plan, inband_dtmf=True)
    assert here.session.send_dtmf("123#")
    for _ in range(60):
        here.step()
        for data, _, is_rtcp in here.sent:
            if not is_rtcp:
                there.hear(data)
        here.sent.clear()
        there.step()
    assert "".join(event.digit for event in there.events if isinstance(event, DtmfReceived)) == "123#"


def test_telephone_event_that_the_peer_gives_up_ends_the_key() -> None:
    line = Line()
    line.session.send_dtmf("123")
    line.step(0.06)
    line.session.update(dataclasses.replace(PLAN, dtmf_send_type=None), line.now)
    line.sent.clear()
    line.session.play(b"\x11" * 160)
    line.step(0.1)
    assert {packet.payload_type for packet in line.packets} == {0}
    assert b"\x11" * 160 in [packet.payload for packet in line.packets]


# --- speaking


@pytest.mark.parametrize("ptime", [10, 20, 30, 40, 50, 60])
def test_one_packet_is_sent_for_every_ptime_whatever_there_is_to_say(ptime: int) -> None:
    line = Line(dataclasses.replace(PLAN, ptime=ptime))
    for i in range(30):
        line.session.play(bytes([i + 1]) * 160)
    line.step(1.8)
    packets = line.packets
    assert abs(len(packets) - 1800 // ptime) <= 2
    assert {len(packet.payload) for packet in packets} == {8 * ptime}
    steps = {later.timestamp - earlier.timestamp for earlier, later in itertools.pairwise(packets)}
    assert steps == {8 * ptime}
    said = b"".join(packet.payload for packet in packets)
    assert said.startswith(b"".join(bytes([i + 1]) * 160 for i in range(30)))
    assert [packet.marker for packet in packets] == [True] + [False] * (len(packets) - 1)


def test_a_stall_of_ours_is_no_burst() -> None:
    line = Line()
    line.step(0.2)
    last = line.packets[-1]
    line.now += 1.0
    line.sent.clear()
    line.step(0.1)
    assert len(line.packets) <= 6
    first = line.packets[0]
    assert first.marker
    assert first.timestamp - last.timestamp == pytest.approx(1.02 * 8000, abs=320)
    assert first.sequence == last.sequence + 1


def test_a_short_delay_of_ours_is_made_up_for() -> None:
    line = Line()
    line.step(0.2)
    count = len(line.packets)
    line.now += 0.04
    line.step(0.02)
    assert len(line.packets) - count == 1, "silence catches nothing up"
    for _ in range(9):
        line.session.play(b"\x11" * 160)
    line.step(0.1)
    assert len(line.packets) - count == 8
    assert not any(packet.marker for packet in line.packets[1:])


def test_the_queue_is_bounded_and_can_be_emptied() -> None:
    line = Line()
    for _ in range(500):
        line.session.play(b"\x11" * 160)
    assert line.session.queued == pytest.approx(5.0)
    assert line.session.stats().dropped_out == 5000
    line.session.clear()
    line.step(0.1)
    assert {packet.payload for packet in line.packets} == {b"\xff" * 160}


# --- hold and changes


def test_hold_sends_and_hears_nothing_and_the_timestamp_goes_on() -> None:
    line = Line()
    line.step(0.1)
    last = line.packets[-1]
    assert list(line.session.update(dataclasses.replace(PLAN, direction="recvonly"), line.now)) == [HoldChanged(True)]
    assert line.session.silent
    line.sent.clear()
    line.events.clear()
    line.speak(50)
    assert line.packets == []
    assert line.audio == b""
    assert list(line.session.update(PLAN, line.now)) == [HoldChanged(False)]
    assert list(line.session.update(PLAN, line.now)) == []
    line.speak(10, 50, 8000)
    first = line.packets[0]
    assert first.marker
    assert first.timestamp - last.timestamp == pytest.approx(8000, abs=320)
    assert len(line.audio) > 1000


def test_a_change_of_codec_keeps_the_format_of_the_call() -> None:
    line = Line()
    line.session.play(b"\xff" * 160 * 4)
    line.session.update(MediaPlan(G722, 9, {9: G722}, remote=PEER), line.now)
    assert str(line.session.format) == "pcmu/8000"
    line.step(0.2)
    assert {packet.payload_type for packet in line.packets} == {9}
    for i in range(20):
        line.hear(RtpPacket(9, i, i * 160, 7, line.packets[0].payload))
        line.step()
    assert len(line.audio) == pytest.approx(20 * 160, abs=320)


def test_a_change_that_cannot_be_leaves_everything_as_it_was() -> None:
    line = Line()
    for plan in (
        dataclasses.replace(PLAN, remote=Address("sbc.example", 1)),
        dataclasses.replace(PLAN, srtp_send=SrtpKey("AEAD_AES_128_GCM", b"short")),
        dataclasses.replace(PLAN, codec=Codec("L16", 44100)),
    ):
        with pytest.raises(ValueError, match=r"IP address|28 bytes|44100"):
            line.session.update(plan, line.now)
    line.speak(5)
    assert line.session.plan == PLAN
    assert line.session.peer == PEER


# --- who may speak


def test_a_stranger_is_not_heard_and_takes_nothing() -> None:
    line = Line()
    for i in range(20):
        line.hear(RtpPacket(0, i, i * 160, 66, b"\x66" * 160), Address("203.0.113.66", 4000))
        line.hear(build([ReceiverReport(66)], "thief"), Address("203.0.113.66", 4001), is_rtcp=True)
    line.step(0.1)
    assert line.audio == b""
    assert line.faults == ["wrong-source"]
    assert {target for _, target, is_rtcp in line.sent if not is_rtcp} == {PEER}


def test_a_peer_behind_nat_is_heard_and_answered_where_it_is() -> None:
    nat = Address("198.51.100.9", 61000)
    line = Line(dataclasses.replace(PLAN, remote=Address("10.1.1.1", 4000)), signalling=nat.host)
    for i in range(10):
        line.hear(RtpPacket(0, i, i * 160, 7, b"\x11" * 160), nat)
        line.step()
    assert line.session.peer == nat
    line.hear(RtpPacket(0, 10, 1600, 7, b"\x66" * 160), Address("203.0.113.66", 4000))
    line.step(0.06)
    assert 0x66 not in line.audio
    assert line.sent[-1][1] == nat


@pytest.mark.parametrize("is_rtcp", [False, True])
@pytest.mark.parametrize(
    "data", [b"", b"\0\0", bytes(20), b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12), b"\x16\xfe\xfd" + bytes(40)]
)
def test_what_keeps_a_nat_open_is_no_fault_and_latches_nothing(data: bytes, is_rtcp: bool) -> None:
    line = Line()
    for _ in range(5):
        line.hear(data, Address(PEER.host, 9999), is_rtcp=is_rtcp)
    assert line.events == []
    line.speak(5)
    line.step(0.04)
    assert frames(line) == [1, 2, 3, 4, 5]


def test_a_flood_is_cut_off_and_the_call_goes_on() -> None:
    line = Line()
    for i in range(5000):
        line.hear(RtpPacket(0, i & 0xFFFF, i * 160, 7, b"\x11" * 160))
    assert "flood" in line.faults
    assert line.session.stats().faults["flood"] == 4800
    line.step(1.0)
    line.speak(20, 200, 200 * 160)
    line.step(0.2)
    assert b"".join(bytes([i]) * 160 for i in range(1, 21)) in line.audio


# --- reports


def test_reports_go_out_every_few_seconds_to_the_port_beside() -> None:
    line = Line()
    line.speak(300)
    reports = [(parse_rtcp(data), target) for data, target, is_rtcp in line.sent if is_rtcp]
    assert [target for _, target in reports] == [Address(PEER.host, PEER.port + 1)]
    (first,) = reports[0][0]
    assert isinstance(first, SenderReport)
    assert first.blocks[0].ssrc == 7
    assert first.packets > 100
    line.sent = list(line.session.leave(line.now))
    assert parse_rtcp(line.sent[0][0])[-1] == Goodbye((1,))


def test_on_a_shared_port_reports_go_to_the_audio_and_on_hold_we_only_receive() -> None:
    line = Line(dataclasses.replace(PLAN, rtcp_mux=True, direction="inactive"))
    line.step(6.0)
    ((data, target, is_rtcp),) = line.sent
    assert (target, is_rtcp) == (PEER, False)
    assert isinstance(parse_rtcp(data)[0], ReceiverReport)
    line.hear(build([ReceiverReport(7), Goodbye((7,))], "peer"))
    assert line.session.last_heard == line.now
    assert line.events == []


def test_reports_follow_the_peers_own_and_bad_ones_are_told() -> None:
    other = Address(PEER.host, 9999)
    line = Line(dataclasses.replace(PLAN, remote_rtcp=Address("192.0.2.11", 7777)))
    line.step(3.0)
    assert line.sent[-1][1] == Address("192.0.2.11", 7777) or any(
        target == Address("192.0.2.11", 7777) for _, target, _ in line.sent
    )
    line.hear(b"\x80\xc9\xff\xff", other, is_rtcp=True)
    assert line.faults == ["bad-rtcp"]
    line.hear(build([ReceiverReport(7)], "peer"), other, is_rtcp=True)
    assert line.session.leave(line.now)[0][1] == other


def test_quality_is_told_in_figures() -> None:
    line = Line()
    line.speak(50)
    stats = line.session.stats()
    assert (stats.packets_received, stats.octets_received) == (50, 8000)
    assert stats.mos > 4.2
    assert stats.rtt is None


# --- encryption

KEYS = (SrtpKey("AES_CM_128_HMAC_SHA1_80", bytes(range(30))), SrtpKey("AES_CM_128_HMAC_SHA1_80", bytes(range(30, 60))))


def secure() -> tuple[Line, Line]:
    here = Line(dataclasses.replace(PLAN, srtp_send=KEYS[0], srtp_receive=KEYS[1]))
    there = Line(dataclasses.replace(PLAN, srtp_send=KEYS[1], srtp_receive=KEYS[0]))
    return here, there


def exchange(here: Line, there: Line, seconds: float) -> Sequence[bytes]:
    every = []
    for _ in range(round(seconds / 0.02)):
        here.session.play(b"\x22" * 160)
        for line in (here, there):
            line.step()
        for data, _, is_rtcp in here.sent:
            there.hear(data, is_rtcp=is_rtcp)
            every.append(data)
        here.sent.clear()
    return every


def test_encrypted_calls_are_heard_and_replays_and_plain_packets_are_not() -> None:
    here, there = secure()
    every = exchange(here, there, 8.0)
    assert there.audio.count(b"\x22" * 160) > 390
    assert there.faults == []
    assert there.session.stats().last_heard
    there.hear(every[50])
    there.hear(RtpPacket(0, 1, 1, 7, b"\x66" * 160))
    assert there.faults == ["srtp"]
    assert 0x66 not in there.audio


def test_plain_rtcp_that_only_opens_a_nat_is_no_fault_of_an_encrypted_call() -> None:
    _, there = secure()
    app = b"\x80\xcc\x00\x03" + b"\x00\x00\x00\x07" + b"PINGPONG"
    there.hear(app, is_rtcp=True)
    assert there.faults == []
    there.hear(app + app, is_rtcp=True)
    assert there.faults == ["srtp"]


def test_the_same_key_goes_on_and_a_new_one_begins_anew() -> None:
    here, there = secure()
    exchange(here, there, 1.0)
    for line in (here, there):
        line.session.update(line.session.plan, line.now)
    exchange(here, there, 1.0)
    assert there.faults == []
    new = SrtpKey("AEAD_AES_128_GCM", bytes(range(28)))
    here.session.update(dataclasses.replace(here.session.plan, srtp_send=new), here.now)
    there.session.update(dataclasses.replace(there.session.plan, srtp_receive=new), there.now)
    before = len(there.audio)
    exchange(here, there, 1.0)
    assert there.faults == []
    assert len(there.audio) - before > 45 * 160
