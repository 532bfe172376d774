"""What the reactions to the corpus of turns come to: figures, the confusion matrix, and both by noise and voice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from offhook.agents.turns.smart_turn import SmartTurn
from offhook.qa.turn_corpus import Clip
from offhook.qa.turn_play import Reaction, Result

COLUMNS: Final[tuple[Reaction, ...]] = ("answered", "too early", "no answer", "stopped", "held", "went on", "waited")


def row_of(clip: Clip) -> str:
    """What the caller did, as fine as the table has it."""
    if clip.pause is not None:
        return f"paused {clip.pause.seconds * 1000:.0f} ms in mid-sentence, went on"
    waits = ", agent waits" if clip.agent_from is None and clip.kind == "cough" else ""
    return {
        "finished": "finished",
        "interruption": "interrupted the agent",
        "double talk": "began together with the agent",
        "back-channel": "back-channel over the agent",
        "cough": f"cough and the like{waits or ' over the agent'}",
        "keys": "keys over the agent",
        "noise": "nothing, noise",
    }.get(clip.kind, clip.kind)


def quantiles(values: Iterable[float | None]) -> str:
    """Median and 95th percentile in ms."""
    found = [value for value in values if value is not None]
    return f"{np.percentile(found, 50):.0f} / {np.percentile(found, 95):.0f}" if found else "–"


def share(results: Sequence[Result], *wrong: Reaction) -> dict[str, Any]:
    """How many of the results are among the wrong ones."""
    count = sum(result.reaction in wrong for result in results)
    return {"count": count, "of": len(results), "percent": round(100 * count / max(1, len(results)), 1)}


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """The figures a policy is judged by."""
    over = [r for r in results if r.clip.kind in ("back-channel", "cough") and r.clip.agent_from is not None]
    floor = [r for r in results if r.clip.kind in ("interruption", "double talk")]
    pauses = [r for r in results if r.clip.pause is not None]
    turns = [r for r in results if r.clip.kind in ("finished", "paused")]
    return {
        "false stops on coughs and back-channels": share(over, "stopped"),
        "held for a moment by them": share(over, "held"),
        "missed interruptions": share(floor, "went on"),
        "stopped before the interruption": share(floor, "too early"),
        "pause of 700 ms answered too early": share([r for r in pauses if "700 ms" in row_of(r.clip)], "too early"),
        "turns not answered": share(turns, "no answer"),
        "answered without every word": sum(not r.complete for r in turns),
        "agent silent after the caller starts, p50 / p95 ms": quantiles(r.stop_ms for r in floor),
        "decided after the last word, p50 / p95 ms": quantiles(r.response_ms for r in turns),
        "agent heard after the last word, p50 / p95 ms": quantiles(r.voice_ms for r in turns),
        "gap of an agent that was held, p50 / p95 ms": quantiles(r.gap_ms for r in over if r.reaction == "held"),
    }


def matrix(results: Sequence[Result]) -> str:
    """The confusion matrix: what the caller did, what the agent did; what is right stands in bold."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(row_of(result.clip), []).append(result)
    lines = [f"| the caller | clips | {' | '.join(COLUMNS)} |", "|---" + "|---:" * (1 + len(COLUMNS)) + "|"]
    for name, group in rows.items():
        counts = Counter(result.reaction for result in group)
        right = {result.reaction for result in group if result.right}
        cells = (f"**{counts[c]}**" if c in right else str(counts[c] or "") for c in COLUMNS)
        lines.append(f"| {name} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def breakdown(results: Sequence[Result]) -> str:
    """The same figures by noise, voice, and the way of pausing."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        clip = result.clip
        keys = [clip.condition, clip.noise or "", clip.voice, f"pauses: {clip.manner}" if clip.manner else ""]
        for key in filter(None, keys):
            groups.setdefault(key, []).append(result)
    lines = [
        "| clips | n | right | false stops | missed | 700 ms too early | decided p50 / p95 | silent p50 / p95 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, group in groups.items():
        found = figures(group)
        cells = [
            str(len(group)),
            f"{100 * sum(r.right for r in group) / len(group):.0f} %",
            *(
                "{count} of {of}".format(**found[key])
                for key in (
                    "false stops on coughs and back-channels",
                    "missed interruptions",
                    "pause of 700 ms answered too early",
                )
            ),
            found["decided after the last word, p50 / p95 ms"],
            found["agent silent after the caller starts, p50 / p95 ms"],
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


class CachedModel:
    """The end-of-turn model as a `Judge`; policies often ask about the same moment of the same clip.

    Raises:
        SettingsError: the model's file is not installed.
    """

    def __init__(self) -> None:
        self._model, self._runner = SmartTurn(), asyncio.Runner()
        self._known: dict[tuple[str, int, int], float] = {}
        self.took: list[float] = []
        "Milliseconds of each answer."

    def __call__(self, clip: Clip, begin: int, end: int) -> float:
        key = (clip.name, begin, end)
        if key not in self._known:
            asked = time.perf_counter()
            self._known[key] = self._runner.run(self._model.probability(clip.audio[begin:end].tobytes()))
            self.took.append(1000 * (time.perf_counter() - asked))
        return self._known[key]

    def close(self) -> None:
        """Let go of the model."""
        self._model.close()
        self._runner.close()
