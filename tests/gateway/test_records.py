"""Call records folded from journal entries, whatever their order."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.gateway.journal import Entry
from offhook.gateway.records import CallFold, CallRecord, percentile

WALL = 1_790_000_000.0


def entry(seq: int, event: str, at: float, **data: Any) -> Entry:
    """An entry `at` seconds into the call; the monotonic clock began elsewhere."""
    return Entry("call", seq, event, WALL + at, 5000 + at, data)


CALL = [
    entry(
        1,
        "call.offered",
        0,
        carrier="twilio",
        carrier_call_id="CA1",
        direction="inbound",
        **{"from": "+15550142", "to": "+15550100"},
        route="+15550100",
        agent="front-desk",
        record=True,
        fields={"CallSid": "CA1"},
    ),
    entry(2, "call.answered", 0.4, stream_id="MZ1", format="pcmu/8000"),
    entry(3, "recording.started", 0.4, path="/r/call.wav"),
    entry(4, "utterance", 3, id=1, outcome="played", heard_ms=2000, length_ms=2000, text="Hello."),
    entry(5, "transcript", 5, role="caller", text="Hi.", utterance=0),
    entry(6, "turn", 5.5, utterance=0, voice_to_voice_ms=0, stages={}),
    *(entry(7 + n, "turn", 6 + n, utterance=n, voice_to_voice_ms=500 + n * 10, stages={}) for n in range(20)),
    entry(30, "dtmf", 30, digit="5"),
    entry(31, "barge_in", 31, heard_ms=120),
    entry(32, "fault", 32, kind="bad-json", detail="", count=1),
    *(entry(27 + n, "service.fault", 32, role="llm", service="openai", fault="timeout") for n in range(2)),
    entry(29, "resumed", 32.5, reason="agent_crashed", pause_ms=900),
    entry(33, "agent.note", 33, name="x", data={}),
    entry(34, "transfer", 34, to="+1999", ok=False, error="no"),
    entry(35, "transfer", 35, to="+15550199", ok=True, error=""),
    entry(36, "carrier.status", 35.5, status="completed", cause="normal", sequence=7, fields={}),
    entry(
        37,
        "call.ended",
        40.4,
        status="completed",
        reason="transferred",
        ended_by="agent",
        detail="d",
        faults={"bad-json": 4, "flood": 1},
    ),
    entry(
        38, "recording.stopped", 41, reason="complete", seconds=40.0, bytes=1_280_044, sha256="ab", path="/r/call.wav"
    ),
    entry(39, "carrier.status", 45, status="answered", cause="", sequence=2, fields={}),
]


def fold(entries: list[Entry]) -> CallRecord:
    folded = CallFold(CallRecord("call", node="n"))
    for one in entries:
        folded.apply(one)
    return folded.record


def test_a_whole_call() -> None:
    assert fold(CALL) == CallRecord(
        id="call",
        node="n",
        carrier="twilio",
        carrier_call_id="CA1",
        direction="inbound",
        from_number="+15550142",
        to_number="+15550100",
        route="+15550100",
        agent="front-desk",
        status="completed",
        reason="transferred",
        ended_by="agent",
        detail="d",
        offered_at=datetime.fromtimestamp(WALL, UTC),
        answered_at=datetime.fromtimestamp(WALL + 0.4, UTC),
        ended_at=datetime.fromtimestamp(WALL + 40.4, UTC),
        ring_seconds=0.4,
        talk_seconds=40.0,
        format="pcmu/8000",
        transferred_to="+15550199",
        carrier_status="completed",
        carrier_cause="normal",
        turns=21,
        voice_to_voice_p50_ms=590.0,
        voice_to_voice_p95_ms=680.0,
        utterances=1,
        barge_ins=1,
        digits=1,
        faults=5,
        agent_failures=0,
        service_faults=2,
        takeovers=1,
        recording_status="complete",
        recording_path="/r/call.wav",
        recording_seconds=40.0,
        recording_bytes=1_280_044,
        recording_sha256="ab",
        events=len(CALL),
        last_at=datetime.fromtimestamp(WALL + 45, UTC),
    )


@given(st.randoms(use_true_random=False), st.integers(0, 10))
def test_neither_order_nor_repetition_changes_a_record(rng: random.Random, repeats: int) -> None:
    entries = CALL + rng.sample(CALL, repeats)
    rng.shuffle(entries)
    assert fold(entries) == fold(CALL)


def test_a_repeated_entry_is_known() -> None:
    folded = CallFold(CallRecord("call"))
    assert folded.apply(CALL[0])
    assert not folded.apply(CALL[0])


def test_a_live_call_is_live() -> None:
    record = fold(CALL[:5])
    assert (record.status, record.talk_seconds, record.ended_at) == ("live", None, None)
    assert record.recording_status == "recording"


def test_a_call_that_was_never_answered_only_rang() -> None:
    record = fold([CALL[0], entry(2, "call.ended", 3, status="failed", reason="agent_not_ready", ended_by="gateway")])
    assert (record.ring_seconds, record.talk_seconds, record.answered_at) == (3.0, None, None)


def test_a_lost_call_lasted_until_its_last_entry_whatever_the_clocks_say_now() -> None:
    ended = Entry(
        "call",
        99,
        "call.ended",
        WALL + 9999,
        17.0,  # the machine was started again
        {
            "status": "lost",
            "reason": "gateway_died",
            "ended_by": "gateway",
            "last_at": WALL + 30.4,
            "last_mono": 5030.4,
        },
    )
    record = fold([*CALL[:10], ended])
    assert record.ended_at == datetime.fromtimestamp(WALL + 30.4, UTC)
    assert record.talk_seconds == 30.0


def test_the_first_end_counts() -> None:
    record = fold([*CALL, entry(50, "call.ended", 60, status="lost", reason="gateway_died", ended_by="gateway")])
    assert (record.status, record.reason, record.talk_seconds) == ("completed", "transferred", 40.0)


def test_a_jump_of_the_wall_clock_changes_no_duration() -> None:
    jumped = [
        Entry(one.call, one.seq, one.event, one.at + (3600 if one.seq > 10 else 0), one.mono, one.data) for one in CALL
    ]
    record = fold(jumped)
    assert (record.ring_seconds, record.talk_seconds) == (0.4, 40.0)


def test_events_nobody_knows_are_counted_and_harmless() -> None:
    record = fold([entry(1, "something.new", 0, x=1), entry(2, "turn", 1, voice_to_voice_ms="fast", stages=5)])
    assert (record.events, record.turns, record.voice_to_voice_p50_ms) == (2, 1, None)
    assert record.offered_at == datetime.fromtimestamp(WALL, UTC)


@pytest.mark.parametrize(
    ("values", "p50", "p95"),
    [([1.0], 1, 1), ([1.0, 2.0], 1, 2), ([3.0, 1.0, 2.0], 2, 3), ([float(n) for n in range(1, 101)], 50, 95)],
)
def test_percentiles_are_values_that_occurred(values: list[float], p50: float, p95: float) -> None:
    assert percentile(values, 0.5) == p50
    assert percentile(values, 0.95) == p95
