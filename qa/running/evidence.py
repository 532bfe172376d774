"""One call, from its log to its report: measured and recognised in other processes, judged, kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from offhook.codecs.wav import StereoWavWriter
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.caller.record import CallerRecord
from offhook.qa.measuring.metrics import Metrics, measure_call
from offhook.qa.measuring.speech import Recogniser, SpeechFailed, Transcript, transcribe
from offhook.qa.measuring.timeline import Turn, peaks
from offhook.qa.measuring.trust import doubts
from offhook.qa.phones.base import CallLog, Rung
from offhook.qa.phones.capture import write_pcap
from offhook.qa.running import verdict
from offhook.qa.running.folder import CALLS
from offhook.qa.running.result import CallReport, Finding, Verdict
from offhook.qa.scenario.load import Loaded
from offhook.qa.scenario.model import Scenario

Keep = Literal["all", "failed", "none"]

LEAD_S: Final = 0.1
"""Of the agent's track, given to the recogniser before and after a turn."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What costs CPU to find out."""

    metrics: Metrics
    doubts: list[str]
    peaks: dict[str, list[float]]


def examine(log: CallLog, record: CallerRecord, scenario: Scenario, sounds: Mapping[str, Samples]) -> Examined:
    """Measure a call. Runs in a process of its own."""
    metrics = measure_call(log, record, scenario, sounds=sounds)
    drawn = {"caller": peaks(log.caller), "agent": peaks(log.agent)}
    # Whether an attacker is let in does not hang on when a frame left.
    doubted = [] if scenario.target.tamper else doubts(log, record, sounds)
    return Examined(metrics, doubted, drawn)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One call to be judged."""

    loaded: Loaded
    number: int
    log: CallLog
    record: CallerRecord
    sounds: Mapping[str, Samples]
    texts: Mapping[int, str]
    "Step → what the caller said in it, for the transcript."
    lacked: str = ""
    "Why the persona could not go on: a recogniser, model or voice was not there."


async def judge_call(
    evidence: Evidence, examiner: Executor, recogniser: Recogniser, *, folder: Path | None = None, keep: Keep = "all"
) -> CallReport:
    """Measure, recognise, judge and keep one call.

    Args:
        evidence: the call.
        examiner: where it is measured.
        recogniser: the offline one.
        folder: of the run; None: nothing is kept.
        keep: of which calls recording and capture are kept.
    """
    loaded, log, scenario = evidence.loaded, evidence.log, evidence.loaded.scenario
    bare = replace(log, packets=[])  # they are large, and nothing is measured from them
    work = partial(examine, bare, evidence.record, scenario, evidence.sounds)
    examined = await asyncio.get_running_loop().run_in_executor(examiner, work)
    metrics = examined.metrics
    transcript, no_words = await _words(scenario, log, metrics, recogniser)
    facts = verdict.Facts(loaded, log, evidence.record, metrics, transcript, no_words)
    findings = verdict.judge(facts, examined.doubts)
    if evidence.lacked:
        findings.append(Finding("means", False, evidence.lacked))
    turns = _told(metrics.turns, evidence, transcript)
    if log.answered:
        findings += await _judged(loaded, turns, no_words)
    report = CallReport(
        scenario=scenario.name,
        number=evidence.number,
        call_id=log.call_id,
        target=log.target,
        way=log.way,
        verdict=verdict.verdict_of(findings),
        findings=findings,
        metrics=metrics.as_dict(),
        turns=turns,
        ladder=[_rung(rung) for rung in log.ladder],
        timeline=_timeline(evidence, metrics),
        seconds=log.seconds,
        status=log.status,
        ended=f"{log.ended_by}: {log.ended_how}".strip(": "),
        began=log.began,
        peaks=examined.peaks,
    )
    if folder is not None and (keep == "all" or (keep == "failed" and report.verdict != Verdict.PASS)):
        await asyncio.to_thread(_keep, report, log, folder)
    return report


async def _words(
    scenario: Scenario, log: CallLog, metrics: Metrics, recogniser: Recogniser
) -> tuple[Transcript | None, str]:
    """What the agent said, where an assertion asks for it; else why it is not known."""
    expected = verdict.wanted_words(scenario)
    if not expected and not scenario.assert_.judge:
        return None, ""
    spans = [Span(turn.start, turn.end) for turn in metrics.turns if turn.who == "agent"]
    try:
        return await transcribe(
            [(span, _piece(log.agent, span)) for span in spans], scenario.stt, expected, recogniser=recogniser
        ), ""
    except SpeechFailed as error:
        return None, str(error)


async def _judged(loaded: Loaded, turns: Sequence[dict[str, Any]], no_words: str) -> list[Finding]:
    """What the language models say that the scenario asks. Without the agent's words there is nothing to ask about."""
    questions = loaded.scenario.assert_.judge
    if not questions:
        return []
    from offhook.qa.measuring.judge import JudgeFailed, judge  # its services bring libraries of their own

    said = [(turn["who"], turn.get("text", "")) for turn in turns if turn.get("text")]
    found = []
    for number, question in enumerate(questions):
        where = loaded.where("assert", "judge", number)
        if no_words:
            found.append(Finding("means", False, no_words, where=where, gate=question.gate))
            continue
        try:
            judgement = await judge(question, said)
        except JudgeFailed as error:
            found.append(Finding("means", False, str(error), where=where, gate=question.gate))
            continue
        answer = "yes" if judgement.yes else "no"
        message = f"{question.ask} {answer}: {judgement.reason}"
        found.append(Finding("judge", judgement.yes, message, where=where, gate=question.gate))
    return found


