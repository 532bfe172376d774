"""Whether the demo's call went well, judged by what the caller heard.

Pure: the simulated call, the gateway's journal of it and the known utterances go in, checks come out. What the
gateway claims (played, cut at N ms) is held against the wire: every utterance is synthesised again and looked for in
the audio that the caller heard, and in the recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from offhook.gateway.journal import Entry
from offhook.gateway.latency import HEARING
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.match import Match, find, voiced_until
from offhook.qa.measure import Reply
from offhook.qa.result import CallResult

GREETING_MS: Final = 2000.0
"""A caller who hears nothing for longer says "hello?"."""

STOP_MS: Final = 1000.0
"""An agent that talks on for longer into an interruption has not let itself be interrupted."""

CUT_TOLERANCE_MS: Final = 250.0
"""How far the heard position in the record may be from the wire: what a carrier takes to act on a clear, and a
block of the comparison."""

SHORTEST_FOUND_MS: Final = 500.0
"""An utterance that was cut before this may be too short to be found in the audio."""

NEAR_S: Final = 1.0
"""How far from the place that the record implies an utterance is looked for: reports take their way, too."""

SAME_REPLY_S: Final = 1.0
"""A reply on the wire and a turn in the record that are further apart are two."""


@dataclass(frozen=True, slots=True)
class ScriptLine:
    """One thing the demo's caller says."""

    text: str
    understood: Sequence[str]
    "Words of which the agent must have understood at least one."
    interrupts: bool = False
    "Said while the agent speaks."


@dataclass(frozen=True, slots=True)
class Goal:
    """What the conversation is to come to: a note of the agent in the record."""

    note: str
    data: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One thing the agent said: by the record, and by the caller's ear."""

    id: int
    text: str
    outcome: str
    heard_ms: float
    "How much of it was heard, by the record."
    length_ms: float
    audible_ms: float
    "Where the last sound of that part ends: an utterance that is cut in a pause is heard up to the pause."
    match: Match | None
    "Where and how far the caller heard it; None: its beginning was not to be found."

    @property
    def problem(self) -> str:
        """What is wrong between the record and the ear; empty when nothing is."""
        if self.match is None:
            short = self.outcome == "dropped" or (self.outcome == "cut" and self.heard_ms < SHORTEST_FOUND_MS)
            return "" if short else "was not heard"
        if self.outcome == "played":
            if not self.match.complete:
                return f"was played by the record, but heard for {self.match.heard:.1f} of {self.match.length:.1f} s"
            return f"was heard with {self.match.holes * 1000:.0f} ms of holes" if self.match.holes > 0.02 else ""
        if self.outcome == "dropped":
            return "was dropped by the record, but heard"
        if abs(self.match.heard * 1000 - self.audible_ms) > CUT_TOLERANCE_MS:
            return f"was cut at {self.heard_ms:.0f} ms by the record, at {self.match.heard * 1000:.0f} ms by the ear"
        return ""


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One reply: on the wire, and in the record."""

    said: str
    wire_ms: float
    record_ms: float | None
    stages: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to be so."""

    name: str
    ok: bool
    detail: str


def agent_utterances(
    entries: Sequence[Entry], spoken: Mapping[str, Samples], heard: Samples, started: float
) -> list[Utterance]:
    """The agent's utterances in the order they ended, each looked for in what was heard, near where it must lie.

    Args:
        entries: the journal of the call.
        spoken: text → its synthesised audio, int16 at 8 kHz.
        heard: the agent's track.
        started: monotonic seconds of second 0 of the track.
    """
    found = []
    for entry in entries:
        if entry.event != "utterance" or not entry.data.get("text"):
            continue
        text, heard_ms, length_ms = (entry.data[name] for name in ("text", "heard_ms", "length_ms"))
        audio = spoken[text]
        began = entry.mono - started - heard_ms / 1000
        # Two sentences may begin alike, so the place counts as well as the sound.
        match = find(audio, heard, after=began - NEAR_S, before=began + length_ms / 1000 + NEAR_S)
        audible_ms = voiced_until(audio, heard_ms / 1000) * 1000
        found.append(Utterance(entry.data["id"], text, entry.data["outcome"], heard_ms, length_ms, audible_ms, match))
    return found


