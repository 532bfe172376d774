"""AudioSocket without the socket. Case numbers are those of the wire notes on Asterisk."""

from __future__ import annotations

import itertools
import struct
import time
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.codecs.audio import L16_8K, L16_16K, AudioFormat
from offhook.codecs.dtmf import DtmfDetector
from offhook.codecs.pcm import rms, tone
from offhook.providers.asterisk.audiosocket import (
    FIRST_AUDIO,
    HANGUP,
    KIND_OF_RATE,
    MAX_QUEUED,
    RATES,
    AudioSocketStream,
    MessageReader,
    message,
)
from offhook.providers.asterisk.calls import incoming_call
from offhook.providers.base import (
    FAULT_KINDS,
    AcceptAnswer,
    Binary,
    CallOffered,
    DtmfReceived,
    HangUpAnswer,
    IncomingCall,
    MediaReceived,
    ProtocolFault,
    StreamEnded,
    StreamEvent,
    StreamStarted,
)

ID = "0f2d3c4b-5a69-4788-96a5-b4c3d2e1f001"
NAMED = b"\x01\x00\x10" + uuid.UUID(ID).bytes
CALL = incoming_call(ID, {"from": "+15550001111", "to": "+15550002222", "channel": "17.1"}, "")


def redeem(id: str, now: float) -> IncomingCall | None:
    return CALL if id == ID else None