def _piece(track: Samples, span: Span) -> Samples:
    return track[max(0, round((span.start - LEAD_S) * RATE)) : round((span.end + LEAD_S) * RATE)]


def _told(turns: Sequence[Turn], evidence: Evidence, transcript: Transcript | None) -> list[dict[str, Any]]:
    """The turns with their words: the caller's from the script, the agent's from the recogniser."""
    persona = sorted(evidence.record.persona_said)
    for turn in turns:
        if turn.who == "agent":
            turn.text = transcript.said(turn.start, turn.end) if transcript is not None else ""
        elif turn.step is not None:
            turn.text = evidence.texts.get(turn.step, "")
        else:
            turn.text = " ".join(text for at, text in persona if turn.start - 0.1 <= at <= turn.end)
    return [turn.as_dict() for turn in turns]


def _rung(rung: Rung) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(rung).items() if value not in ("", False)}
    return {**plain, "out": rung.out, "at": round(rung.at, 4)}


def _timeline(evidence: Evidence, metrics: Metrics) -> dict[str, Any]:
    log = evidence.log
    steps = [
        {"at": round(step.began, 3), "until": round(step.ended, 3), "what": step.verb, "name": step.name}
        | ({"failed": step.failed} if step.failed else {})
        for step in evidence.record.steps
        if not step.skipped
    ]
    return {
        "steps": steps,
        "events": [{"at": round(one.at, 3), "what": one.kind, "detail": one.detail} for one in log.events],
        "pressed": [{"at": round(at, 3), "what": key} for at, key in log.pressed],
        "keys_heard": [{"at": round(key.start, 3), "what": key.digit, "way": key.way} for key in metrics.keys],
        "holes": [_pair(span) for span in metrics.holes],
        "dead_air": [_pair(span) for span in metrics.dead_air],
        "clicks": [round(at, 3) for at in metrics.clicks],
        "agent_interrupts": [round(at, 3) for at in metrics.interrupts],
        "interruptions": [
            {"at": round(one.at, 3), "stop_ms": one.stop_ms, "yielded": one.yielded, "aside": one.aside}
            for one in metrics.interruptions
        ],
        "faults": log.faults,
    }


def _pair(span: Span) -> list[float]:
    return [round(span.start, 3), round(span.end, 3)]


def _keep(report: CallReport, log: CallLog, folder: Path) -> None:
    """Write recording and capture beside each other."""
    stem = folder / CALLS / f"{report.scenario}-{report.number}"
    if len(log.caller):
        path = stem.with_name(stem.name + ".wav")
        write_recording(path, log)
        report.audio = path.relative_to(folder).as_posix()
    if log.packets:
        path = stem.with_name(stem.name + ".pcap")
        write_pcap(path, log.packets)
        report.capture = path.relative_to(folder).as_posix()


def write_recording(path: Path, log: CallLog) -> None:
    """Write both sides of a call: left the caller, right the agent; 8 kHz.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be written.
    """
    writer = StereoWavWriter(path, RATE)
    try:
        writer.append(*(np.asarray(track, "<i2").tobytes() for track in (log.caller, log.agent)))
    finally:
        writer.close()