def turn_rows(
    result: CallResult, script: Sequence[ScriptLine], entries: Sequence[Entry], started: float
) -> list[TurnRow]:
    """The replies as the wire measured them, each with its turn of the record.

    Args:
        started: monotonic seconds of second 0 of the tracks.
    """
    turns = [entry.data for entry in entries if entry.event == "turn" and entry.data.get("stages")]
    rows = []
    for reply in result.measures.replies:
        turn = _turn_of(reply, turns, started)
        said = next(
            (line.text for line, span in zip(script, result.said, strict=False) if _overlaps(span, reply)), "(silence)"
        )
        rows.append(
            TurnRow(
                said,
                reply.v2v_ms,
                float(turn["voice_to_voice_ms"] + (turn["hearing_ms"] or 0.0)) if turn else None,
                _stages(turn) if turn else {},
            )
        )
    return rows


def _overlaps(span: Span, reply: Reply) -> bool:
    return span.start < reply.caller_ended and reply.caller_began < span.end


def _turn_of(reply: Reply, turns: Sequence[Mapping[str, Any]], started: float) -> Mapping[str, Any] | None:
    def distance(turn: Mapping[str, Any]) -> float:
        heard = turn["first_heard"] or turn["first_voiced"] or turn["first_sent"]
        return abs(float(heard) - started - reply.agent_began)

    nearest = min(turns, key=distance, default=None)
    return nearest if nearest is not None and distance(nearest) <= SAME_REPLY_S else None


def _stages(turn: Mapping[str, Any]) -> dict[str, float]:
    stages = {name: float(value) for name, value in turn["stages"].items()}
    return stages if turn["hearing_ms"] is None else stages | {HEARING: float(turn["hearing_ms"])}


def judge(
    result: CallResult,
    script: Sequence[ScriptLine],
    goal: Goal,
    entries: Sequence[Entry],
    utterances: Sequence[Utterance],
    recording: tuple[Samples, Samples] | None,
    spoken: Mapping[str, Samples],
    exit_code: int | None,
) -> list[Check]:
    """Everything that had to be so.

    Args:
        recording: left and right channel of the gateway's recording; None: there is none.
        spoken: text → audio of the caller's lines and of the agent's utterances.
        exit_code: the gateway's, after SIGTERM; None: it had to be killed.
    """
    return [
        _greeted(result),
        _all_heard(utterances),
        *(_interrupted(result, line, span) for line, span in zip(script, result.said, strict=False) if line.interrupts),
        _understood(script, entries),
        _reached(goal, entries),
        _finished(result, script, entries, utterances),
        _recorded(recording, script, result, utterances, spoken),
        Check(
            "gateway", exit_code == 0, "ended with code 0 after SIGTERM" if exit_code == 0 else f"ended: {exit_code}"
        ),
    ]


def _greeted(result: CallResult) -> Check:
    greeting = result.measures.greeting_ms
    if greeting is None:
        return Check("greeting", False, "the caller heard nothing at all")
    return Check("greeting", greeting <= GREETING_MS, f"first word {greeting:.0f} ms after the answer")


def _all_heard(utterances: Sequence[Utterance]) -> Check:
    problems = [f"“{_short(item.text)}” {item.problem}" for item in utterances if item.problem]
    if problems or not utterances:
        return Check("heard", False, "; ".join(problems) or "the record names no utterance of the agent")
    whole = sum(item.outcome == "played" for item in utterances)
    cut = sum(item.outcome == "cut" for item in utterances)
    detail = f"{whole} sentences heard to the last word" + (
        f", {cut} up to where the record says it was cut" if cut else ""
    )
    return Check("heard", True, detail)