def stream_up(kind: int = 0x10) -> AudioSocketStream:
    """A stream whose call was accepted, with audio of this kind."""
    stream = AudioSocketStream(redeem)
    stream.receive_binary(NAMED + message(kind, bytes(RATES[kind] // 25 // 2 * 2)), 1.0)
    _, (started,) = stream.accept(AcceptAnswer(), 1.0)
    assert isinstance(started, StreamStarted)
    return stream


def faults(events: object) -> list[tuple[str, int]]:
    assert isinstance(events, list | tuple)
    return [(event.kind, event.close_code) for event in events if isinstance(event, ProtocolFault)]


def test_case_1_a_known_id_is_a_call() -> None:
    known: dict[str, AudioSocketStream] = {}
    stream = AudioSocketStream(redeem, register=known.__setitem__)
    assert stream.next_frame() == b""  # nothing is played to whoever connects
    assert stream.receive_binary(NAMED, 1.0) == [CallOffered(CALL)]
    assert known == {ID: stream}
    assert (stream.stream_id, stream.channel, stream.silent) == (ID, "17.1", True)
    assert stream.next_frame() == b"\x10\x01\x40" + bytes(320)  # or Asterisk gives up while it rings
    assert stream.receive_binary(message(0x10, b"\1\0" * 160), 1.1) == []  # nobody listens yet
    messages, events = stream.accept(AcceptAnswer(), 1.2)
    assert (messages, events) == ((), [StreamStarted(ID, ID, L16_8K, dict(CALL.fields))])
    assert stream.accept(AcceptAnswer(), 1.2) == ((), [])


@pytest.mark.parametrize(
    "data", [b"\x01\x00\x10" + bytes(16), b"\x01\x00\x0f" + bytes(15), b"\x10\x00\x02\0\0", HANGUP]
)
def test_case_1_and_5_anything_else_is_turned_away(data: bytes) -> None:
    stream = AudioSocketStream(redeem)
    fault, ended = stream.receive_binary(data, 1.0)
    assert isinstance(fault, ProtocolFault)
    assert fault.close_code in (1002, 1008)
    assert ended == StreamEnded("protocol-error")
    assert stream.next_frame() == b""
    assert stream.receive_binary(NAMED, 1.0) == ()
    assert stream.closed(1.0) == ()


def test_the_rate_shows_with_the_first_audio_or_is_taken_for_8_khz() -> None:
    stream = AudioSocketStream(redeem)
    stream.receive_binary(NAMED, 1.0)
    assert stream.accept(AcceptAnswer(), 1.0) == ((), [])
    assert stream.awaits_time
    assert stream.receive_binary(b"", 1.0 + FIRST_AUDIO / 2) == []
    first, second = stream.receive_binary(message(0x12, b"\1\0" * 320), 1.15)
    assert isinstance(first, StreamStarted)
    assert (first.format, second) == (L16_16K, MediaReceived(b"\1\0" * 320))
    assert not stream.awaits_time

    stream = AudioSocketStream(redeem)
    stream.receive_binary(NAMED, 1.0)
    stream.accept(AcceptAnswer(), 1.0)
    (started,) = stream.receive_binary(b"", 1.0 + FIRST_AUDIO)
    assert isinstance(started, StreamStarted)
    assert started.format == L16_8K
    # It was guessed wrong: what comes is converted, what goes out stays.
    (heard,) = stream.receive_binary(message(0x12, b"\1\0" * 320), 2.0)
    assert isinstance(heard, MediaReceived)
    assert len(heard.payload) == 320
    assert stream.next_frame()[:3] == b"\x10\x01\x40"


SCRIPT = (
    NAMED
    + b"\x10\x01\x40"
    + b"\1\0" * 160
    + b"\x03\x00\x011"
    + b"\x7a\x00\x05hello"
    + b"\x10\x01\x40"
    + b"\2\0" * 160
    + HANGUP
)


def heard_of(pieces: Iterator[bytes] | list[bytes]) -> list[StreamEvent]:
    stream = AudioSocketStream(redeem)
    events: list[StreamEvent] = []
    for piece in pieces:
        for event in stream.receive_binary(piece, 1.0):
            events.append(event)
            if isinstance(event, CallOffered):
                events += stream.accept(AcceptAnswer(), 1.0)[1]
    return events


@given(st.lists(st.integers(0, len(SCRIPT)), max_size=20))
def test_case_2_cuts_change_nothing(cuts: list[int]) -> None:
    at = [len(NAMED), *sorted(cut for cut in cuts if cut > len(NAMED)), len(SCRIPT)]
    pieces = [SCRIPT[: at[0]], *(SCRIPT[a:b] for a, b in itertools.pairwise(at))]
    assert heard_of(pieces) == heard_of([SCRIPT[: len(NAMED)], SCRIPT[len(NAMED) :]])


def test_case_2_byte_by_byte() -> None:
    events = heard_of([SCRIPT[at : at + 1] for at in range(len(SCRIPT))])
    kinds = [type(event).__name__ for event in events]
    assert kinds == [
        *("CallOffered", "StreamStarted", "MediaReceived", "DtmfReceived"),
        *("ProtocolFault", "MediaReceived", "StreamEnded"),
    ]


def test_case_3_samples_are_little_endian() -> None:
    (media,) = stream_up().receive_binary(b"\x10\x01\x40" + b"\1\0" * 160, 2.0)
    assert isinstance(media, MediaReceived)
    assert struct.unpack("<160h", media.payload) == (1,) * 160


def test_case_4_keys() -> None:
    stream = stream_up()
    assert stream.receive(b"\x03\x00\x015", 2.0) == [DtmfReceived("5")]
    assert stream.receive_binary(b"\x03\x00\x01a", 2.0) == [DtmfReceived("A")]
    for bad in (b"\x03\x00\x00", b"\x03\x00\x0255", b"\x03\x00\x01x", b"\x03\x00\x01\xff"):
        assert faults(stream.receive_binary(bad, 2.0)) == [("bad-dtmf", 0)]


@pytest.mark.parametrize("kind", [0x10, 0x12, 0x16])
def test_our_keys_are_tones(kind: int) -> None:
    stream = stream_up(kind)
    detector = DtmfDetector(stream.format)
    assert stream.send_dtmf("12w#") == b""
    frames = [stream.next_frame()[3:] for _ in range(60)]
    assert [key for frame in frames for key in detector.feed(frame)] == ["1", "2", "#"]
    assert AudioSocketStream(redeem).send_dtmf("1") is None  # not up
    quiet = AudioSocketStream(redeem, tones=False)
    quiet.receive_binary(NAMED + message(kind, bytes(2)), 1.0)
    quiet.accept(AcceptAnswer(), 1.0)
    assert quiet.send_dtmf("1") is None


def test_case_5_unknown_kinds_are_skipped_by_their_length() -> None:
    stream = stream_up()
    events = stream.receive_binary(b"\x7a\x00\x05hello\x02\x00\x00" + NAMED + b"\x03\x00\x017", 2.0)
    assert faults(events) == [("unknown-event", 0), ("second-start", 0)]
    assert events[-1] == DtmfReceived("7")
    big = stream.receive_binary(b"\x10\xff\xff" + bytes(65_535), 2.0)
    assert faults(big) in ([("odd-length", 0)], [("flood", 0)])
    assert stream.receive_binary(b"\x10\x00\x00", 9.0) == []


def test_a_message_that_never_ends_is_kept_once() -> None:
    reader = MessageReader()
    started = time.perf_counter()
    for _ in range(6_000):
        assert list(reader.feed(b"\xff" * 10)) == []
    assert len(reader._rest) == 60_000
    assert time.perf_counter() - started < 1.0
    with pytest.raises(ValueError, match="65535"):
        message(0x10, bytes(65_536))


def test_case_6_the_end_is_told_once() -> None:
    stream = stream_up()
    assert stream.closed(2.0) == (StreamEnded("transport-lost"),)
    assert stream.closed(2.0) == ()
    stream = stream_up()
    assert stream.receive_binary(HANGUP + b"\x03\x00\x017", 2.0) == [StreamEnded("stop")]
    assert stream.over
    assert stream.closed(2.0) == ()
    assert stream.next_frame() == b""


@pytest.mark.parametrize("kind", RATES)
def test_case_7_nothing_but_frames_of_the_right_size_goes_out(kind: int) -> None:
    stream = stream_up(kind)
    frame = RATES[kind] * 20 // 1000 * 2
    silence = struct.pack(">BH", kind, frame) + bytes(frame)
    assert stream.next_frame() == silence
    stream.queue(b"")
    assert stream.next_frame() == silence
    stream.queue(stream.format.silence[:6])
    assert len(stream.next_frame()) == len(silence)
    assert stream.next_frame() == silence


@pytest.mark.parametrize("kind", RATES)
def test_every_rate_both_ways(kind: int) -> None:
    rate = RATES[kind]
    stream = stream_up(kind)
    assert stream.format.rate in (8000, 16_000, 24_000, 48_000)
    size = rate * 20 // 1000 * 2
    wave = tone(440.0, 1.0, 8000)
    assert KIND_OF_RATE[rate] == kind
    # A tone of 1 s, made at 8 kHz and stretched by repeating samples, comes through at its level.
    samples = [wave[at : at + 2] for at in range(0, len(wave), 2)]
    at_rate = b"".join(samples[i * 8000 // rate] for i in range(rate))
    heard = b"".join(
        event.payload
        for at in range(0, len(at_rate), size)
        for event in stream.receive_binary(message(kind, at_rate[at : at + size]), 3.0 + at / rate / 2)
        if isinstance(event, MediaReceived)
    )
    assert stream.format.duration(len(heard)) == pytest.approx(1.0, abs=0.06)
    assert rms(heard) == pytest.approx(rms(wave), rel=0.1)
    stream.queue(heard)
    frames = []
    while (out := stream.next_frame())[3:] != bytes(size):
        assert out[:3] == struct.pack(">BH", kind, size)
        frames.append(out[3:])
        assert len(frames) < 60
    assert len(frames) == pytest.approx(50, abs=4)
    assert rms(b"".join(frames)) == pytest.approx(rms(wave), rel=0.1)


def test_case_8_a_clear_leaves_silence() -> None:
    stream = stream_up()
    sent = stream.media(b"\1\0" * 8000)
    assert type(sent) is Binary
    stream.queue(sent)
    frames = [stream.next_frame() for _ in range(50)]
    assert all(frame == b"\x10\x01\x40" + b"\1\0" * 160 for frame in frames)
    assert stream.next_frame()[3:] == bytes(320)
    stream.queue(sent)
    assert stream.clear(2.0) == ()
    assert stream.next_frame()[3:] == bytes(320)
    assert stream.mark("m1") is None


def test_what_waits_is_bounded() -> None:
    stream = stream_up()
    for _ in range(100):
        stream.queue(bytes(16_000))
    assert len(stream._queue) == MAX_QUEUED * 16_000
    ringing = AudioSocketStream(redeem)
    ringing.queue(bytes(320))
    assert not ringing._queue


@pytest.mark.parametrize(
    ("payload", "word"), [(b"\x01", "hang-up"), (b"\x04", "memory"), (b"\x09", "9"), (b"", "no code")]
)
def test_case_9_an_error_ends_the_call(payload: bytes, word: str) -> None:
    fault, ended = stream_up().receive_binary(message(0xFF, payload), 2.0)
    assert isinstance(fault, ProtocolFault)
    assert (fault.kind, fault.close_code) == ("carrier-error", 0)
    assert isinstance(ended, StreamEnded)
    assert word in ended.detail


def test_refusing_hanging_up_and_giving_back() -> None:
    stream = stream_up()
    assert list(stream.refuse(HangUpAnswer())) == [HANGUP]
    assert list(stream.hang_up()) == [HANGUP]
    assert stream.next_frame() != HANGUP
    stream.leave()
    assert stream.next_frame() == HANGUP


def test_odd_audio_and_floods() -> None:
    stream = stream_up()
    events = stream.receive_binary(message(0x10, b"\1\0\1"), 2.0)
    assert faults(events) == [("odd-length", 0)]
    assert events[-1] == MediaReceived(b"\1\0")
    found = set()
    for i in range(13_000):
        kind = 0x10 if i % 2 else 0x03
        found |= set(faults(stream.receive_binary(message(kind, bytes(1600) if i % 2 else b"1"), 10.0 + i / 1000)))
    assert found == {("flood", 0), ("flood", 1008)}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=30), st.binary(max_size=60))
def test_anything_gives_events(messages: list[tuple[int, bytes]], rest: bytes) -> None:
    stream = stream_up()
    data = b"".join(message(kind, payload) for kind, payload in messages) + rest
    for event in stream.receive_binary(data, 2.0):
        assert isinstance(event, MediaReceived | DtmfReceived | ProtocolFault | StreamEnded)
        assert not isinstance(event, ProtocolFault) or event.kind in FAULT_KINDS


def test_formats_are_what_the_gateway_carries() -> None:
    carried = {kind: str(stream_up(kind).format) for kind in RATES}
    assert carried == {
        0x10: "l16/8000",
        0x11: "l16/16000",
        0x12: "l16/16000",
        0x13: "l16/24000",
        0x14: "l16/48000",
        0x15: "l16/48000",
        0x16: "l16/48000",
        0x17: "l16/48000",
        0x18: "l16/48000",
    }
    assert isinstance(stream_up().format, AudioFormat)
