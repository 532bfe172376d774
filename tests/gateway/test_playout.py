"""Playout against the carriers' own play-out buffers, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from offhook.agents.link import UtteranceEnded
from offhook.codecs.audio import PCMU
from offhook.gateway import playout as subject
from offhook.gateway.bed import Bed
from offhook.gateway.playout import Playout, PlayoutClock
from offhook.providers.base import MarkReached, MediaStream
from offhook.providers.carrier_side import CarrierSide, Cleared
from offhook.providers.plivo.wire import PlivoCarrierSide, PlivoStream
from offhook.providers.twilio.wire import TwilioCarrierSide, TwilioStream

pytestmark = pytest.mark.virtual_time


class Line:
    """A call's two ends with a network of `delay` seconds each way between them."""

    def __init__(self, carrier: str = "twilio", delay: float = 0.0) -> None:
        self.side: CarrierSide
        self.stream: MediaStream
        if carrier == "twilio":
            self.side = TwilioCarrierSide(account_sid="AC" + "0" * 32, call_sid="CA" + "1" * 32)
            self.stream = TwilioStream(expect_call_id="CA" + "1" * 32)
        else:
            self.side = PlivoCarrierSide(call_id="c-1", account_id="MA1")
            self.stream = PlivoStream(expect_call_id="c-1")
        self.loop = asyncio.get_running_loop()
        self.delay = delay
        self.writable = True
        self.sent: list[bytes] = []
        self.sent_at: list[float] = []
        self.cleared = 0
        self.started: list[tuple[int, float]] = []
        self.voiced: list[tuple[int, float]] = []
        self.heard: list[tuple[int, float]] = []
        self.ended: list[UtteranceEnded] = []
        self.audio: list[tuple[float, int]] = []
        self.cuts: list[float] = []
        self.idle_at: list[float] = []
        for message in self.side.open(self.loop.time()):
            self.stream.receive(message, self.loop.time())
        self.clock = PlayoutClock()
        self.playout = Playout(self.clock, self.stream, self, self)
        self._carrier = self.loop.create_task(self._play())

    async def _play(self) -> None:
        while True:
            await asyncio.sleep(0.005)
            for message in self.side.due(self.loop.time()):
                self.loop.call_later(self.delay, self._from_carrier, message)

    def _from_carrier(self, message: bytes) -> None:
        for event in self.stream.receive(message, self.loop.time()):
            if isinstance(event, MarkReached):
                self.playout.mark_reached(event.name, event.cleared)

    async def hang_up(self) -> None:
        self._carrier.cancel()
        await asyncio.wait([self._carrier])
        self.playout.close()

    # the socket

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        self.sent_at.append(self.loop.time())
        self.loop.call_later(self.delay, self._to_carrier, message)

    def _to_carrier(self, message: bytes) -> None:
        self.cleared += sum(isinstance(event, Cleared) for event in self.side.receive(message, self.loop.time()))

    # the listener

    def utterance_started(self, utterance: int, at: float) -> None:
        self.started.append((utterance, at))

    def utterance_voiced(self, utterance: int, at: float) -> None:
        self.voiced.append((utterance, at))

    def utterance_heard(self, utterance: int, at: float) -> None:
        self.heard.append((utterance, at))

    def utterance_ended(self, ended: UtteranceEnded, text: str) -> None:
        self.ended.append(ended)

    def audio_sent(self, payload: bytes, play_at: float) -> None:
        self.audio.append((play_at, len(payload)))

    def audio_cut(self, at: float) -> None:
        self.cuts.append(at)

    def playout_idle(self) -> None:
        self.idle_at.append(self.loop.time())

    # the agent

    def say(self, id: int, seconds: float, text: str = "") -> None:
        self.playout.speak(id, text)
        self.playout.audio(b"\x10" * PCMU.size(seconds))
        self.playout.spoken(id)


@pytest.fixture
async def line(request: pytest.FixtureRequest) -> Any:
    made = Line(*getattr(request, "param", ()))
    yield made
    await made.hang_up()


both = pytest.mark.parametrize("line", [("twilio",), ("plivo",)], indirect=True)


@both
async def test_a_sentence_is_played_whole_and_never_far_ahead(line: Line) -> None:
    line.say(1, 2.0)
    for _ in range(220):
        assert line.side.queued(line.loop.time()) <= subject.MAX_AHEAD + 1e-6
        await asyncio.sleep(0.01)
    assert line.ended == [UtteranceEnded(1, "played", 2000, 2000)]
    assert line.side.play(line.loop.time()).count(b"\x10") == 16_000
    assert line.idle_at


