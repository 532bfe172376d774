"""Telephone clips on which turn-taking is measured: what a caller does, and what would be the right reaction.

Some 130 scenes, each on a quiet line and in noise 20, 10 and 5 dB below the voice, all through the telephone band and
μ-law. Voices are synthetic (spoken.py), sounds are computed (sounds.py), and everything random is seeded by the name
of the clip: the same corpus on every machine with the same synthesisers. Whether a caller who pauses sounds like one
is said in spoken.py; of the pauses half are drawn out, a third filled with an "um", the rest as if cut off.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

import numpy as np

from offhook.agents.services.base import Word
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.sounds import (
    LINE_NOISE,
    NOISES,
    Noise,
    Signal,
    at_level,
    breath,
    carried,
    cough,
    keys,
    knock,
    noise,
    sneeze,
    throat,
)
from offhook.qa.spoken import LEVEL, PAUSE, SPEAKERS, Manner, Said, Speaker, say, say_haltingly

SEED: Final = 3

SNRS: Final = (20, 10, 5)
"""dB between the voice and the noise behind it: an office, a street, a bar."""

TAIL_S: Final = 3.5
"""Silence at the end of a clip: a turn-taker that has not answered by then has missed."""

TURN_AT: Final = 1.0
"""Seconds into the clip when a caller speaks who has the floor."""

AGENT_AT: Final = 0.3
"""Seconds into the clip when the agent begins to speak."""

SOUND_DBFS: Final = (-26.0, -18.0)
"""Coughs are about as loud as speech."""

UNHEARD: Final[Samples] = np.zeros(0, np.int16)
"""The audio of a scene that has no background yet."""

Kind = Literal["finished", "paused", "interruption", "double talk", "back-channel", "cough", "keys", "noise"]
"""What the caller does.

