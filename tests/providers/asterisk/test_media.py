"""chan_websocket against a channel that behaves as Asterisk's. Case numbers are those of the wire notes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fakes.asterisk import WebSocketChannel
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.codecs.audio import L16_16K, PCMA, PCMU, AudioFormat
from offhook.codecs.dtmf import DtmfDetector
from offhook.providers.asterisk.media import MAX_PENDING_MARKS, XOFF_PATIENCE, MediaChannelStream
from offhook.providers.asterisk.wire import MAX_BINARY
from offhook.providers.base import (
    FAULT_KINDS,
    AcceptAnswer,
    Binary,
    CallOffered,
    DtmfReceived,
    MarkReached,
    MediaReceived,
    ProtocolFault,
    RejectAnswer,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)

PARAMETERS = {"from": "+15550001111", "to": "+15550002222", "channel": "1700000000.12", "queue": "sales"}


class Pair:
    """A stream and its channel, wired to each other; events of the stream collect."""

    def __init__(self, parameters: dict[str, str] | None = None, *, marks: bool = True, **channel: Any) -> None:
        self.known: dict[str, MediaChannelStream] = {}
        self.stream = MediaChannelStream(
            PARAMETERS if parameters is None else parameters,
            number="+15559990000",
            marks=marks,
            register=self.known.__setitem__,
        )
        self.channel = WebSocketChannel(**channel)
        self.events: list[StreamEvent] = []
        self.now = 100.0

    def offered(self) -> CallOffered:
        (event,) = self.stream.receive(self.channel.start(), self.now)
        assert isinstance(event, CallOffered)
        return event

    def up(self) -> Pair:
        self.offered()
        messages, events = self.stream.accept(AcceptAnswer(), self.now)
        for message in messages:
            self.send(message)
        self.started = events[0]
        assert isinstance(self.started, StreamStarted)
        return self

    def send(self, message: bytes | None) -> None:
        if message:
            for event in self.channel.take(message, type(message) is not Binary):
                self.events += self.stream.receive(event, self.now)

    def play(self, frames: int) -> None:
        for _ in range(frames):
            self.now += 0.02
            for event in self.channel.tick():
                self.events += self.stream.receive(event, self.now)


@pytest.mark.parametrize("json", [False, True])
def test_a_call_from_its_ring_to_its_end(json: bool) -> None:
    pair = Pair(json=json)
    call = pair.offered().incoming
    assert (call.carrier_call_id, call.direction, call.outbound_id) == ("media:b7c1", "inbound", "")
    assert (call.from_number, call.to_number) == ("+15550001111", "+15550002222")
    assert call.fields["queue"] == "sales"
    stream = pair.stream
    assert pair.known == {"media:b7c1": stream}
    assert (stream.channel, stream.media_channel) == ("1700000000.12", "1700000000.13")
    assert stream.receive_binary(b"\xff" * 160, 100.0) == ()  # nobody listens while it rings
    messages, events = stream.accept(AcceptAnswer(), 100.0)
    pair.send(messages[0])
    assert pair.channel.answered
    assert events == (StreamStarted("media:b7c1", "media:b7c1", PCMU, dict(PARAMETERS)),)
    assert stream.accept(AcceptAnswer(), 100.0) == ((), ())
    assert stream.receive_binary(b"\x7f" * 160, 100.0) == (MediaReceived(b"\x7f" * 160),)
    assert stream.receive_binary(b"", 100.0) == ()
    assert stream.receive(pair.channel.dtmf("5"), 100.0) == (DtmfReceived("5"),)
    (fault,) = stream.receive(pair.channel.dtmf("x"), 100.0)
    assert isinstance(fault, ProtocolFault)
    assert fault.kind == "bad-dtmf"
    for message in stream.hang_up():
        pair.send(message)
    assert pair.channel.hung_up
    assert stream.closed(101.0) == (StreamEnded("transport-lost"),)
    assert stream.closed(101.0) == ()
    (fault,) = stream.receive(b"MEDIA_XON", 101.0)
    assert isinstance(fault, ProtocolFault)
    assert fault.kind == "after-stop"
    assert [event.kind for event in stream.receive_binary(b"\xff", 101.0)] == ["after-stop"]  # type: ignore[attr-defined]


def test_who_calls_may_come_in_channel_variables() -> None:
    variables = {"OFFHOOK_FROM": "anonymous", "OFFHOOK_TO": "+15550003333", "OFFHOOK_DIRECTION": "outbound"}
    variables |= {"OFFHOOK_CHANNEL": "17.5", "SECRET": "of the dialplan"}
    call = Pair({}, json=True, variables=variables).offered().incoming
    assert (call.from_number, call.to_number, call.direction) == ("anonymous", "+15550003333", "outbound")
    assert call.outbound_id == "17.5"
    assert "SECRET" not in str(call.fields)
    call = Pair({"to": "100"}, json=True, variables=variables).offered().incoming
    assert call.to_number == "100"  # the address is nearer
    assert Pair({}).offered().incoming.to_number == "+15559990000"


def test_refusing() -> None:
    pair = Pair()
    assert list(pair.stream.refuse(RejectAnswer())) == []  # which spelling it speaks is not known yet
    pair.offered()
    for message in pair.stream.refuse(RejectAnswer()):
        pair.send(message)
    assert pair.channel.hung_up


@pytest.mark.parametrize(
    ("name", "frame", "carried"),
    [
        ("alaw", 160, PCMA),
        ("slin", 320, AudioFormat("l16", 8000)),
        ("slin16", 640, L16_16K),
        ("slin24", 960, AudioFormat("l16", 24_000)),
        ("slin32", 1280, AudioFormat("l16", 48_000)),
        ("slin48", 1920, AudioFormat("l16", 48_000)),
        ("slin192", 7680, AudioFormat("l16", 48_000)),
    ],
)
def test_formats(name: str, frame: int, carried: AudioFormat) -> None:
    pair = Pair(format=name, frame=frame).up()
    assert pair.stream.format == carried
    for _ in range(50):
        pair.send(pair.stream.media(carried.silence))
    assert pair.channel.discarded == 0
    # Of converted audio the last piece is still on its way.
    assert 47 <= len(pair.channel.queue) <= 50
    heard = sum(
        len(event.payload)
        for _ in range(50)
        for event in pair.stream.receive_binary(bytes(frame), pair.now)
        if isinstance(event, MediaReceived)
    )
    assert 0.9 <= carried.duration(heard) <= 1.0


def test_case_11_what_is_no_whole_frame_is_filled_up() -> None:
    pair = Pair().up()
    pair.send(pair.stream.media(b"\x01" * 1001))
    assert pair.channel.discarded == 0
    assert len(pair.channel.queue) == 7
    pair.play(7)
    assert b"".join(pair.channel.played) == b"\x01" * 1001 + b"\xff" * 119


def test_case_12_xoff_and_xon() -> None:
    pair = Pair().up()
    assert pair.stream.writable
    for _ in range(910):
        if pair.stream.writable:
            pair.send(pair.stream.media(b"\x01" * 160))
    assert not pair.stream.writable
    assert len(pair.channel.queue) == 900
    assert pair.stream.media(b"\x02" * 160) == b""  # sent all the same: kept
    assert pair.stream.held == 160
    pair.play(102)
    assert pair.stream.writable
    pair.send(pair.stream.media(b"\x03" * 160))
    pair.play(900)
    assert pair.channel.played[-3:].count(b"") >= 1
    assert [frame[:1] for frame in pair.channel.played if frame][-2:] == [b"\x02", b"\x03"]
    for _ in range(1200):
        pair.stream.receive(b"MEDIA_XOFF", pair.now)
        pair.stream.media(b"\x02" * 160)
    assert pair.stream.held == 160_000  # 20 s
    pair.stream.clear(pair.now)
    assert pair.stream.held == 0


def test_case_12_no_xon_is_the_end() -> None:
    pair = Pair().up()
    assert pair.stream.receive(b"MEDIA_XOFF", 100.0) == ()
    assert pair.stream.receive_binary(b"\xff" * 160, 100.0 + XOFF_PATIENCE - 0.1) == (MediaReceived(b"\xff" * 160),)
    fault, ended = pair.stream.receive_binary(b"\xff" * 160, 100.0 + XOFF_PATIENCE)
    assert isinstance(fault, ProtocolFault)
    assert (fault.kind, fault.close_code) == ("carrier-error", 1008)
    assert ended == StreamEnded("protocol-error")


def test_marks_come_back_when_they_are_played() -> None:
    pair = Pair(json=True).up()
    for name in ("u1-1", "u1-2"):
        pair.send(pair.stream.media(b"\x01" * 320))
        pair.send(pair.stream.mark(name))
    pair.play(2)
    assert pair.events == []
    pair.play(1)
    assert pair.events == [MarkReached("u1-1", False)]
    pair.play(2)
    assert pair.events == [MarkReached("u1-1", False), MarkReached("u1-2", False)]
    (fault,) = pair.stream.receive(b'{"event":"MEDIA_MARK_PROCESSED","correlation_id":"u9"}', pair.now)
    assert isinstance(fault, ProtocolFault)
    assert fault.kind == "unknown-mark"
    for number in range(MAX_PENDING_MARKS + 5):
        pair.stream.mark(f"m{number}")
    assert len(pair.stream._marks) == MAX_PENDING_MARKS
    for _ in range(2):
        pair.stream.clear(pair.now)
        pair.stream.mark("last")
    pair.stream.clear(pair.now)
    cleared = pair.stream.receive(b"QUEUE_DRAINED", pair.now)
    assert len(cleared) == MAX_PENDING_MARKS
    assert cleared[-2:] == (MarkReached("last", True), MarkReached("last", True))


def test_case_13_barge_in() -> None:
    pair = Pair().up()
    for name in ("m1", "m2"):
        pair.send(pair.stream.media(b"\x01" * 1600))
        pair.send(pair.stream.mark(name))
    for message in pair.stream.clear(pair.now):
        pair.send(message)
    assert not pair.channel.queue
    assert pair.stream.receive_binary(b"\xff" * 160, pair.now) == (
        MarkReached("m1", True),
        MarkReached("m2", True),
        MediaReceived(b"\xff" * 160),
    )
    assert pair.stream.receive(b"MEDIA_MARK_PROCESSED m1", pair.now) == ()  # it crossed the clear
    pair.send(pair.stream.mark("m3"))
    pair.play(1)
    assert pair.events == [MarkReached("m3", False)]


def test_case_14_a_mark_that_is_too_long_is_refused_here() -> None:
    pair = Pair().up()
    with pytest.raises(ValueError, match="128 bytes"):
        pair.stream.mark("x" * 200)
    assert not pair.channel.ignored
    assert Pair(marks=False).up().stream.mark("m1") is None


def test_case_15_large_audio_is_split() -> None:
    pair = Pair().up()
    first = pair.stream.media(b"\x01" * 150_000)
    assert len(first) == MAX_BINARY // 160 * 160
    second, third = pair.stream.media(b""), pair.stream.media(b"")
    assert first + second + third == b"\x01" * 150_000 + b"\xff" * (-150_000 % 160)
    assert pair.stream.media(b"") == b""


@pytest.mark.parametrize("text", ["ERROR: MARK_MEDIA not supported in passthrough mode", '{"event":"ERROR"}'])
def test_case_16_errors_are_told_and_end_nothing(text: str) -> None:
    pair = Pair().up()
    (fault,) = pair.stream.receive(text, pair.now)
    assert isinstance(fault, ProtocolFault)
    assert (fault.kind, fault.close_code) == ("carrier-error", 0)
    (fault,) = pair.stream.receive("FOO:", pair.now)
    assert isinstance(fault, ProtocolFault)
    assert (fault.kind, fault.close_code) == ("unknown-event", 0)
    (fault,) = pair.stream.receive("{", pair.now)
    assert isinstance(fault, ProtocolFault)
    assert fault.kind == "bad-message"
    for ignored in ("STATUS queue_length:0", "QUEUE_DRAINED", "MEDIA_BUFFERING_COMPLETED x"):
        assert pair.stream.receive(ignored, pair.now) == ()


@pytest.mark.parametrize("format", ["opus", "g729", ""])
def test_case_18_audio_we_cannot_read(format: str) -> None:
    pair = Pair(format=format)
    fault, ended = pair.stream.receive(pair.channel.start(), 100.0)
    assert isinstance(fault, ProtocolFault)
    assert (fault.kind, fault.close_code) == ("unsupported-format", 1003)
    assert "c(slin16)" in fault.detail
    assert ended == StreamEnded("protocol-error")


def test_our_keys_are_tones() -> None:
    pair = Pair().up()
    pair.send(pair.stream.send_dtmf("12w#"))
    pair.play(60)
    detector = DtmfDetector(PCMU)
    assert [key for frame in pair.channel.played for key in detector.feed(frame)] == ["1", "2", "#"]
    assert pair.stream.send_dtmf("5" * 64) is None  # more than a message
    assert pair.stream.held == 0
    pair.stream.receive(b"MEDIA_XOFF", pair.now)
    assert pair.stream.send_dtmf("1") is None
    assert MediaChannelStream({}, tones=False).send_dtmf("1") is None


def test_starts_out_of_order() -> None:
    stream = MediaChannelStream({})
    (fault,) = stream.receive_binary(b"\xff", 1.0)
    assert isinstance(fault, ProtocolFault)
    assert fault.kind == "media-before-start"
    fault, _ = stream.receive(b"MEDIA_START format:ulaw", 1.0)
    assert isinstance(fault, ProtocolFault)
    assert (fault.kind, fault.close_code) == ("bad-message", 1008)
    pair = Pair().up()
    (fault,) = pair.stream.receive(pair.channel.start(), 1.0)
    assert isinstance(fault, ProtocolFault)
    assert fault.kind == "second-start"


@pytest.mark.parametrize("size", ["", "0", "-5", "99999999", "161000", "abc", "641"])
def test_a_frame_size_that_is_none(size: str) -> None:
    stream = MediaChannelStream({})
    text = f"MEDIA_START connection_id:a format:slin16 optimal_frame_size:{size}"
    (offered,) = stream.receive(text, 1.0)
    assert isinstance(offered, CallOffered)
    stream.accept(AcceptAnswer(), 1.0)
    assert len(stream.media(b"\x01\x00")) == 640


def test_a_flood_is_dropped_and_ends_the_call() -> None:
    pair = Pair().up()
    kinds = set()
    for i in range(12_000):
        for event in pair.stream.receive_binary(b"\xff" * 1600, 100.0 + i / 1000):
            if isinstance(event, ProtocolFault):
                kinds.add((event.kind, event.close_code))
            if isinstance(event, StreamEnded):
                break
    assert kinds - {("after-stop", 0)} == {("flood", 0), ("flood", 1008)}
    assert {kind for kind, _ in kinds} <= FAULT_KINDS


MESSAGES = [
    *(WebSocketChannel(json=spelt, format=name).start() for spelt in (False, True) for name in ("ulaw", "slin44")),
    b"DTMF_END digit:5 channel_id:17.1",
    b'{"event":"MEDIA_MARK_PROCESSED","channel_id":"17.1","correlation_id":"m1"}',
    b"MEDIA_XOFF",
    b"MEDIA_XON",
    b"ERROR: what",
]


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(MESSAGES), st.integers(0, 300), st.integers(0, 40), st.binary(max_size=8))))
def test_mutated_messages_give_events(edits: list[tuple[bytes, int, int, bytes]]) -> None:
    stream = MediaChannelStream({})
    for number, (message, at, size, put) in enumerate(edits):
        started = time.perf_counter()
        events = [
            *stream.receive(message[:at] + put + message[at + size :], 1.0 + number),
            *stream.receive_binary(put, 1.0 + number),
        ]
        assert time.perf_counter() - started < 0.05
        for event in events:
            assert isinstance(event, StreamEvent)
            assert not isinstance(event, ProtocolFault) or (event.kind in FAULT_KINDS and len(event.detail) <= 200)
            if isinstance(event, CallOffered):
                stream.accept(AcceptAnswer(), 1.0 + number)
                stream.media(put)
