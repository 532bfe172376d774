"""The recogniser's own process: `python -m offhook.qa.measuring.recogniser`.

pocketsphinx with its general English model, at low priority. It reads one turn a request from standard input and
answers on standard output, framed as in `agents.speech.stt_worker`.

Theory of operation
-------------------
The general model writes what was said, with many mistakes: it learnt from 16 kHz audio of people, and gets telephone
audio, often of a synthesiser. Whether an expected phrase was said is therefore decided by its sounds as well:

* The text is turned back into sounds (phones) by the dictionary, and the phrase's are looked for in them; a few may
  differ. `data birth` has but one sound less than `date of birth`.
* Further passes look for the phrase alone, against a loop of all sounds (keyword spotting), and give how much
  less likely the phrase is than the best sounds at its place.

Either is believed only when it fits so well that of sentences which do not have the phrase less than one in a
thousand fits as well; short phrases have to fit better. Numbers differ from each other in few sounds: a phrase that
has some must beat the same phrase with any one of them changed, and its sounds must all be there.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pocketsphinx

from offhook.agents.speech.stt_worker import MODEL_RATE, serve
from offhook.codecs.convert import resample_all
from offhook.qa.match import AUDIBLE
from offhook.qa.measuring.words import TENS, UNITS, plain, spoken

NICE: Final = 10
"""Added to the process's niceness: calls under way go first."""

PAD: Final = np.zeros(2400, np.int16)
"""Silence put before and after a turn, 0.3 s: the model wants some."""

MAX_PIECE: Final = 30 * 8000
"""Samples that are understood at once; longer turns are cut in a pause of their last third."""

WINDOW: Final = 240
"""Samples, 30 ms, of which the quietest is where a long turn is cut."""

SEARCH: Final = {"maxhmmpf": 3000, "maxwpf": 8}
"""Half the work of the defaults, for a hundredth more wrong words."""

LOWEST: Final = "1e-300"
"""Likelihood ratio from which the spotting gives a phrase at all; what is believed is decided afterwards."""

SCORE_SCALE: Final = 1024
"""pocketsphinx gives scores shifted right by ten bits (SENSCR_SHIFT)."""

SPEEDS: Final = (0.95, 1.0, 1.05)
"""The spotting listens at each: voices differ in pitch and formants from those that the model learnt, and a tape that
runs slower or faster brings them near. It finds half as many phrases again, at no more false alarms."""

LEAST_SCORE: Final = -110.0
SCORE_A_SOUND: Final = -5.0
"""Logarithm of the likelihood ratio from which the spotting is believed: of no sound, and less for each."""

MAY_DIFFER: Final = ((6, 0), (9, 1), (12, 2), (16, 3))
"""Of a phrase with less than so many sounds, how many may differ in the text; with more of them, MOST_DIFFER."""
MOST_DIFFER: Final = 4

RIVAL_MARGIN: Final = 20.0
"""By how much a number must beat every other, in the unit of scores."""

NUMBERS: Final = (*UNITS, *TENS)

MAX_RIVALS: Final = 12
"""Number words of a phrase that are tried otherwise; each costs 27 phrases to look for."""

PHRASES: Final = "phrases"
WORDS: Final = "words"
"""Names of the two searches."""


class Request(msgspec.Struct):
    """One turn to understand; its audio comes behind, int16 at 8 kHz."""

    phrases: list[str] = []
    "Looked for in it."


class Answer(msgspec.Struct):
    """What was said."""

    text: str = ""
    found: list[str] = []
    "Phrases that were found by their sounds."
    unknown: list[str] = []
    "Words of phrases that the dictionary does not have: those phrases are looked for in the text only."


class Recogniser:
    """One decoder. Everything it does blocks."""

    def __init__(self) -> None:
        self._decoder: Any = pocketsphinx.Decoder(loglevel="FATAL", **SEARCH)
        self._words = self._decoder.current_search()
        self._taught = ""
        self._ways: dict[str, list[_Way]] = {}
        "By phrase; none: it cannot be looked for."
        self._unknown: list[str] = []

    def answer(self, request: Request, pcm: bytes) -> Answer:
        """Understand one turn; without audio only the model is loaded."""
        self._learn(request.phrases)
        texts: list[str] = []
        scores: dict[str, float] = {}
        for piece in _pieces(np.frombuffer(pcm, "<i2")):
            if max(piece.max(initial=0), -int(piece.min(initial=0))) < AUDIBLE:
                continue  # the model hears words in perfect silence
            wave = resample_all(np.concatenate([PAD, piece, PAD]).tobytes(), 8000, MODEL_RATE)
            texts.append(self._understand(wave))
            for speed in SPEEDS if any(self._ways.values()) else ():
                for words, score in self._spot(_at_speed(wave, speed)):
                    scores[words] = max(score, scores.get(words, -math.inf))
        text = " ".join(filter(None, texts))
        said = self._sounds(text.split())
        found = [phrase for phrase, ways in self._ways.items() if any(way.believed(said, scores) for way in ways)]
        return Answer(text, found, self._unknown)

    def _understand(self, wave: bytes) -> str:
        self._decode(self._words, wave)
        best = self._decoder.hyp()
        return best.hypstr if best is not None else ""

    def _spot(self, wave: bytes) -> list[tuple[str, float]]:
        self._decode(PHRASES, wave)
        segments = self._decoder.seg() or ()
        return [(one.word.strip(), SCORE_SCALE * math.log(one.prob)) for one in segments if one.prob > 0]

    def _decode(self, search: str, wave: bytes) -> None:
        self._decoder.activate_search(search)
        self._decoder.start_utt()
        # The whole turn at once: its loudness is normalised over all of it.
        self._decoder.process_raw(wave, False, True)
        self._decoder.end_utt()

    def _learn(self, phrases: Sequence[str]) -> None:
        name = hashlib.sha256(repr(phrases).encode()).hexdigest()
        if name == self._taught:
            return
        if any(self._ways.values()):
            self._decoder.remove_search(PHRASES)
        self._taught, self._ways, self._unknown = name, {}, []
        for phrase in phrases:
            ways = [self._known(way) for way in spoken(phrase)]
            self._ways[phrase] = [
                _Way(" ".join(way), [self._sounds([word]) for word in way], _rivals(way)) for way in ways if way
            ]
        looked_for = {words for ways in self._ways.values() for way in ways for words in (way.words, *way.rivals)}
        lines = [f"{words} /{LOWEST}/\n" for words in sorted(looked_for)]
        if lines:
            with tempfile.TemporaryDirectory(prefix="offhook-phrases-") as folder:
                file = Path(folder, "phrases")
                file.write_text("".join(lines), encoding="utf-8")
                self._decoder.add_kws(PHRASES, str(file))

    def _known(self, words: list[str]) -> list[str]:
        """The words as the dictionary has them; nothing when it has not, and cannot put them together from two."""
        found: list[str] = []
        for word in words:
            if self._decoder.lookup_word(word) is not None:
                found.append(word)
                continue
            halves = [(word[:at], word[at:]) for at in range(2, len(word) - 1)]
            known = (pair for pair in halves if all(self._decoder.lookup_word(half) is not None for half in pair))
            pair = min(known, key=lambda pair: abs(len(pair[0]) - len(pair[1])), default=None)
            if pair is None:
                if word not in self._unknown:
                    self._unknown.append(word)
                return []
            found.extend(pair)
        return found

    def _sounds(self, words: Sequence[str]) -> list[str]:
        return [sound for word in words for sound in (self._decoder.lookup_word(plain(word)) or "").split()]