def _interrupted(result: CallResult, line: ScriptLine, span: Span) -> Check:
    barge = next((item for item in result.measures.barge_ins if span.start - 0.1 <= item.at <= span.end), None)
    if barge is None:
        return Check("interruption", False, f"“{_short(line.text)}” did not find the agent speaking")
    if barge.clear_ms is None:
        return Check("interruption", False, "the agent never cleared what it had queued")
    detail = f"clear after {barge.clear_ms:.0f} ms, silent after {barge.stop_ms:.0f} ms"
    return Check("interruption", barge.stop_ms <= STOP_MS, detail)


def _understood(script: Sequence[ScriptLine], entries: Sequence[Entry]) -> Check:
    texts = [str(entry.data["text"]).lower() for entry in entries if _is_caller_transcript(entry)]
    missed, start = [], 0
    for line in script:
        at = next((n for n in range(start, len(texts)) if any(word in texts[n] for word in line.understood)), None)
        if at is None:
            missed.append(f"“{_short(line.text)}”")
        else:
            start = at + 1
    if missed:
        return Check("understood", False, f"not understood: {', '.join(missed)}; understood was: {texts}")
    return Check("understood", True, f"all {len(script)} lines of the caller")


def _is_caller_transcript(entry: Entry) -> bool:
    return entry.event == "transcript" and entry.data.get("role") == "caller"


def _reached(goal: Goal, entries: Sequence[Entry]) -> Check:
    notes = [entry.data["data"] for entry in entries if entry.event == "agent.note" and entry.data["name"] == goal.note]
    wanted = ", ".join(goal.data.values())
    if dict(goal.data) in notes:
        return Check("goal", True, f"the record holds the {goal.note}: {wanted}")
    return Check("goal", False, f"no {goal.note} for {wanted} in the record" + (f", but {notes}" if notes else ""))


def _finished(
    result: CallResult, script: Sequence[ScriptLine], entries: Sequence[Entry], utterances: Sequence[Utterance]
) -> Check:
    if len(result.said) < len(script):
        return Check("goodbye", False, f"the call was over after {len(result.said)} of {len(script)} lines")
    ended = next((entry.data for entry in entries if entry.event == "call.ended"), {})
    if ended.get("reason") != "agent_hangup" or result.ended_by != "bot":
        return Check("goodbye", False, f"ended by {result.ended_by}: {ended.get('reason')} ({result.ended_how})")
    last = utterances[-1] if utterances else None
    if last is None or last.match is None or not last.match.complete:
        return Check("goodbye", False, "the agent hung up before its last word was heard")
    tail = result.seconds - last.match.at - last.match.length
    return Check("goodbye", True, f"the agent hung up {tail * 1000:.0f} ms after its last word was heard")


def _recorded(
    recording: tuple[Samples, Samples] | None,
    script: Sequence[ScriptLine],
    result: CallResult,
    utterances: Sequence[Utterance],
    spoken: Mapping[str, Samples],
) -> Check:
    if recording is None:
        return Check("recording", False, "there is none")
    left, right = recording
    said = [(line.text, left, span.start) for line, span in zip(script, result.said, strict=False)]
    said += [(item.text, right, item.match.at) for item in utterances if item.outcome == "played" and item.match]
    lost = [text for text, track, at in said if not _complete(spoken[text], track, at)]
    if lost:
        return Check("recording", False, "not in it: " + ", ".join(f"“{_short(text)}”" for text in lost))
    return Check("recording", True, "caller on the left, agent on the right, both complete")


def _complete(reference: Samples, track: Samples, at: float) -> bool:
    match = find(reference, track, after=at - NEAR_S, before=at + len(reference) / RATE + NEAR_S)
    return match is not None and match.complete


def _short(text: str) -> str:
    return text if len(text) <= 32 else text[:31].rstrip() + "…"