@both
async def test_the_first_audio_leaves_at_once(line: Line) -> None:
    await asyncio.sleep(0.0137)
    at = line.loop.time()
    line.say(1, 0.5)
    assert line.started == [(1, at)]
    assert line.sent_at[0] == at


@both
async def test_an_interrupted_sentence_ends_cut_at_what_was_heard(line: Line) -> None:
    line.say(1, 3.0, "one")
    line.say(2, 1.0, "two")
    await asyncio.sleep(1.3)
    ends = line.playout.clear()
    await asyncio.sleep(0.1)
    assert [(end.utterance, end.outcome) for end in ends] == [(1, "cut"), (2, "dropped")]
    assert ends[0].heard_ms == pytest.approx(1300, abs=25)
    assert ends[0].length_ms == 3000
    assert line.ended == ends
    assert line.cleared == 1
    sent_before = len(line.sent)
    await asyncio.sleep(1)
    assert len(line.sent) == sent_before
    assert line.side.queued(line.loop.time()) == 0


@pytest.mark.parametrize("line", [("twilio", 0.12)], indirect=True)
async def test_what_was_heard_allows_for_the_way_to_the_carrier(line: Line) -> None:
    line.say(1, 3.0)
    await asyncio.sleep(2.0)
    heard = line.playout.clear()[0].heard_ms
    # Sent 2.0 s ago, heard from 120 ms later on, and the marks that tell so take 120 ms back.
    assert heard == pytest.approx(1760, abs=30)


@both
async def test_a_mark_brought_back_by_a_clear_is_not_hearing(line: Line) -> None:
    line.say(1, 0.6)
    await asyncio.sleep(0.45)  # the final mark is on its way
    line.playout.clear()
    await asyncio.sleep(1)
    assert [end.outcome for end in line.ended] == ["cut"]


async def test_utterances_end_in_order_and_once(line: Line) -> None:
    for id in (1, 2, 3):
        line.say(id, 0.3)
    await asyncio.sleep(1.5)
    assert [(end.utterance, end.outcome) for end in line.ended] == [(1, "played"), (2, "played"), (3, "played")]
    line.playout.clear()
    assert len(line.ended) == 3


async def test_an_empty_utterance_is_played_at_once(line: Line) -> None:
    line.say(1, 0.0)
    assert line.ended == [UtteranceEnded(1, "played", 0, 0)]


async def test_a_streamed_utterance_waits_for_whole_frames(line: Line) -> None:
    line.playout.speak(1, "")
    line.playout.audio(b"\x10" * 1000)
    line.playout.audio(b"\x11" * 90)
    await asyncio.sleep(0.01)
    assert all(size == 160 for _, size in line.audio)
    line.playout.audio(b"\x12" * 70)
    line.playout.spoken(1)
    await asyncio.sleep(0.5)
    assert sum(size for _, size in line.audio) == 1160
    assert line.ended[0].outcome == "played"


async def test_a_part_of_a_frame_leaves_when_nothing_else_comes(line: Line) -> None:
    line.playout.speak(1, "")
    line.playout.audio(b"\x10" * 100)
    await asyncio.sleep(0.1)
    assert [size for _, size in line.audio] == [100]


async def test_live_audio_goes_straight_through(line: Line) -> None:
    for _ in range(50):
        line.playout.audio(b"\x10" * 160)
        assert line.sent_at[-1] == line.loop.time()
        await asyncio.sleep(0.02)
    assert len(line.sent) == 50
    assert not line.playout.dropped_ms


async def test_live_audio_that_comes_too_fast_loses_its_oldest(line: Line) -> None:
    for i in range(50):
        line.playout.audio(bytes([i]) * 160)
    await asyncio.sleep(1)
    assert line.playout.dropped_ms == pytest.approx(600, abs=40)
    assert line.side.play(line.loop.time())[-160:] != b""
    assert sum(size for _, size in line.audio) == 8000 - line.playout.dropped_ms * 8


