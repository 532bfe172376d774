"""How well turns are taken on synthetic telephone clips: who is answered too early, and what stops the agent.

    python bench/turns.py [--every 3] [--policy NAME ...] [--wrong] [--log TEXT] [--json]

Plays some 500 clips (`offhook.qa.turn_corpus`) through the real detector, turn-taker and end-of-turn model in virtual
time, once for each policy. flite, espeak-ng and the model's file must be installed. `--wrong` lists the clips that a
policy got wrong, `--log` prints what happened on those whose name holds a text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from offhook.agents.turns.settings import TurnSettings
from offhook.agents.turns.smart_turn import SmartTurn
from offhook.qa.turn_corpus import Clip, corpus
from offhook.qa.turn_play import Hears, Play, Reaction, Result, voiced

POLICIES: dict[str, tuple[dict[str, Any], Hears]] = {
    "model": ({"end": "model"}, "streaming"),
    "model, eager": ({"end": "model", "eager": True}, "streaming"),
    "transcript": ({"end": "transcript"}, "streaming"),
    "transcript, eager": ({"end": "transcript", "eager": True}, "streaming"),
    "silence": ({"end": "silence"}, "streaming"),
    "model, interrupt: words": ({"end": "model", "interrupt": "words"}, "streaming"),
    "model, interrupt: transcript": ({"end": "model", "interrupt": "transcript"}, "streaming"),
    "model, no interim text": ({"end": "model"}, "blocks"),
}
"""Name, settings, and the speech-to-text service they are played with."""

COLUMNS: tuple[Reaction, ...] = ("answered", "too early", "no answer", "stopped", "held", "went on", "waited")


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
    """The end-of-turn model; policies often ask about the same moment of the same clip."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._model, self._runner = SmartTurn(), runner
        self._known: dict[tuple[str, int, int], float] = {}
        self.took: list[float] = []

    def __call__(self, clip: Clip, begin: int, end: int) -> float:
        key = (clip.name, begin, end)
        if key not in self._known:
            asked = time.perf_counter()
            self._known[key] = self._runner.run(self._model.probability(clip.audio[begin:end].tobytes()))
            self.took.append(1000 * (time.perf_counter() - asked))
        return self._known[key]

    def close(self) -> None:
        self._model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="only each n-th scene")
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="only this one; may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a turn setting, for all")
    parser.add_argument("--wrong", action="store_true", help="list the clips with a wrong reaction")
    parser.add_argument("--log", default="", help="print what happened on clips whose name holds this text")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    more = dict(pair.split("=", 1) for pair in args.set)
    began = time.perf_counter()
    clips = corpus(every=args.every)
    probabilities = voiced(clips)
    report: dict[str, Any] = {
        "clips": len(clips),
        "seconds": round(sum(clip.seconds for clip in clips)),
        "policies": {},
    }
    with asyncio.Runner() as runner:
        model = CachedModel(runner)
        for name in args.policy or POLICIES:
            settings, hears = POLICIES[name]
            made = TurnSettings.model_validate({**settings, **more})
            results = [Play(c, p, made, model, hears).run() for c, p in zip(clips, probabilities, strict=True)]
            report["policies"][name] = figures(results)
            if not args.json:
                show(name, results, args)
        model.close()
    if model.took:
        report["model, p50 / p95 ms"] = quantiles(model.took)
    report["run took s"] = round(time.perf_counter() - began)
    if args.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print({key: value for key, value in report.items() if key != "policies"})


def show(name: str, results: Sequence[Result], args: argparse.Namespace) -> None:
    """Print the tables of one policy."""
    print(f"## {name}\n\n{matrix(results)}\n")
    for what, value in figures(results).items():
        text = "{count} of {of} ({percent} %)".format(**value) if isinstance(value, dict) else value
        print(f"- {what}: {text}")
    print(f"\n{breakdown(results)}\n")
    for result in results:
        if args.wrong and not result.right:
            print(f"{result.reaction}: {result.clip.name}")
        if args.log and args.log in result.clip.name:
            print(f"{result.reaction}: {result.clip.name}", *result.log, sep="\n  ")


if __name__ == "__main__":
    main()
