"""Sentences from a synthesiser together with the moment of every word, and people who stop in the middle of one.

Where the words lie: flite tells the end of every sound (`-psdur`), and the sounds are counted off against those of
the single words; espeak-ng does not tell, so there the time between two pauses is shared out by letters. The first
is right to some 10 ms, the second to some 80.

A pause that a sentence is thought through in does not sound like the end of one. The sentence is therefore
synthesised whole and opened at the word (flite), or given a break there (espeak-ng), so that the melody before the
pause is that of a sentence under way; and the speaker draws out the last word, or fills with an "um", or does neither.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from offhook.codecs.convert import resample_all
from offhook.codecs.wav import parse_wav
from offhook.qa.activity import RATE
from offhook.qa.sounds import Signal, at_level, drawn_out, telephone

PAUSE: Final = "…"
"""Stands as a word of its own where the speaker stops to think."""

LEVEL: Final = -20.0
"""dBFS of every voice."""

BREAK_S: Final = 1.5
"""A break that is asked of espeak-ng; longer than any silence it makes by itself, so that it can be found."""

AUDIBLE: Final = 0.01
"""Of the loudest sample: below that a piece of speech begins or ends."""

FADE: Final = 40
"""Samples, 5 ms, over which a cut fades."""

DRAWN_S: Final = 0.32
DRAWN: Final = (1.5, 1.9)
"""The last 320 ms before a pause become 1.5 to 1.9 times as long: a hesitating speaker doubles the last vowel."""

Manner = Literal["drawn", "filler", "plain"]
"""How a speaker stops: with a drawn-out word, with an "um", or as if cut off."""


class Speaker(NamedTuple):
    """A voice of a synthesiser."""

    engine: Literal["flite", "espeak-ng"]
    voice: str

    def __str__(self) -> str:
        return self.voice


SPEAKERS: Final = (
    Speaker("flite", "slt"),
    Speaker("espeak-ng", "en-us"),
    Speaker("flite", "rms"),
    Speaker("espeak-ng", "en-us+Annie"),
    Speaker("flite", "awb"),
    Speaker("espeak-ng", "en-gb-scotland"),
    Speaker("flite", "kal16"),
    Speaker("espeak-ng", "en-gb+f3"),
)
"""Women and men, four accents, two ways of synthesis."""

SOUNDS: Final = {
    "uh-huh": ("ah hh ah", "[[VhV]]"),
    "mm-hm": ("m m hh m m", "[[m:h@m]]"),
    "ha-ha-ha": ("hh aa hh aa hh aa", "[[h'ah'ah'a]]"),
    "ahem": ("ax hh eh m", "[[@h'Em]]"),
    "hmm": ("hh m m m", "[[h@m:m:]]"),
}
"""What is no word to a synthesiser, in the sounds of flite and of espeak-ng."""


@dataclass(frozen=True, slots=True)
class Said:
    """Speech without silence at its ends, and its words with start and end in seconds."""

    signal: Signal
    words: tuple[tuple[str, float, float], ...]

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return len(self.signal) / RATE


@lru_cache(maxsize=1024)
def say(speaker: Speaker, text: str) -> Said:
    """Synthesise a text without a pause. Raises what the child process raises when the synthesiser is missing."""
    (said,) = _pieces(speaker, text.split())
    return said


def say_haltingly(speaker: Speaker, text: str, manner: Manner, rng: np.random.Generator) -> tuple[Said, Said]:
    """Synthesise a text with one PAUSE in it; gives what comes before and what comes after."""
    before, after = _pieces(speaker, text.split())
    if manner == "plain":
        return before, after
    factor = rng.uniform(*DRAWN)
    long = Said(drawn_out(before.signal, DRAWN_S, factor), before.words)
    if manner == "filler":
        filler = drawn_out(say(speaker, rng.choice(["um", "uh"]) + ",").signal, DRAWN_S, factor)
        gap = np.zeros(int(rng.uniform(0.03, 0.12) * RATE))
        # No recogniser writes the filler, so it is no word.
        return Said(np.concatenate([before.signal, gap, _faded(filler)]), before.words), after
    word, start, _ = before.words[-1]
    return Said(_faded(long.signal), (*before.words[:-1], (word, start, long.seconds))), after


def _pieces(speaker: Speaker, words: list[str]) -> list[Said]:
    whole = [word for word in words if word != PAUSE]
    at = words.index(PAUSE) if PAUSE in words else len(words)
    if speaker.engine == "espeak-ng":
        signal = _espeak(speaker.voice, " ".join(words))
        if at == len(words):
            return [_shared_out(signal, whole)]
        begin, end = _longest_silence(signal)
        return [_shared_out(signal[:begin], whole[:at]), _shared_out(signal[end:], whole[at:])]
    signal, ends = _flite(speaker.voice, " ".join(whole))
    times = _counted_off(ends, whole) if len(whole) > 1 else [(0.0, len(signal) / RATE)]
    cut = round(times[at - 1][1] * RATE) if at < len(words) else len(signal)
    pieces = [_trimmed(signal[:cut], list(zip(whole[:at], times, strict=False)), 0.0)]
    if at < len(words):
        pieces.append(_trimmed(signal[cut:], list(zip(whole[at:], times[at:], strict=True)), cut / RATE))
    return pieces


def _flite(voice: str, text: str) -> tuple[Signal, list[float]]:
    """Synthesise, and give the end of each sound in seconds, silences left out."""
    given = ["-p", SOUNDS[text][0]] if text in SOUNDS else ["-t", text]
    with tempfile.TemporaryDirectory(prefix="offhook-spoken-") as folder:
        file = Path(folder, "speech.wav")  # flite seeks back to write its header
        command = ["flite", "-voice", voice, "-psdur", *given, "-o", str(file)]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
        signal = _from_wav(file.read_bytes())
    sounds = [entry.rsplit(":", 1) for entry in told.split()]
    return signal, [float(end) for name, end in sounds if name != "pau"]


@lru_cache(maxsize=1024)
def _sounds_of(words: tuple[str, ...]) -> list[int]:
    """How many sounds flite makes of each word: between commas it pauses."""
    text = ", ".join(word.strip(".,?!") for word in words)
    command = ["flite", "-voice", "kal", "-ps", "-t", text, "-o", "/dev/null"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    return [len(group.split()) for group in told.split("pau") if group.split()]


def _counted_off(ends: list[float], words: list[str]) -> list[tuple[float, float]]:
    counts = _sounds_of(tuple(words))
    if len(counts) != len(words) or sum(counts) != len(ends):
        raise ValueError(f"flite does not speak {' '.join(words)!r} as it speaks its words: choose another sentence")
    last = np.cumsum(counts) - 1
    first = [0.0, *(ends[i] for i in last[:-1])]
    return [(start, ends[i]) for start, i in zip(first, last, strict=True)]


def _espeak(voice: str, text: str) -> Signal:
    command = ["espeak-ng", "-v", voice, "-s", "160", "--stdout"]
    if PAUSE in text:
        marked = text.replace(PAUSE, f'<break time="{BREAK_S * 1000:.0f}ms"/>')
        command += ["-m", f"<speak>{marked}</speak>"]  # as SSML, in which [[sounds]] would be read out
    else:
        command.append(SOUNDS[text][1] if text in SOUNDS else text)
    return _from_wav(subprocess.run(command, check=True, capture_output=True, timeout=20).stdout)


def _longest_silence(signal: Signal) -> tuple[int, int]:
    quiet = np.abs(signal) < 0.3 * AUDIBLE * np.abs(signal).max()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    inner = [i for i in range(len(starts)) if starts[i] > 0 and ends[i] < len(signal)]
    longest = max(inner, key=lambda i: int(ends[i] - starts[i]))
    return int(starts[longest]), int(ends[longest])


def _shared_out(signal: Signal, words: list[str]) -> Said:
    """Words get time by their letters, and two for the way there."""
    said = _trimmed(signal, [], 0.0)
    share = np.cumsum([0, *(len(word) + 2 for word in words)], dtype=float)
    share *= said.seconds / share[-1]
    return Said(said.signal, tuple(zip(words, share[:-1].tolist(), share[1:].tolist(), strict=True)))


def _trimmed(signal: Signal, words: list[tuple[str, tuple[float, float]]], offset: float) -> Said:
    """Cut the silence at both ends; `offset` is where the piece began in the time of its words."""
    loud = np.flatnonzero(np.abs(signal) > AUDIBLE * np.abs(signal).max())
    begin, end = int(loud[0]), int(loud[-1]) + 1
    first, length = offset + begin / RATE, (end - begin) / RATE
    inside = tuple((word, max(0.0, start - first), min(length, to - first)) for word, (start, to) in words)
    return Said(_faded(at_level(telephone(signal[begin:end]), LEVEL)), inside)


def _faded(signal: Signal) -> Signal:
    shape = np.ones(len(signal))
    shape[:FADE], shape[-FADE:] = np.linspace(0, 1, FADE), np.linspace(1, 0, FADE)
    return signal * shape


def _from_wav(file: bytes) -> Signal:
    _, rate, _, pcm = parse_wav(file, name="synthesiser's output")
    if rate != RATE:
        pcm = resample_all(pcm, rate, RATE)
    return np.asarray(np.frombuffer(pcm, "<i2") / 32768)
