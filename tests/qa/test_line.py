"""The line without sockets: what is said lies where it was sent, what is heard lies where it was played."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

import numpy as np
import pytest
from numpy.testing import assert_allclose

from offhook.codecs.audio import L16_16K
from offhook.codecs.g711 import pcm_to_ulaw
from offhook.providers.carrier_side import CarrierSide
from offhook.providers.plivo.wire import PlivoCarrierSide
from offhook.providers.twilio.wire import TwilioCarrierSide
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.line import FRAME, Line
from offhook.qa.measure import FRAME_S, measure
from offhook.qa.phones.base import LineEvent, Mouth, Unable

STREAM = "MZ01"


def twilio() -> Line:
    return Line(TwilioCarrierSide(account_sid="AC01", call_sid="CA01", stream_sid=STREAM))


def noise(seconds: float, seed: int = 0) -> Samples:
    return np.asarray(np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)), np.int16)


def media(pcm: Samples) -> str:
    payload = b64encode(pcm_to_ulaw(pcm.tobytes())).decode()
    return json.dumps({"event": "media", "streamSid": STREAM, "media": {"payload": payload}})


def order(event: str, **fields: object) -> str:
    return json.dumps({"event": event, "streamSid": STREAM, **fields})


def run(line: Line, until: float, inbox: dict[float, list[str]], started: float = 100.0) -> list[dict[str, object]]:
    """Run the line to second `until` of its track with messages that arrive at given seconds; gives what it sent."""
    sent = [*line.open(started)]
    arrivals = sorted(inbox)
    while line.seconds < until:
        due = line.frame_due
        while arrivals and started + arrivals[0] <= due:
            at = arrivals.pop(0)
            for message in inbox[at]:
                line.receive(message, started + at)
            sent += line.owed(started + at)
        sent += line.frame(due)
    return [json.loads(message) for message in sent]


def test_the_first_messages_are_those_of_the_carrier() -> None:
    sent = run(twilio(), 0.04, {})
    assert [message["event"] for message in sent] == ["connected", "start", "media", "media"]


def test_speech_lies_in_the_track_where_it_leaves() -> None:
    line = twilio()
    line.open(5.0)
    for _ in range(3):
        line.frame(line.frame_due)
    speech = noise(0.05)
    where = line.say(speech)
    assert where == Span(3 * FRAME_S, pytest.approx(0.11))
    assert line.say(noise(0.02)).start == pytest.approx(0.11)
    frames = [line.frame(line.frame_due)[0] for _ in range(4)]
    assert not line.saying
    assert_allclose(line.caller[3 * FRAME :][: len(speech)], speech)
    first = b64decode(json.loads(frames[0])["media"]["payload"])
    assert first == pcm_to_ulaw(speech[:FRAME].tobytes())
    assert list(line.left_at) == pytest.approx([(n + 1) * FRAME_S for n in range(7)])


def test_hush_forgets_what_is_not_said_yet() -> None:
    line = twilio()
    line.open(0.0)
    line.say(noise(2.0))
    line.frame(FRAME_S)
    line.hush()
    line.frame(2 * FRAME_S)
    assert not line.saying
    assert not line.caller[FRAME:].any()


def test_the_agent_is_heard_from_the_moment_its_audio_arrives() -> None:
    line = twilio()
    heard = noise(1.0)
    run(line, 3.0, {1.0: [media(heard[:4000]), media(heard[4000:])]})
    spans = measure(line.conversation(99.5)).agent_spans
    assert [(span.start, span.end) for span in spans] == [pytest.approx((1.0, 2.0), abs=0.011)]
    assert measure(line.conversation(99.5)).greeting_ms == pytest.approx(1500, abs=20)
    assert line.activity.speaking_since is None


def test_a_mark_comes_back_when_its_audio_has_been_heard() -> None:
    line = twilio()
    sent = run(line, 1.0, {0.1: [media(noise(0.5)), order("mark", mark={"name": "end"})]})
    marks = [index for index, message in enumerate(sent) if message["event"] == "mark"]
    assert len(marks) == 1
    assert sum(message["event"] == "media" for message in sent[: marks[0]]) == pytest.approx(0.6 / FRAME_S, abs=1)


def test_clear_cuts_what_is_heard_and_brings_the_marks_back() -> None:
    line = twilio()
    inbox = {0.1: [media(noise(2.0)), order("mark", mark={"name": "end"})], 0.635: [order("clear")]}
    sent = run(line, 1.5, inbox)
    assert [message["mark"] for message in sent if message["event"] == "mark"] == [{"name": "end"}]
    made = measure(line.conversation(100.0))
    assert made.agent_spans[0].end == pytest.approx(0.635, abs=0.011)
    assert [arrival.kind for arrival in line.arrivals] == ["media", "mark", "clear"]
    assert line.arrivals[-1].at == pytest.approx(0.635)
    assert line.arrivals[-1].seconds == pytest.approx(2.0 - 0.535, abs=0.001)
    assert line.conversation(100.0).clears == [pytest.approx(0.635)]


def test_a_barge_in_is_measured_to_the_frame() -> None:
    line = twilio()
    sent = line.open(100.0)
    line.receive(media(noise(5.0)), 100.0)
    while line.seconds < 2.0:
        sent += line.frame(line.frame_due)
    line.say(noise(1.0, seed=1))
    while line.seconds < 3.0:
        due = line.frame_due
        if due == pytest.approx(102.18):
            line.receive(order("clear"), 102.165)
        sent += line.frame(due)
    [barge] = measure(line.conversation(100.0)).barge_ins
    assert barge.at == pytest.approx(2.02)
    assert barge.clear_ms == pytest.approx(145, abs=1)
    assert barge.stop_ms == pytest.approx(145, abs=10)


def test_a_buffer_that_runs_dry_within_speech_is_a_gap() -> None:
    line = twilio()
    run(line, 2.5, {0.1: [media(noise(0.5))], 0.650: [media(noise(0.5))], 2.0: [media(noise(0.3))]})
    assert [(hole.start, hole.end) for hole in line.dry] == [
        pytest.approx((0.6, 0.65), abs=1e-4),
        pytest.approx((1.15, 2.0), abs=1e-4),
    ]
    assert len(measure(line.conversation(100.0)).gaps) == 1


def test_audio_after_a_clear_is_no_gap() -> None:
    line = twilio()
    run(line, 1.0, {0.1: [media(noise(0.5))], 0.3: [order("clear")], 0.4: [media(noise(0.3))]})
    assert line.dry == []


def test_own_lateness_is_kept_and_excuses_holes() -> None:
    line = twilio()
    line.open(0.0)
    line.receive(media(noise(0.1)), 0.0)
    for n in range(1, 30):
        late = 0.05 if n == 6 else 0.001
        line.frame(n * FRAME_S + late)
        if n == 6:  # what came during the stall is read only after it
            line.receive(media(noise(0.3)), 0.17)
    assert max(line.lateness) == pytest.approx(0.05)
    made = measure(line.conversation(0.0))
    assert made.gaps == []
    assert made.gaps_excused == 1


def test_what_the_bot_does_wrong_is_noted_and_the_call_goes_on() -> None:
    line = twilio()
    line.open(0.0)
    for bad in ("nonsense", b"\0\1", order("mark"), json.dumps({"event": "clear", "streamSid": "MZ99"})):
        line.receive(bad, 0.01)
    assert [arrival.kind for arrival in line.arrivals] == ["fault"] * 4
    assert line.frame(FRAME_S)


def plivo(**kwargs: object) -> CarrierSide:
    return PlivoCarrierSide(account_id="MA01", call_id="c-1", stream_id="s-1", **kwargs)  # type: ignore[arg-type]


def test_plivo_in_wideband_is_heard_on_the_same_track() -> None:
    line = Line(plivo(format=L16_16K))
    sent = line.open(10.0)
    line.say(noise(0.2))
    tone = (np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000) * 8000).astype(np.int16)
    body = {"contentType": "audio/x-l16", "sampleRate": 16000, "payload": b64encode(tone.tobytes()).decode()}
    while line.seconds < 2.0:
        if line.seconds == pytest.approx(0.5):
            line.receive(json.dumps({"event": "playAudio", "media": body}), 10.0 + line.seconds)
            line.receive(json.dumps({"event": "checkpoint", "streamId": "s-1", "name": "a"}), 10.0 + line.seconds)
        sent += line.frame(line.frame_due)
    messages = [json.loads(message) for message in sent]
    assert len(b64decode(messages[1]["media"]["payload"])) == 640
    assert [message["name"] for message in messages if message["event"] == "playedStream"] == ["a"]
    [span] = measure(line.conversation(10.0)).agent_spans
    assert (span.start, span.end) == pytest.approx((0.5, 1.5), abs=0.02)
    assert len(line.agent) == pytest.approx(2.0 * RATE, abs=FRAME)


def test_a_frame_that_a_bot_never_reads_is_lost_but_was_said() -> None:
    line = twilio()
    line.open(0.0)
    line.say(noise(0.04))
    line.lose_frame(FRAME_S)
    [message] = line.frame(2 * FRAME_S)
    assert json.loads(message)["media"]["chunk"] == "2"
    assert line.lost_frames == 1
    assert line.caller[:FRAME].any()


def test_keys_leave_one_after_the_other_with_tone_and_gap() -> None:
    line = twilio()
    line.open(0.0)
    line.frame(line.frame_due)
    line.press("12", "rfc4733", 0.06, 0.04)
    line.press("3", "rfc4733", 0.06, 0.04)
    sent = [json.loads(message) for _ in range(14) for message in line.frame(line.frame_due)]
    keys = [message["dtmf"]["digit"] for message in sent if message["event"] == "dtmf"]
    assert keys == [key for _, key in line.pressed] == ["1", "2", "3"]
    first, second, third = (at for at, _ in line.pressed)
    assert (second - first, third - second) == (pytest.approx(0.1), pytest.approx(0.1))
    with pytest.raises(Unable, match="rfc4733"):
        line.press("4", "info", 0.1, 0.1)


def test_the_mouth_is_asked_for_every_frame_and_may_be_silent() -> None:
    class Clicks(Mouth):
        asked = 0

        def frame(self) -> Samples | None:
            self.asked += 1
            return np.full(FRAME, 1000, np.int16) if self.asked % 2 else None

    line = twilio()
    line.mouth = mouth = Clicks()
    line.open(0.0)
    payloads = [b64decode(json.loads(line.frame(line.frame_due)[0])["media"]["payload"]) for _ in range(4)]
    assert mouth.asked == 4
    assert payloads == [pcm_to_ulaw(np.full(FRAME, value, np.int16).tobytes()) for value in (1000, 0, 1000, 0)]
    assert_allclose(line.caller.reshape(4, FRAME)[:, 0], [1000, 0, 1000, 0])


def test_speech_ends_in_silence_where_the_carrier_wants_another_rate() -> None:
    side = PlivoCarrierSide(account_id="MA01", call_id="c", format=L16_16K)
    line = Line(side)
    line.open(0.0)
    line.say(np.full(FRAME * 2, 8000, np.int16))
    payloads = [b64decode(json.loads(line.frame(line.frame_due)[0])["media"]["payload"]) for _ in range(6)]
    assert [len(payload) for payload in payloads] == [640] * 6
    assert max(abs(np.frombuffer(payloads[-1], np.int16))) < 10


def test_a_line_outlives_its_stream_and_joins_the_next_to_the_same_track() -> None:
    line = twilio()
    controls: list[bytes] = []
    line.on_control = controls.append
    line.open(10.0)
    heard = noise(0.5)
    line.receive(media(heard), 10.0)
    while line.seconds < 0.2:
        line.frame(line.frame_due)
    [stop] = line.stop(10.2)
    while line.seconds < 0.6:
        assert line.frame(line.frame_due) == []
    line.receive(media(heard), 10.6)
    assert line.next_owed() is None
    assert line.queued(10.6) == 0
    line.attach(TwilioCarrierSide(account_sid="AC01", call_sid="CA01", stream_sid=STREAM))
    line.open(10.605)
    line.receive(media(heard), 10.7)
    while line.seconds < 1.0:
        line.frame(line.frame_due)
    spans = measure(line.conversation(10.0)).agent_spans
    assert [(span.start, span.end) for span in spans] == [
        (pytest.approx(0.0, abs=0.011), pytest.approx(0.2, abs=0.011)),
        (pytest.approx(0.7, abs=0.011), pytest.approx(1.0, abs=0.011)),
    ]
    assert line.conversation(10.0).dry == []
    assert [json.loads(message)["event"] for message in controls] == [
        "connected",
        "start",
        "stop",
        "connected",
        "start",
    ]
    assert json.loads(stop)["event"] == "stop"


def test_what_happens_is_told_once_to_the_caller_and_to_the_log() -> None:
    line = twilio()
    logged: list[LineEvent] = []
    line.on_event = logged.append
    line.open(0.0)
    line.receive(order("clear"), 0.25)
    line.receive("no JSON", 0.5)
    line.happened("transfer", "+15550155")
    assert [(event.kind, event.at) for event in line.events] == [("cleared", 0.25), ("fault", 0.5), ("transfer", 0.0)]
    assert logged == list(line.events)
