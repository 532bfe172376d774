"""One call from its log to its report: what is kept of it, who said what, and what was judged."""

from __future__ import annotations

import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes.known_calls import Made, Said, made_up

from offhook.qa.measuring import judge as judging
from offhook.qa.measuring.speech import Recogniser, SpeechFailed, Transcript, TurnText
from offhook.qa.phones.base import LineEvent, Rung, WirePacket
from offhook.qa.running import evidence as module
from offhook.qa.running.evidence import Evidence, Keep, judge_call, write_recording
from offhook.qa.running.result import CallReport, Verdict
from offhook.qa.scenario.load import Loaded, parse

CALL = Made(
    seconds=8.0,
    said=[Said(2.0, made_up(1.0, -22.0, 3))],
    agent=[(0.5, made_up(1.0, seed=1)), (3.8, made_up(1.5, seed=2))],
    log={
        "ended_by": "caller",
        "pressed": [(6.0, "5")],
        "events": [LineEvent(0.0, "answered"), LineEvent(6.5, "dtmf", "7")],
        "ladder": [Rung(-0.1, True, "INVITE", "INVITE sip:bot SIP/2.0", again=True), Rung(0.0, False, "200 OK")],
        "packets": [WirePacket(1.0, True, ("127.0.0.1", 4000), ("127.0.0.1", 5000), bytes(172))],
        "faults": ["RTP of a stranger"],
    },
)


def loaded(**more: Any) -> Loaded:
    step = {"say": "Hello?", "expect": {"agent_speaks": True, "within": "1s"}}
    return parse(yaml.safe_dump({"name": "made", "steps": [step], **more}, sort_keys=False), "made.yaml")


def evidence(one: Loaded, made: Made = CALL, **more: Any) -> Evidence:
    record = made.record
    record.steps[0].within = 1.0
    record.steps[0].since = record.steps[0].ended
    return Evidence(one, 1, made.caller_log, record, made.sounds, {0: "Hello?"}, **more)