async def test_live_audio_does_not_go_on_waiting_where_we_pace_it_ourselves(line: Line) -> None:
    line.stream.paced = True
    line.stream.backlog = lambda: 0.05  # type: ignore[method-assign]
    for _ in range(subject.LOOK_BACK):
        line.playout.audio(b"\x10" * 160)
        await asyncio.sleep(0.02)
    line.stream.backlog = lambda: 0.01  # type: ignore[method-assign]
    for _ in range(3 * subject.LOOK_BACK):
        line.playout.audio(b"\x10" * 160)
        await asyncio.sleep(0.02)
    assert line.playout.dropped_ms == 40
    assert line.playout.sent_end - line.loop.time() <= 0.05


async def test_live_audio_that_waits_now_and_then_is_left_alone(line: Line) -> None:
    line.stream.paced = True
    for i in range(5 * subject.LOOK_BACK):
        line.stream.backlog = lambda i=i: 0.08 if i % 10 else 0.01  # type: ignore[method-assign]
        line.playout.audio(b"\x10" * 160)
        await asyncio.sleep(0.02)
    assert not line.playout.dropped_ms


async def test_a_burst_of_live_audio_is_not_carried_along_by_the_carrier(line: Line) -> None:
    await asyncio.sleep(0.3)
    for _ in range(15):
        line.playout.audio(b"\x10" * 160)
    for _ in range(30 * subject.LOOK_BACK):
        line.playout.audio(b"\x10" * 160)
        await asyncio.sleep(0.02)
    assert line.playout.sent_end - line.loop.time() <= 0.021
    assert line.playout.dropped_ms == pytest.approx(300, abs=20)


async def test_what_waits_on_our_side_is_not_taken_for_heard(line: Line) -> None:
    line.stream.backlog = lambda: 0.3  # type: ignore[method-assign]
    line.say(1, 0.1)
    assert line.playout.play_end - line.loop.time() == pytest.approx(0.32)


async def test_a_carrier_that_does_not_read_gets_nothing_stale(line: Line) -> None:
    line.writable = False
    for i in range(100):
        line.playout.audio(bytes([i]) * 160)
        await asyncio.sleep(0.02)
    assert line.sent == []
    line.writable = True
    await asyncio.sleep(0.5)
    assert line.playout.dropped_ms >= 1700
    assert line.side.play(line.loop.time()).count(bytes([99])) == 160


async def test_an_utterance_beyond_the_limit_is_cut_short(line: Line) -> None:
    line.say(1, subject.MAX_QUEUED + 10)
    assert line.playout.dropped_ms == pytest.approx(10_000, abs=300)
    line.playout.clear()
    assert line.ended[0].length_ms == pytest.approx(subject.MAX_QUEUED * 1000, abs=300)


async def test_a_mark_that_never_comes_back_is_given_up(line: Line) -> None:
    line._carrier.cancel()
    line.say(1, 0.5)
    await asyncio.sleep(0.5 + subject.MARK_GRACE - 0.2)
    assert line.ended == []
    await asyncio.sleep(0.4)
    assert line.ended == [UtteranceEnded(1, "played", 500, 500)]
    assert line.idle_at


async def test_closing_ends_every_utterance_and_sends_nothing(line: Line) -> None:
    line.say(1, 1.0)
    line.say(2, 1.0)
    await asyncio.sleep(0.5)
    before = len(line.sent)
    line.playout.close()
    line.playout.close()
    line.say(3, 1.0)
    await asyncio.sleep(2)
    assert len(line.sent) == before
    assert [(end.utterance, end.outcome) for end in line.ended] == [(1, "cut"), (2, "dropped")]


async def test_a_late_tick_sends_what_it_owes(line: Line) -> None:
    line.say(1, 1.0)
    line.clock._due -= 0.1  # as if the loop had been busy for 100 ms
    await asyncio.sleep(0.05)
    assert line.clock.late_ticks >= 1
    await asyncio.sleep(1.5)
    assert line.ended[0].outcome == "played"


async def test_the_tick_rests_when_nothing_waits(line: Line) -> None:
    line.say(1, 0.3)
    await asyncio.sleep(1)
    ticks = line.clock.ticks
    await asyncio.sleep(5)
    assert line.clock.ticks == ticks


async def test_an_end_that_no_mark_tells_and_an_early_timer(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line.stream, "mark", lambda name: None)
    call_at = line.loop.call_at
    monkeypatch.setattr(line.loop, "call_at", lambda at, *what, **more: call_at(at - 0.0004, *what, **more))
    start = line.loop.time()
    line.say(1, 0.5)
    await asyncio.sleep(1)
    assert line.ended == [UtteranceEnded(1, "played", 500, 500)]
    assert line.idle_at == [pytest.approx(start + 0.5, abs=0.002)]