def _pieces(turn: np.ndarray[Any, np.dtype[np.int16]]) -> list[np.ndarray[Any, np.dtype[np.int16]]]:
    """Cut a long turn where it is quietest."""
    cuts = [0]
    while len(turn) - cuts[-1] > MAX_PIECE:
        last = turn[cuts[-1] + MAX_PIECE * 2 // 3 : cuts[-1] + MAX_PIECE].astype(np.float64)
        level = np.square(last[: len(last) // WINDOW * WINDOW].reshape(-1, WINDOW)).mean(axis=1)
        cuts.append(cuts[-1] + MAX_PIECE * 2 // 3 + int(np.argmin(level)) * WINDOW)
    return [turn[start:end] for start, end in pairwise([*cuts, len(turn)])]


def _at_speed(wave: bytes, speed: float) -> bytes:
    if speed == 1.0:
        return wave
    samples = np.frombuffer(wave, "<i2")
    at = np.arange(0, len(samples) - 1, speed)
    stretched = np.interp(at, np.arange(len(samples)), samples)
    return bytes(np.rint(stretched).astype("<i2"))


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to speak a phrase."""

    words: str
    sounds: list[list[str]]
    "Of each word."
    rivals: list[str]
    "The same with one of its numbers changed."

    def believed(self, said: Sequence[str], scores: Mapping[str, float]) -> bool:
        """Whether the phrase was said, by the sounds of the text and the scores of the spotting."""
        count = sum(map(len, self.sounds))
        if self._alike(count, differences(self.sounds, said)):
            return True
        best = max((scores.get(rival, -math.inf) for rival in self.rivals), default=-math.inf)
        least = max(LEAST_SCORE + SCORE_A_SOUND * count, best + RIVAL_MARGIN)
        return scores.get(self.words, -math.inf) >= least

    def _alike(self, count: int, wrong: Sequence[int]) -> bool:
        if self.rivals:
            return not any(wrong)
        most = next((most for below, most in MAY_DIFFER if count < below), MOST_DIFFER)
        # One word for another is another sentence, however long the rest: `to speak` is not `to book`.
        each = zip(self.sounds, wrong, strict=True)
        return sum(wrong) <= most and all(differ <= max(1, len(word) // 3) for word, differ in each)


def _rivals(words: Sequence[str]) -> list[str]:
    numbers = [at for at, word in enumerate(words) if word in NUMBERS]
    return [
        " ".join([*words[:at], other, *words[at + 1 :]])
        for at in numbers[:MAX_RIVALS]
        for other in NUMBERS
        if other != words[at]
    ]


def differences(phrase: Sequence[Sequence[str]], said: Sequence[str]) -> Sequence[int]:
    """How many sounds of each word must be changed, left out or put in to find the phrase in what was said."""
    # Of what ends at each sound of `said`: all changes so far, and those of each word. The fewest win.
    row: list[tuple[int, tuple[int, ...]]] = [(0, (0,) * len(phrase))] * (len(said) + 1)
    for number, word in enumerate(phrase):
        for wanted in word:
            above, row = row, [_one_more(row[0], number)]
            for at, sound in enumerate(said):
                same = above[at] if sound == wanted else _one_more(above[at], number)
                row.append(min(same, _one_more(above[at + 1], number), _one_more(row[at], number)))
    return min(row)[1]


def _one_more(changes: tuple[int, tuple[int, ...]], word: int) -> tuple[int, tuple[int, ...]]:
    total, each = changes
    return total + 1, (*each[:word], each[word] + 1, *each[word + 1 :])


def main() -> None:
    """Answer requests until standard input ends."""
    os.nice(NICE)
    serve(lambda: Recogniser().answer, Request)


if __name__ == "__main__":
    main()
