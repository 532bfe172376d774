"""How well turns are taken on synthetic telephone clips: who is answered too early, and what stops the agent.

    python bench/turns.py [--every 3] [--policy NAME ...] [--wrong] [--log TEXT] [--json]

Plays some 500 clips (`offhook.qa.turn_corpus`) through the real detector, turn-taker and end-of-turn model in virtual
time, once for each policy. flite, espeak-ng and the model's file must be installed. `--wrong` lists the clips that a
policy got wrong, `--log` prints what happened on those whose name holds a text.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from offhook.agents.turns.settings import TurnSettings
from offhook.qa.turn_corpus import corpus
from offhook.qa.turn_play import Hears, Play, Result, voiced
from offhook.qa.turn_score import CachedModel, breakdown, figures, matrix, quantiles

POLICIES: dict[str, tuple[dict[str, Any], Hears]] = {
    "model": ({"end": "model"}, "streaming"),
    "model, eager": ({"end": "model", "eager": True}, "streaming"),
    "transcript": ({"end": "transcript"}, "streaming"),
    "transcript, eager": ({"end": "transcript", "eager": True}, "streaming"),
    "transcript, full stops everywhere": ({"end": "transcript"}, "dotted"),
    "model, full stops everywhere": ({"end": "model"}, "dotted"),
    "silence": ({"end": "silence"}, "streaming"),
    "model, interrupt: words": ({"end": "model", "interrupt": "words"}, "streaming"),
    "model, interrupt: transcript": ({"end": "model", "interrupt": "transcript"}, "streaming"),
    "model, no interim text": ({"end": "model"}, "blocks"),
}
"""Name, settings, and the speech-to-text service they are played with."""


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
    model = CachedModel()
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
