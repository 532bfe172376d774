"""The agent's voice towards FreeSWITCH, against the module as it is: thresholds, marks and all."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import numpy as np
import pytest
from fakes.freeswitch import FakeClips, FakeFork
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.base import (
    AcceptAnswer,
    Binary,
    MarkReached,
    MessagesDue,
    ProtocolFault,
    StreamEvent,
)
from offhook.providers.freeswitch.playback import (
    CLEAR_PATIENCE,
    CLIP,
    MAX_MARKS,
    ClipPlayback,
    FilePlayback,
    StreamedPlayback,
    without_markers,
)
from offhook.providers.freeswitch.wire import FreeswitchStream

SILENCE = bytes(320)


def voice(frames: int = 1, value: int = 1000) -> bytes:
    return np.full(160 * frames, value, "<i2").tobytes()


def opened(stream: FreeswitchStream) -> None:
    stream.receive('{"uuid":"c-1","sampleRate":8000}', 0.0)
    stream.accept(AcceptAnswer(), 0.0)


class Line:
    """Gateway and module, joined: every step is 20 ms of both."""

    def __init__(self, *, swallows: bool = True) -> None:
        self.stream = StreamedPlayback()
        opened(self.stream)
        self.fork = FakeFork(swallows=swallows)
        self.now = 0.0
        self.heard = b""
        self.events: list[StreamEvent] = []

    def say(self, pcm: bytes, mark: str = "") -> None:
        """What playout does: frames of 20 ms in real time, then a mark."""
        for start in range(0, len(pcm), 320):
            self.fork.receive(self.stream.media(pcm[start : start + 320]))
            self.step()
        if mark:
            self.fork.receive(self.stream.mark(mark))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.02
            self.heard += self.fork.play()
            said, self.fork.sent = self.fork.sent, []
            for text in said:
                self.take(self.stream.receive(text, self.now))
            self.take(self.stream.receive_binary(SILENCE, self.now))

    def take(self, events: Sequence[StreamEvent]) -> None:
        for event in events:
            if isinstance(event, MessagesDue):
                for message in event.messages:
                    self.fork.receive(message)
            elif isinstance(event, MarkReached | ProtocolFault):
                self.events.append(event)

    def interrupt(self) -> None:
        for message in self.stream.clear(self.now):
            self.fork.receive(message)

    def reached(self) -> list[tuple[str, bool]]:
        assert not [event for event in self.events if isinstance(event, ProtocolFault)]
        return [(event.name, event.cleared) for event in self.events if isinstance(event, MarkReached)]


@pytest.mark.parametrize("frames", [1, 3, 7, 8, 9, 50])
def test_case_6_the_whole_utterance_is_heard_and_its_mark_comes_back(frames: int) -> None:
    line = Line()
    line.say(voice(frames), "u1")
    line.step(30)
    assert line.reached() == [("u1", False)]
    heard = np.frombuffer(line.heard, "<i2")
    assert np.count_nonzero(heard == 1000) == frames * 160
    assert len(heard) - frames * 160 >= 1280  # at least 160 ms of silence behind it
    assert set(heard.tolist()) <= {0, 1000}


def test_case_6_a_mark_inside_an_utterance_puts_no_silence_into_it() -> None:
    line = Line()
    line.say(voice(25), "u1-1")
    line.say(voice(25), "u1-2")
    line.step(30)
    assert line.reached() == [("u1-1", False), ("u1-2", False)]
    heard = np.frombuffer(line.heard, "<i2")
    assert heard[: 50 * 160].tolist() == [1000] * (50 * 160)


def test_silence_follows_once() -> None:
    line = Line()
    line.say(voice(4), "u1")
    line.step(100)
    assert len(line.heard) == len(voice(4)) + 2560


@given(st.binary(max_size=400).map(lambda data: data[: len(data) // 2 * 2]))
def test_case_7_no_sample_of_ours_is_a_marker(pcm: bytes) -> None:
    out = np.frombuffer(without_markers(pcm), "<i2")
    before = np.frombuffer(pcm, "<i2")
    assert not (out == -1).any()
    assert np.abs(out.astype(int) - before).max(initial=0) <= 1


def test_case_7_loud_minus_ones_swallow_no_mark() -> None:
    line = Line()
    line.say(voice(20, -1), "u1")
    line.say(voice(20, -1), "u2")
    line.step(40)
    assert line.reached() == [("u1", False), ("u2", False)]
    assert np.count_nonzero(np.frombuffer(line.heard, "<i2") == -2) == 40 * 160


def test_case_8_the_31st_mark_waits_until_one_is_back() -> None:
    line = Line()
    names = [f"m{number}" for number in range(40)]
    for name in names:
        line.fork.receive(line.stream.media(voice()))
        line.fork.receive(line.stream.mark(name))
    assert len(line.fork.received) == MAX_MARKS
    line.step(100)
    assert line.reached() == [(name, False) for name in names]
    assert line.fork.marks_dropped == 0


@pytest.mark.parametrize("swallows", [True, False])
def test_case_9_barge_in_clears_every_mark_once_and_the_next_ones_still_come_back(swallows: bool) -> None:
    line = Line(swallows=swallows)
    for number in range(3):
        for _ in range(6):
            line.fork.receive(line.stream.media(voice()))
        line.fork.receive(line.stream.mark(f"a{number}"))
    line.step(4)
    line.interrupt()
    before = len(line.heard)
    line.step(10)
    assert line.reached() == [("a0", True), ("a1", True), ("a2", True)]
    assert not np.frombuffer(line.heard[before:], "<i2").any()
    line.events.clear()
    for number in range(3):
        line.say(voice(25, 500), f"b{number}")
    line.step(40)
    assert line.reached() == [("b0", False), ("b1", False), ("b2", False)]
    after = np.frombuffer(line.heard[before:], "<i2")
    assert 1000 not in after  # nothing of what was interrupted
    assert np.count_nonzero(after == 500) == 75 * 160


def test_case_9_without_any_answer_the_marks_are_cleared_after_half_a_second() -> None:
    stream = StreamedPlayback()
    opened(stream)
    stream.media(voice())
    stream.mark("a")
    silence, kill = stream.clear(1.0)
    assert isinstance(silence, Binary)
    assert len(silence) == 2560
    assert json.loads(kill) == {"type": "killAudio"}
    assert len(stream.receive_binary(SILENCE, 1.0 + CLEAR_PATIENCE - 0.01)) == 1
    _, reached = stream.receive_binary(SILENCE, 1.0 + CLEAR_PATIENCE)
    assert reached == MarkReached("a", True)
    assert len(stream.receive_binary(SILENCE, 2.0)) == 1
    late = stream.receive('{"type":"mark","data":{"name":"a","event":"cleared"}}', 2.0)
    assert late == [MessagesDue((b"\xff\xff",))]  # told once; the module's count is put right all the same
    again = stream.receive('{"type":"mark","data":{"name":"a","event":"cleared"}}', 2.1)
    assert isinstance(again[0], ProtocolFault)
    assert again[0].kind == "unknown-mark"


def test_a_mark_played_while_we_clear_counts_as_cleared() -> None:
    stream = StreamedPlayback()
    opened(stream)
    stream.media(voice())
    stream.mark("a")
    stream.clear(1.0)
    assert stream.receive('{"type":"mark","data":{"name":"a","event":"playout"}}', 1.1) == [MarkReached("a", True)]


def test_marks_cleared_by_somebody_else_are_told_as_cleared() -> None:
    stream = StreamedPlayback()
    opened(stream)
    stream.mark("a")
    events = stream.receive('{"type":"mark","data":{"name":"a","event":"cleared"}}', 1.1)
    assert events[0] == MarkReached("a", True)
    assert isinstance(stream.receive('{"type":"mark","data":{"name":"a","event":"eaten"}}', 1.1)[0], ProtocolFault)


def test_a_clear_with_nothing_said_is_only_a_kill() -> None:
    stream = StreamedPlayback()
    opened(stream)
    assert [json.loads(message) for message in stream.clear(0.0)] == [{"type": "killAudio"}]
    assert len(stream.receive_binary(SILENCE, 9.0)) == 1


def test_case_10_clips_are_queued_and_the_twelfth_waits() -> None:
    stream, clips = ClipPlayback(), FakeClips()
    opened(stream)
    for number in range(12):
        assert stream.media(voice()) == b""
        clips.receive(stream.mark(f"u{number}") or b"")
    assert len(clips.playing) == 11
    first = clips.received[0]["data"]
    assert first["audioContentType"] == "raw"
    assert first["sampleRate"] == 8000
    assert first["queuePlay"] is True
    assert base64.b64decode(first["audioContent"]) == voice()
    reached, due = stream.receive(clips.done(), 1.0)
    assert reached == MarkReached("u0", False)
    assert isinstance(due, MessagesDue)
    clips.receive(due.messages[0])
    names = [event.name for _ in range(11) for event in stream.receive(clips.done(), 2.0)]  # type: ignore[attr-defined]
    assert names == [f"u{number}" for number in range(1, 12)]
    assert clips.refused == 0
    assert stream.mark("late") is None  # nothing left that it could follow


def test_speech_without_marks_goes_out_in_clips_and_its_rest_when_it_is_quiet() -> None:
    stream, clips = ClipPlayback(), FakeClips()
    opened(stream)
    for _ in range(30):
        clips.receive(stream.media(voice()))
    assert len(clips.playing) == 1
    assert base64.b64decode(clips.received[0]["data"]["audioContent"]) == voice(int(CLIP / 0.02))
    for step in range(7):
        for event in stream.receive_binary(SILENCE, 1.0 + step * 0.02):
            if isinstance(event, MessagesDue):
                clips.receive(event.messages[0])
    assert len(clips.playing) == 2
    assert base64.b64decode(clips.received[1]["data"]["audioContent"]) == voice(5)
    assert stream.mark("u1") == b""
    assert stream.receive(clips.done(), 2.0) == []
    assert stream.receive(clips.done(), 2.0) == [MarkReached("u1", False)]


def test_a_clear_takes_clips_back() -> None:
    stream, clips = ClipPlayback(), FakeClips()
    opened(stream)
    for number in range(13):
        stream.media(voice())
        clips.receive(stream.mark(f"u{number}") or b"")
    stream.media(voice())
    for message in stream.clear(1.0):
        clips.receive(message)
    assert clips.playing == []
    # One of them reports its end all the same, the others are silent.
    assert stream.receive('{"type":"playDone","data":{"id":"u3"}}', 1.1) == (MarkReached("u3", True),)
    events = stream.receive_binary(SILENCE, 1.0 + CLEAR_PATIENCE)
    assert [event.name for event in events if isinstance(event, MarkReached)] == [
        f"u{number}" for number in range(13) if number != 3
    ]
    assert stream.receive('{"type":"playDone","data":{"id":"u4"}}', 1.6) == ()
    unknown = stream.receive('{"type":"playDone","data":{"id":"x"}}', 1.7)
    assert isinstance(unknown[0], ProtocolFault)
    stream.media(voice())
    clips.receive(stream.mark("next") or b"")
    assert clips.playing == ["next"]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offhook.providers.freeswitch.playback.MAX_WAITING", 2)
    streamed = StreamedPlayback()
    opened(streamed)
    assert sum(streamed.mark(f"m{number}") != b"" for number in range(MAX_MARKS + 5)) == MAX_MARKS
    streamed.clear(1.0)
    cleared = streamed.receive_binary(SILENCE, 2.0)
    assert sum(isinstance(event, MarkReached) for event in cleared) == MAX_MARKS + 2
    clips = ClipPlayback()
    opened(clips)
    for number in range(20):
        clips.media(voice())
        clips.mark(f"u{number}")
    clips.clear(1.0)
    assert sum(isinstance(event, MarkReached) for event in clips.receive_binary(SILENCE, 2.0)) == 13


def test_case_16_the_community_module_gets_files_and_never_binary() -> None:
    stream = FilePlayback()
    opened(stream)
    sent = [stream.media(voice()) for _ in range(26)]
    assert stream.mark("u1") is None
    for step in range(8):
        for event in stream.receive_binary(SILENCE, step * 0.02):
            if isinstance(event, MessagesDue):
                sent += event.messages
    sent += stream.clear(1.0)
    messages = [message for message in sent if message]
    assert not any(isinstance(message, Binary) for message in messages)
    first, second, kill = (json.loads(message) for message in messages)
    assert first["type"] == second["type"] == "streamAudio"
    assert first["data"]["audioDataType"] == "raw"
    assert first["data"]["sampleRate"] == 8000
    assert base64.b64decode(first["data"]["audioData"]) == voice(25)
    assert base64.b64decode(second["data"]["audioData"]) == voice(1)
    assert kill == {"type": "killAudio"}
    assert isinstance(stream.receive('{"type":"playDone","data":{"id":"x"}}', 1.7)[0], ProtocolFault)