async def judged(given: Evidence, folder: Path | None = None, keep: Keep = "all") -> CallReport:
    with ThreadPoolExecutor(1) as examiner:
        async with Recogniser() as recogniser:
            return await judge_call(given, examiner, recogniser, folder=folder, keep=keep)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every turn of the agent is `nine to five`; gives how many turns there were to understand."""
    asked: list[int] = []

    async def transcribe(turns: Any, *_: Any, **__: Any) -> Transcript:
        asked.append(len(turns))
        return Transcript(tuple(TurnText(span, "nine to five") for span, _ in turns), "offline")

    monkeypatch.setattr(module, "transcribe", transcribe)
    return asked


async def test_a_report_has_all_that_happened(tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    report = await judged(evidence(loaded()), tmp_path)
    assert (report.verdict, report.way, report.status, report.seconds, report.ended) == (
        Verdict.PASS,
        "sip",
        200,
        8.0,
        "caller",
    )
    assert report.metrics["v2v_ms"] == [pytest.approx(800, abs=20)]
    assert [(turn["who"], turn.get("text", "")) for turn in report.turns] == [
        ("agent", ""),
        ("caller", "Hello?"),
        ("agent", ""),
    ]
    assert report.ladder[0] == {
        "at": -0.1,
        "out": True,
        "title": "INVITE",
        "text": "INVITE sip:bot SIP/2.0",
        "again": True,
    }
    assert report.ladder[1] == {"at": 0.0, "out": False, "title": "200 OK"}
    assert report.timeline["pressed"] == [{"at": 6.0, "what": "5"}]
    assert report.timeline["keys_heard"] == [{"at": 6.5, "what": "7", "way": "event"}]
    assert report.timeline["faults"] == ["RTP of a stranger"]
    assert report.timeline["steps"] == [{"at": 2.0, "until": 3.0, "what": "say", "name": ""}]
    assert len(report.peaks["caller"]) == len(report.peaks["agent"]) == 400
    assert (report.audio, report.capture) == ("calls/made-1.wav", "calls/made-1.pcap")
    with wave.open(str(tmp_path / report.audio)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 8000, 64_000)
        both = np.frombuffer(file.readframes(64_000), "<i2").reshape(-1, 2)
    assert np.array_equal(both[:, 0], CALL.caller_log.caller)
    assert np.array_equal(both[:, 1], CALL.caller_log.agent)


@pytest.mark.parametrize(
    ("keep", "within", "kept"), [("failed", "1s", 0), ("failed", "500ms", 2), ("none", "500ms", 0)]
)
async def test_only_what_was_asked_for_is_kept(tmp_path: Path, keep: Keep, within: str, kept: int) -> None:
    (tmp_path / "calls").mkdir()
    one = loaded(steps=[{"say": "Hello?", "expect": {"agent_speaks": True, "within": within}}])
    given = evidence(one)
    given.record.steps[0].within = 1.0 if within == "1s" else 0.5
    report = await judged(given, tmp_path, keep)
    assert len(list((tmp_path / "calls").iterdir())) == kept
    assert bool(report.audio) == bool(kept)


async def test_words_are_asked_for_only_where_something_depends_on_them(heard: list[int]) -> None:
    await judged(evidence(loaded()))
    assert heard == []
    report = await judged(evidence(loaded(**{"assert": {"speech": {"must_hear": ["nine"]}}})))
    assert heard == [2]
    assert report.verdict == Verdict.PASS
    assert [turn["text"] for turn in report.turns] == ["nine to five", "Hello?", "nine to five"]


async def test_a_persona_that_had_no_means_makes_the_call_invalid() -> None:
    report = await judged(evidence(loaded(), lacked="no model answers"))
    assert report.verdict == Verdict.INVALID
    assert [finding.message for finding in report.findings if finding.kind == "means"] == ["no model answers"]


JUDGE = {"ask": "Was it polite?", "llm": {"service": "openai", "model": "m"}, "gate": True}


@pytest.mark.parametrize(
    ("yes", "gate", "verdict"), [(True, True, "pass"), (False, True, "fail"), (False, False, "pass")]
)
async def test_a_judge_counts_where_it_is_a_gate(
    heard: list[int], monkeypatch: pytest.MonkeyPatch, yes: bool, gate: bool, verdict: str
) -> None:
    asked: list[Any] = []

    async def judge(question: Any, said: Any, **_: Any) -> judging.Judgement:
        asked.append(said)
        return judging.Judgement(yes, (judging.Vote("yes" if yes else "no", "it said please"),))

    monkeypatch.setattr(judging, "judge", judge)
    report = await judged(evidence(loaded(**{"assert": {"judge": [JUDGE | {"gate": gate}]}})))
    assert report.verdict == verdict
    [finding] = [finding for finding in report.findings if finding.kind == "judge"]
    assert (finding.ok, finding.gate, finding.where) == (yes, gate, "made.yaml:9:5")
    assert finding.message == f"Was it polite? {'yes' if yes else 'no'}: it said please"
    assert asked == [[("agent", "nine to five"), ("caller", "Hello?"), ("agent", "nine to five")]]
    assert heard == [2]


async def test_no_judge_is_asked_about_words_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(*_: Any, **__: Any) -> Transcript:
        raise SpeechFailed("the recogniser is not there")

    async def never(*_: Any, **__: Any) -> None:
        raise AssertionError("there is nothing to ask about")

    monkeypatch.setattr(module, "transcribe", deaf)
    monkeypatch.setattr(judging, "judge", never)
    report = await judged(evidence(loaded(**{"assert": {"judge": [JUDGE]}})))
    assert report.verdict == Verdict.INVALID
    assert [finding.message for finding in report.findings if not finding.ok] == ["the recogniser is not there"]


async def test_no_judge_is_asked_about_a_call_that_nobody_answered(
    heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any, **__: Any) -> None:
        raise AssertionError("there is nothing to ask about")

    monkeypatch.setattr(judging, "judge", never)
    made = Made(seconds=0.0, log={"answered": False, "status": 486, "ended_how": "Busy Here"}, said=CALL.said)
    report = await judged(evidence(loaded(**{"assert": {"judge": [JUDGE]}}), made))
    assert report.verdict == Verdict.FAIL
    assert "answer" in {finding.kind for finding in report.findings if not finding.ok}
    assert sum(heard) == 0


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    write_recording(tmp_path / "call.wav", CALL.caller_log)
    with pytest.raises(FileExistsError):
        write_recording(tmp_path / "call.wav", CALL.caller_log)