async def test_the_recording_hears_one_clock(line: Line) -> None:
    line.say(1, 0.5)
    await asyncio.sleep(0.3)
    line.playout.clear()
    await asyncio.sleep(0.2)
    line.say(2, 0.2)
    await asyncio.sleep(0.5)
    starts = [at for at, _ in line.audio]
    assert starts == sorted(starts) or line.cuts, "times only step back across a cut"
    assert line.cuts == [pytest.approx(0.3, abs=0.001)]
    first_of_two = next(at for at in starts if at > 0.495)
    assert first_of_two == pytest.approx(0.5, abs=0.03)


# --- a bed


def lay(line: Line, byte: int = 0x70) -> None:
    line.playout.lay(Bed(bytes([byte]) * 1000, PCMU))


@both
async def test_a_bed_goes_on_alone_just_ahead_of_time(line: Line) -> None:
    lay(line)
    await asyncio.sleep(0.01)
    for _ in range(100):
        assert 0.004 < line.side.queued(line.loop.time()) <= subject.BED_AHEAD + 1e-6
        await asyncio.sleep(0.0103)
    assert line.playout.idle
    assert not line.playout.speaking
    assert not line.started
    assert sum(size for _, size in line.audio) == pytest.approx(1.04 * 8000, abs=400)


@both
async def test_a_word_over_a_bed_waits_for_two_frames_at_most(line: Line) -> None:
    lay(line)
    waits = []
    for id in range(1, 40):
        await asyncio.sleep(0.237)
        at = line.loop.time()
        count = len(line.audio)
        line.say(id, 0.05)
        assert line.started[-1] == (id, at)
        waits.append(line.audio[count][0] - at)
    assert min(waits) >= 0
    assert max(waits) <= subject.BED_AHEAD + 1e-6


def test_that_wait_costs_little() -> None:
    assert subject.BED_AHEAD <= 0.045


@pytest.mark.parametrize("bed", [False, True])
@both
async def test_a_bed_changes_nothing_of_what_is_reported(line: Line, bed: bool) -> None:
    if bed:
        lay(line)
    await asyncio.sleep(1)
    at = line.loop.time()
    line.say(1, 1.0)
    assert line.playout.speaking
    assert not line.playout.idle
    await asyncio.sleep(1.15)
    assert line.ended == [UtteranceEnded(1, "played", 1000, 1000)]
    assert line.playout.idle
    assert line.idle_at[0] - at == pytest.approx(1.0, abs=0.06)
    line.say(2, 2.0)
    await asyncio.sleep(0.8)
    assert line.playout.clear()[0].heard_ms == pytest.approx(800, abs=50)
    assert not line.playout.speaking


@both
async def test_a_bed_goes_on_at_once_after_a_clear(line: Line) -> None:
    lay(line)
    line.say(1, 2.0)
    await asyncio.sleep(0.5)
    line.playout.clear()
    assert line.cleared == 0  # still on its way
    sent = len(line.audio)
    assert line.audio[-1][0] < line.loop.time() + subject.BED_AHEAD
    await asyncio.sleep(1)
    assert len(line.audio) - sent == pytest.approx(50, abs=2)
    assert line.cleared == 1
    assert line.side.queued(line.loop.time()) > 0.004


async def test_a_clear_with_nobody_speaking_leaves_the_bed_alone(line: Line) -> None:
    lay(line)
    await asyncio.sleep(1)
    line.playout.clear()
    await asyncio.sleep(1)
    assert line.cleared == 0
    assert not line.cuts
    starts = [at for at, _ in line.audio]
    assert all(later - earlier == pytest.approx(0.02) for earlier, later in pairwise(starts))


async def test_the_loop_goes_on_where_the_clear_took_it_back(line: Line) -> None:
    line.playout.lay(Bed(bytes(range(250)) * 64, PCMU))
    line.playout.audio(b"\xff" * 160)
    line.say(1, 2.0)
    await asyncio.sleep(0.5)
    line.playout.clear()
    assert line.playout._bed is not None
    assert line.playout._bed._at == pytest.approx(8 * (500 + 40), abs=200)


