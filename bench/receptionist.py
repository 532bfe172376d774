"""How well the receptionist understands the answers to its own questions, on synthetic telephone speech.

Every sentence is spoken by flite and espeak-ng (both must be installed), cut to the telephone band, laid on a quiet
line or on pink noise 15 dB under the voice, and encoded as 8 kHz mu-law. Seeded: the same table every time.

    python bench/receptionist.py [--sentences]
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter, defaultdict

import numpy as np
from vad import RATE, Signal, at_level, carried, pink, synthesise

from offhook.agents.receptionist import dialogue
from offhook.agents.speech import stt
from offhook.agents.speech.grammar import Grammar
from offhook.agents.speech.stt import Recognizer

VOICES = (
    ("flite", "rms"),
    ("flite", "slt"),
    ("flite", "awb"),
    ("flite", "kal"),
    ("espeak-ng", "en-us"),
    ("espeak-ng", "en-gb"),
)

MARGIN = 0.4
"""Seconds of line before and after the sentence, as the receptionist hands it on."""

ANSWERS = {
    "main": (
        "I would like to make an appointment",
        "an appointment on Tuesday at three",
        "can I book an appointment on Friday at ten thirty please",
        "what are your opening hours",
        "when are you open",
        "sales please",
        "I want to speak to technical support",
        "billing",
        "please call me back",
        "I would like to leave a message",
        "goodbye",
    ),
    "when": (
        "Tuesday at three",
        "on Friday at half past nine",
        "next Wednesday at two thirty please",
        "at eleven o'clock on Monday",
        "Thursday",
    ),
    "what_time": ("ten thirty", "at three", "four o'clock in the afternoon", "noon", "half past two please"),
    "confirm_appointment": ("yes", "yes please", "that's right", "correct", "no", "no thank you", "that's wrong"),
    "number": ("five five five zero one nine nine", "oh two seven nine four six", "eight eight three one four"),
    "more": ("yes", "yes please", "sure", "no", "no thank you", "that's all", "goodbye"),
    "stuck": ("yes", "yes please", "leave a message", "no", "no thanks"),
}
"""Question of the built-in dialogue, to sentences that answer it."""

OTHERS = (
    "the quick brown fox jumps over the lazy dog",
    "I am calling about the weather in Paris",
    "could you tell me who won the game last night",
    "my cat has eaten the newspaper again",
    "hold on a second",
    "hello",
)
"""Sentences that answer none of the questions."""


def heard(line: Signal, noisy: bool, rng: np.random.Generator) -> bytes:
    """The sentence as it arrives: int16 at 8 kHz."""
    margin = np.zeros(int(MARGIN * RATE))
    whole = np.concatenate([margin, line, margin])
    # The voice is at -20 dBFS.
    noise = at_level(pink(len(whole), rng), -35) if noisy else rng.normal(size=len(whole)) * 3e-4
    return carried(whole + noise).tobytes()


async def main() -> None:
    parser = argparse.ArgumentParser(description="What the receptionist understands, by voice and by question")
    parser.add_argument("--sentences", action="store_true", help="print every sentence that was not understood")
    verbose = parser.parse_args().sentences
    built_in = dialogue.load()
    grammars: dict[str, Grammar] = {name: g for name in ANSWERS if (g := built_in.grammar(name)) is not None}
    recognizer = Recognizer(2)
    rng = np.random.default_rng(11)
    cells: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    scores: dict[str, list[float]] = defaultdict(list)

    async def ask(question: str, sentence: str, voice: tuple[str, str], noisy: bool, inside: bool) -> None:
        grammar = grammars[question]
        line = synthesise(*voice, sentence)
        found = await recognizer.recognize(grammar, heard(line, noisy, rng))
        expected = grammar.parse(sentence) if inside else None
        if inside and expected is None:
            raise SystemExit(f"{question}: the grammar does not have {sentence!r}")
        if found.meaning is None:
            outcome = "rejected"
        else:
            outcome = "right" if found.meaning == expected else "wrong"
        kind = "answers" if inside else "others"
        scores[f"{kind}, {outcome}"].append(found.score)
        for row in (f"voice {voice[0]} {voice[1]}", f"question {question}", "all"):
            cells[row, f"{kind}{'-noisy' if noisy else ''}"][outcome] += 1
        if verbose and outcome != ("right" if inside else "rejected"):
            noise = "15 dB" if noisy else "clean"
            print(f"{question}, {voice[1]}, {noise}: {sentence!r} {outcome} as {found.text!r} ({found.score:.3f})")

    try:
        for voice in VOICES:
            for noisy in (False, True):
                asked = [(question, sentence, True) for question in ANSWERS for sentence in ANSWERS[question]]
                asked += [(question, sentence, False) for question in ANSWERS for sentence in OTHERS]
                await asyncio.gather(*(ask(question, said, voice, noisy, inside) for question, said, inside in asked))
    finally:
        recognizer.close()
    count = sum(map(len, ANSWERS.values()))
    print(
        f"{count} answers and {len(OTHERS)} other sentences to each of {len(ANSWERS)} questions, {len(VOICES)} voices."
    )
    print("Per cent of sentences right / wrongly accepted / rejected; others: wrongly accepted.\n")
    print("| | answers, clean | answers, 15 dB | others, clean | others, 15 dB |")
    print("|---|---:|---:|---:|---:|")
    rows = [f"voice {engine} {voice}" for engine, voice in VOICES] + [f"question {question}" for question in ANSWERS]
    for row in [*rows, "all"]:
        shown = []
        for column in ("answers", "answers-noisy", "others", "others-noisy"):
            count = cells[row, column]
            outcomes = ("right", "wrong", "rejected") if column.startswith("answers") else ("wrong",)
            shown.append(" / ".join(f"{100 * count[outcome] / count.total():.0f}" for outcome in outcomes))
        print(f"| {row} | {' | '.join(shown)} |")
    least = ", ".join(f"{stt.least_score(words):.2f}" for words in range(3, 7))
    print(f"\nScores; believed from {least} on with three, four, five, six words.\n")
    print("| | sentences | p5 | p50 | p95 |")
    print("|---|---:|---:|---:|---:|")
    for kind, values in sorted(scores.items()):
        quantiles = " | ".join(f"{value:.3f}" for value in np.percentile(values, [5, 50, 95]))
        print(f"| {kind} | {len(values)} | {quantiles} |")


if __name__ == "__main__":
    asyncio.run(main())
