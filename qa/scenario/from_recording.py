"""A recorded call as a scenario that replays its caller: what was said, as it sounded, and when, seen from the agent.

What the caller did is put in relation to what the agent did, for another agent, or another day, has other delays:

* said after the agent's turn: `wait: agent_done` with the silence there was in between, then `say`;
* said into the agent's turn, which then ended: `barge_in` after as much of it;
* said into it, short, and the agent went on: `backchannel`;
* said with no word of the agent since: `wait` for the time there was in between;
* keys the same way, and the hang-up.

Each thing said becomes a WAV file beside the scenario. What the caller says is a person's voice: treat the folder as
you treat the recording.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml

from offhook.codecs.wav import wav_file
from offhook.qa.activity import RATE, Samples, Span, speech_spans
from offhook.qa.scenario.model import KEYS, SCHEMA
from offhook.qa.sounds import at_level

PAUSE_S: Final = 0.7
"""A pause of this length parts two things that are said, and ends a turn of the agent."""

YIELDED_S: Final = 2.0
"""An agent that is silent this soon after the caller began has let itself be interrupted."""

BACKCHANNEL_S: Final = 1.2
"""Nobody says more than `uh-huh` in this time."""

REACTION_S: Final = 0.15
"""Said this little after the agent began, it was no answer to it: both began at the same time."""

KEYS_APART_S: Final = 3.0
"""Keys further apart are two inputs."""

LONGEST_WAIT_S: Final = 30.0
"""How long the replayed caller waits for the agent, whatever the recorded one did."""

ANSWER_S: Final = 3.0
"""Within which an answer is expected where the recorded agent was quicker; else twice its time."""

MAX_SECONDS: Final = 3600.0
"""Of a recording; MAX_SAID things said in it."""
MAX_SAID: Final = 500

MARGIN: Final = RATE // 100
"""Samples around something said that are cut out with it."""


class RecordingError(ValueError):
    """A recording cannot become a scenario; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call as it was recorded. Seconds count from the first sample of both channels."""

    caller: Samples
    agent: Samples
    keys: Sequence[tuple[float, str]] = ()
    "When the caller pressed which keys; what is no key is passed over."
    texts: Sequence[tuple[float, Literal["caller", "agent"], str]] = ()
    "Who said what and when it began, as far as is known; it becomes comments."
    ended_by: Literal["", "agent", "caller"] = ""


@dataclass(frozen=True, slots=True)
class _Act:
    """Something that the caller did."""

    span: Span
    keys: tuple[tuple[float, str], ...] = ()
    "When which was pressed; empty: it was said."


def write_scenario(folder: Path, name: str, recorded: Recorded, *, to: str = "") -> Path:
    """Write `<folder>/<name>.yaml` and the WAV files that it names, over what is there.

    Args:
        folder: made if it is missing.
        name: of the scenario; letters, digits and `-`.
        recorded: the call.
        to: whom to call, as in `target.to`; may be left to `--target`.

    Returns:
        The path of the scenario.

    Raises:
        RecordingError: the caller did nothing in it, or it is too long.
        OSError: it cannot be written.
    """
    if len(recorded.caller) > MAX_SECONDS * RATE:
        raise RecordingError(f"the recording is longer than {MAX_SECONDS:.0f} s: cut it")
    acts = sorted([*_said(recorded), *_pressed(recorded)], key=lambda act: act.span.start)
    if not acts:
        raise RecordingError("the caller neither speaks nor presses a key in this recording; are the channels swapped?")
    if len(acts) > MAX_SAID:
        raise RecordingError(f"the caller does {len(acts)} things in this recording, more than {MAX_SAID}: cut it")
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# The caller's side of a recorded call."]
    head: dict[str, Any] = {"schema": SCHEMA, "name": name, "tags": ["recorded"]}
    if to:
        head["target"] = {"to": to}
    head["timeout"] = f"{len(recorded.caller) / RATE * 2 + LONGEST_WAIT_S:.0f}s"
    lines += [_yaml(head).rstrip(), "steps:"]
    for step, comments in _steps(acts, recorded, folder, name):
        lines += [f"  # {comment}" for comment in comments]
        dumped = _yaml([step]).rstrip().splitlines()
        lines += [f"  {line}" for line in dumped]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# --- what happened -----------------------------------------------------------------------


def _said(recorded: Recorded) -> Iterator[_Act]:
    # Keys that sound are in the caller's audio, too; they are pressed anew.
    pressed = [Span(act.span.start - 0.2, act.span.end + 0.5) for act in _pressed(recorded)]
    for span in speech_spans(recorded.caller, min_silence=PAUSE_S):
        if not any(keys.start <= span.start and span.end <= keys.end for keys in pressed):
            yield _Act(span)


def _pressed(recorded: Recorded) -> Iterator[_Act]:
    group: list[tuple[float, str]] = []
    for at, keys in sorted(recorded.keys):
        if not keys or not KEYS.issuperset(keys.upper()):
            continue
        if group and at - group[-1][0] > KEYS_APART_S:
            yield _Act(Span(group[0][0], group[-1][0] + 0.1), tuple(group))
            group = []
        group.append((at, keys))
    if group:
        yield _Act(Span(group[0][0], group[-1][0] + 0.1), tuple(group))


def _steps(
    acts: Sequence[_Act], recorded: Recorded, folder: Path, name: str
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """The steps, each with what was said around it."""
    turns = speech_spans(recorded.agent, min_silence=PAUSE_S)
    before = 0.0  # end of what the caller did last
    told = 0.0
    for number, act in enumerate(acts, 1):
        start = act.span.start
        comments = _comments(recorded, told, act.span.end)
        told = act.span.end
        during = next((turn for turn in turns if turn.start + REACTION_S < start < turn.end), None)
        into = {} if during is None else {"after": _time(start - during.start)}
        if during is None:
            yield from ((step, []) for step in _pause(turns, before, start))
        if act.keys:
            verb, does = "dtmf", _dtmf(act)
            if during is not None:
                patient = {"agent_speaking_for": into["after"], "timeout": _time(LONGEST_WAIT_S)}
                yield {"wait": patient}, []
        else:
            verb = "say" if during is None else _into(during, act)
            file = f"{name}-{number:02}.wav"
            sound = recorded.caller[max(0, round(start * RATE) - MARGIN) : round(act.span.end * RATE) + MARGIN]
            _write(folder / file, sound)
            does = {"wav": file, "gain": f"{_level(sound):.1f}dBov"} | into
        step: dict[str, Any] = {verb: does}
        expect = _expected(verb, act, turns, acts[number].span.start if number < len(acts) else len(recorded.agent))
        yield (step | {"expect": expect} if expect else step), comments
        before = act.span.end
    if recorded.ended_by == "agent":
        yield {"expect": {"hangup": "by_agent", "within": _time(LONGEST_WAIT_S)}}, _comments(recorded, told)
    else:
        last = next((turn for turn in reversed(turns) if turn.end > before), None)
        if last is not None:
            yield {"wait": {"for": "agent_done", "timeout": _time(LONGEST_WAIT_S)}}, _comments(recorded, told)
        yield {"hang_up": True}, []


def _comments(recorded: Recorded, since: float, until: float = math.inf) -> list[str]:
    """Who said what, between two moments."""
    texts = [(who, " ".join(text.split())) for at, who, text in recorded.texts if since <= at < until]
    return [f"{who}: {''.join(filter(str.isprintable, text))}" for who, text in texts]


def _into(turn: Span, act: _Act) -> str:
    """The verb of what was said into a turn of the agent."""
    if turn.end <= act.span.start + YIELDED_S:
        return "barge_in"
    return "backchannel" if act.span.seconds <= BACKCHANNEL_S else "barge_in"


def _pause(turns: Sequence[Span], before: float, start: float) -> Iterator[dict[str, Any]]:
    """Wait as the recorded caller did who acted at `start`, and had done so before until `before`."""
    since = [turn for turn in turns if turn.end > before and turn.start < start - REACTION_S]
    if not since:
        if start - before >= 0.02:
            yield {"wait": _time(start - before)}
        return
    gap = max(0.2, start - since[-1].end)
    yield {"wait": {"for": "agent_done", "silence": _time(min(gap, PAUSE_S)), "timeout": _time(LONGEST_WAIT_S)}}
    if gap > PAUSE_S + 0.02:
        yield {"wait": _time(gap - PAUSE_S)}


def _expected(verb: str, act: _Act, turns: Sequence[Span], until: float) -> dict[str, Any]:
    """What the recorded agent did, which the next one must do as well."""
    if verb == "backchannel":
        return {"agent_keeps_talking": "1s"}
    answer = next((turn for turn in turns if act.span.end <= turn.start < until), None)
    if verb == "say" and answer is not None:
        return {"agent_speaks": True, "within": _time(max(ANSWER_S, 2 * (answer.start - act.span.end)))}
    return {}


# --- how it is written ---------------------------------------------------------------------


def _dtmf(act: _Act) -> dict[str, Any]:
    digits = "".join(keys for _, keys in act.keys).upper()
    steps = np.diff([at for at, _ in act.keys])
    gap = float(np.median(steps)) - 0.1 if len(steps) else 0.1
    return {"digits": digits, "gap": _time(max(0.05, gap))}


def _time(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _level(sound: Samples) -> float:
    """dBov of the louder half, as `gain` means it."""
    signal = sound / 32768
    return -20.0 * float(np.log10(np.max(np.abs(at_level(signal, 0.0))) / np.max(np.abs(signal))))


def _write(path: Path, sound: Samples) -> None:
    path.write_bytes(wav_file(np.asarray(sound, "<i2").tobytes(), RATE))


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    return text