async def test_a_bed_fills_the_gaps_of_a_voice_that_comes_slowly(line: Line) -> None:
    lay(line)
    line.playout.speak(1, "")
    for _ in range(10):
        line.playout.audio(b"\x10" * 90)  # 11 ms every 30
        await asyncio.sleep(0.03)
    line.playout.spoken(1)
    await asyncio.sleep(0.5)
    assert line.ended[0].outcome == "played"
    starts = [at + size / 8000 for at, size in line.audio]
    begins = [at for at, _ in line.audio]
    assert all(begin == pytest.approx(end) for end, begin in zip(starts, begins[1:], strict=False)), "no hole"


async def test_live_audio_and_a_bed_go_out_together(line: Line) -> None:
    lay(line)
    for _ in range(50):
        line.playout.audio(b"\x10" * 160)
        await asyncio.sleep(0.02)
    assert not line.playout.dropped_ms
    assert len(line.audio) <= 53


async def test_a_carrier_that_does_not_read_gets_no_old_bed(line: Line) -> None:
    lay(line)
    await asyncio.sleep(0.1)
    line.writable = False
    sent = len(line.audio)
    await asyncio.sleep(2)
    assert len(line.audio) == sent
    line.writable = True
    await asyncio.sleep(0.1)
    assert len(line.audio) - sent <= 7


async def test_a_bed_taken_away_leaves_the_tick_at_rest(line: Line) -> None:
    lay(line)
    await asyncio.sleep(0.5)
    line.playout.lay(None)
    await asyncio.sleep(0.1)
    ticks, sent = line.clock.ticks, len(line.audio)
    await asyncio.sleep(1)
    assert (line.clock.ticks, len(line.audio)) == (ticks, sent)
    line.playout.close()
    lay(line)
    await asyncio.sleep(0.1)
    assert len(line.audio) == sent


async def test_a_mark_that_follows_bed_frames_is_no_lag(line: Line) -> None:
    lay(line)
    line.playout.speak(1, "")
    line.playout.audio(b"\x10" * 1600)
    await asyncio.sleep(1)
    line.playout.spoken(1)
    await asyncio.sleep(0.2)
    assert line.ended[0].outcome == "played"
    assert line.playout._lag < 0.02


# --- where the voice of an utterance begins, and when it is heard


@pytest.mark.parametrize("line", [("twilio", 0.04), ("plivo", 0.04)], indirect=True)
async def test_the_voice_is_heard_behind_its_silence_and_the_way_to_the_carrier(line: Line) -> None:
    now = line.loop.time()
    line.playout.speak(1, "")
    line.playout.audio(PCMU.silence * 5 + b"\xff" * 80 + b"\x10" * PCMU.size(0.7))
    await asyncio.sleep(0.4)
    assert line.voiced == [(1, now)]
    assert line.heard == []  # no mark has come back
    line.playout.spoken(1)
    await asyncio.sleep(0.4)
    line.playout.audio(b"")
    [(id, at)] = line.heard
    assert id == 1
    # The trip there and the one back: on the caller's side it is heard 0.04 s earlier, and so was he by us.
    assert at == pytest.approx(now + 0.11 + 0.08, abs=0.021)
    await asyncio.sleep(0.5)
    assert len(line.voiced) == len(line.heard) == 1


@both
async def test_each_utterance_has_a_voice_of_its_own_and_silence_has_none(line: Line) -> None:
    now = line.loop.time()
    line.say(1, 0.3)
    line.playout.speak(2, "")
    line.playout.audio(PCMU.silence * 10)
    line.playout.spoken(2)
    line.say(3, 0.3)
    await asyncio.sleep(1.5)
    assert [id for id, _ in line.voiced] == [1, 3]
    assert [(id, pytest.approx(at, abs=0.011)) for id, at in line.heard] == [(1, now), (3, now + 0.5)]


@both
async def test_a_voice_that_was_taken_back_was_not_heard(line: Line) -> None:
    line.playout.speak(1, "")
    line.playout.audio(PCMU.silence * 8 + b"\x10" * PCMU.size(1.0))
    await asyncio.sleep(0.1)
    line.playout.clear()
    assert (len(line.voiced), line.heard) == (1, [])


async def test_a_voice_whose_mark_is_lost_is_heard_by_the_model(line: Line) -> None:
    now = line.loop.time()
    line.say(1, 0.4)
    await asyncio.sleep(0.1)
    line._carrier.cancel()
    await asyncio.sleep(subject.MARK_GRACE + 0.5)
    assert line.heard == [(1, pytest.approx(now))]
    assert line.ended[0].outcome == "played"