finished: says one thing and waits. paused: stops in mid-sentence, goes on. interruption: takes the floor while the
agent speaks. double talk: both begin at the same time; the floor is his. back-channel: an "uh-huh" while the agent
speaks. cough: a sound without words, while the agent speaks or waits. keys: DTMF tones in the audio while the agent
speaks. noise: nothing at all, while the agent speaks.
"""


@dataclass(frozen=True, slots=True)
class Clip:
    """A few seconds of caller audio and the truth about it. Times are seconds from the first sample."""

    name: str
    kind: Kind
    voice: str
    "Empty when nobody speaks."
    audio: Samples
    words: tuple[Word, ...] = ()
    "What a recogniser would write, without punctuation, with the time of each word."
    speech: tuple[Span, ...] = ()
    "The caller's words; the last one's end is the end of his turn."
    sound: Span | None = None
    "What is no speech: the cough, the keys."
    agent_from: float | None = None
    "When the agent begins to speak, to the end of the clip unless it is stopped; None: it waits for the caller."
    noise: Noise | None = None
    snr: int | None = None
    manner: Manner | None = None
    "How the caller pauses."

    @property
    def pause(self) -> Span | None:
        """The pause in mid-sentence."""
        return Span(self.speech[0].end, self.speech[1].start) if len(self.speech) == 2 else None

    @property
    def seconds(self) -> float:
        """How long the clip is."""
        return len(self.audio) / RATE

    @property
    def condition(self) -> str:
        """The noise behind the caller in words."""
        return "clean" if self.snr is None else f"{self.snr} dB"


FINISHED: Final = (
    "I would like to book a table for five people.",
    "Can you tell me your opening hours?",
    "Yes.",
    "I need to change my appointment on Thursday.",
    "No, thank you.",
    "What time do you open on Saturday?",
    "I would like to speak to sales, please.",
    "Tuesday at ten would be fine.",
    "My order has not arrived yet.",
    "How much does it cost?",
    "It is about the invoice you sent me last week.",
    "That's right.",
    "The name is Margaret Williams.",
    "Is there a train before nine?",
    "I forgot my password.",
    "Can I pay by card?",
    "My number is five five five, zero one nine nine.",
    "Two adults and one child.",
    "Do you deliver to Bristol?",
    "That is all, goodbye.",
    "I am calling to cancel my contract.",
    "Who am I speaking to?",
    "Maybe next week.",
    "It stopped working this morning.",
)

PAUSED: Final = (
    "I would like to … book a table for five people.",
    "My number is five five five … zero one nine nine.",
    "I want to change my appointment from … Tuesday to Friday.",
    "The problem is that my … order has not arrived.",
    "I am calling about the … invoice you sent me last week.",
    "It is number forty two … Station Road in Bristol.",
    "I would like to speak to … somebody in sales, please.",
    "Can you tell me whether … you open on Saturday?",
    "My name is … Margaret Williams.",
    "I need a taxi for … four people at half past nine.",
    "We would come on … Thursday, or maybe Friday.",
    "I bought a lamp from you … and it stopped working this morning.",
    "Do you have anything for … a family with two children?",
    "The order number is seven three … nine two eight.",
    "I think it was … the second of March.",
    "I wanted to ask if … I can pay by card.",
    "There are two adults and … one child.",
    "My address is … twelve Garden Street.",
    "It happened when I … opened the door.",
    "I can do Monday but … only after four.",
    "Please send it to my … office in London.",
    "My date of birth is the fourth of … December.",
    "I am looking for … a room with a view.",
    "Good morning … I have a question about my bill.",
)

INTERRUPTIONS: Final = (
    "Wait a second.",
    "No, that is wrong.",
    "Excuse me, can I ask something?",
    "Stop.",
    "Hold on, please.",
    "Actually, I wanted to speak to a person.",
    "Sorry, what was that?",
    "I already told you that.",
    "No, not that one.",
    "Can you repeat the price?",
    "Wait.",
    "I only want to know when you open.",
    "That's not what I asked.",
    "Hang on, I need a pen.",
    "Just the second one, please.",
    "Let me speak to somebody else.",
)

DOUBLE: Final = (
    "On Friday, I mean.",
    "And one more thing.",
    "For six people, not five.",
    "Are you still there?",
    "Sorry, I meant the morning.",
    "Hello, can you hear me?",
    "But not before nine.",
    "Or is that too late?",
)

BACK_CHANNELS: Final = ("uh-huh", "yeah", "mm-hm", "okay", "right", "I see", "sure", "okay, yeah")

SOUNDS: Final[dict[str, Callable[[np.random.Generator], Signal]]] = {
    "cough": cough,
    "throat": throat,
    "sneeze": sneeze,
    "breath": breath,
    "knock": knock,
}

VOICED: Final = ("ha-ha-ha", "ahem", "hmm")
"""Made with the voice, so that a detector takes them for speech; no recogniser writes them."""

MANNERS: Final[tuple[Manner, ...]] = ("drawn", "filler", "drawn", "plain", "drawn", "filler")


def corpus(*, snrs: tuple[int | None, ...] = (None, *SNRS), every: int = 1) -> list[Clip]:
    """All clips, or those of some noise levels (None: quiet line); with `every` only each n-th scene.

    Raises:
        FileNotFoundError: flite or espeak-ng is not installed.
    """
    clips: list[Clip] = []
    for number, (scene, wave) in enumerate(list(_scenes())[::every]):
        for snr in snrs:
            if snr is None and scene.kind != "noise":
                quiet = _random(scene.name).normal(size=len(wave)) * LINE_NOISE
                clips.append(replace(scene, audio=carried(wave + quiet)))
            elif snr is not None:
                # Each scene meets each kind of noise, at another level every time.
                kind = scene.noise or NOISES[(number + SNRS.index(snr)) % len(NOISES)]
                name = f"{scene.name}, {kind} {snr} dB"
                behind = noise(kind, len(wave), LEVEL - snr, _random(name), _lines())
                clips.append(replace(scene, name=name, noise=kind, snr=snr, audio=carried(wave + behind)))
    return clips


def _scenes() -> Iterator[tuple[Clip, Signal]]:
    """Every scene without its background."""
    for n, text in enumerate(FINISHED):
        yield _talks("finished", _speaker(n), [say(_speaker(n), text)], text)
    for n, text in enumerate(PAUSED):
        yield _pauses(n, text, 0.7)
    for n in range(8):
        yield _pauses(n + 3, PAUSED[3 * n], 0.4)
        yield _pauses(n + 6, PAUSED[3 * n + 1], 1.2)
    for n, text in enumerate(INTERRUPTIONS):
        yield _talks(
            "interruption", _speaker(n), [say(_speaker(n), text)], text, at=1.5 + 0.1 * (n % 9), agent=AGENT_AT
        )
    for n, text in enumerate(DOUBLE):
        # The agent begins from 150 ms before the caller to 200 ms after him.
        yield _talks("double talk", _speaker(n), [say(_speaker(n), text)], text, agent=TURN_AT - 0.15 + 0.05 * n)
    for n in range(16):
        text, speaker = BACK_CHANNELS[(n + n // 8) % 8], _speaker(n)
        yield _talks("back-channel", speaker, [say(speaker, text)], text, at=1.7, agent=AGENT_AT)
    for n in range(20):
        name = list(SOUNDS)[n % len(SOUNDS)]
        agent = None if n >= 15 else AGENT_AT
        label = f"{name} {n // 5 + 1}, agent {'waits' if agent is None else 'speaks'}"
        random = _random(label)
        wave = at_level(SOUNDS[name](random), random.uniform(*SOUND_DBFS))
        yield _sounds("cough", label, wave, agent)
    for n in range(8):
        name, speaker = VOICED[n % len(VOICED)], _speaker(n)
        yield _sounds("cough", f"{name}, {speaker}", say(speaker, name).signal, AGENT_AT)
    for digits in ("5", "1234", "0987654321"):
        yield _sounds("keys", f"keys {digits}", 0.1 * keys(digits), AGENT_AT)
    for kind in NOISES:
        nothing = np.zeros(8 * RATE)
        yield Clip(f"nothing but {kind}", "noise", "", UNHEARD, agent_from=AGENT_AT, noise=kind), nothing


def _speaker(n: int) -> Speaker:
    return SPEAKERS[n % len(SPEAKERS)]


def _pauses(n: int, text: str, pause: float) -> tuple[Clip, Signal]:
    manner = MANNERS[n % len(MANNERS)]
    speaker = _speaker(n + n // len(SPEAKERS))  # so that a voice does not always pause in the same manner
    pieces = say_haltingly(speaker, text, manner, _random(text))
    label = text.replace(PAUSE, f"({pause * 1000:.0f} ms, {manner})")
    scene, wave = _talks("paused", speaker, list(pieces), label, pause=pause)
    return replace(scene, manner=manner), wave


def _talks(
    kind: Kind,
    speaker: Speaker,
    pieces: list[Said],
    text: str,
    *,
    at: float = TURN_AT,
    pause: float = 0.0,
    agent: float | None = None,
) -> tuple[Clip, Signal]:
    """Lay the pieces of what one caller says on a quiet clip."""
    words: list[Word] = []
    speech: list[Span] = []
    waves: list[Signal] = [np.zeros(round(at * RATE))]
    for piece in pieces:
        if speech:
            waves.append(np.zeros(round(pause * RATE)))
        start = sum(map(len, waves)) / RATE
        for word, begin, end in piece.words:
            written = word.strip(".,?!").lower()
            words.append(Word(written, round((start + begin) * 1000), round((start + end) * 1000)))
        waves.append(piece.signal)
        speech.append(Span(start, start + piece.seconds))
    wave = np.concatenate([*waves, np.zeros(round(TAIL_S * RATE))])
    name = f"{kind}, {speaker}: {text}"
    return Clip(name, kind, str(speaker), UNHEARD, tuple(words), tuple(speech), agent_from=agent), wave


def _sounds(kind: Kind, label: str, sound: Signal, agent: float | None) -> tuple[Clip, Signal]:
    at = 1.7
    wave = np.concatenate([np.zeros(round(at * RATE)), sound, np.zeros(round(TAIL_S * RATE))])
    span = Span(at, at + len(sound) / RATE)
    return Clip(label, kind, "", UNHEARD, sound=span, agent_from=agent), wave


@lru_cache(maxsize=1)
def _lines() -> list[Signal]:
    """What the people in the background say."""
    return [say(_speaker(n), text).signal for n, text in enumerate(FINISHED)]


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])
