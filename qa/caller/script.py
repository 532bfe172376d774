"""What the caller of a scenario says, made before the call: sentences, WAV files and sounds, at their level.

Every sound begins and ends with its first and last audible sample, so that where it lies in the track says to the
sample when the caller began and stopped to speak. Sentences are synthesised once: they are kept on disk by what was
said and with which voice.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import wave
from pathlib import Path
from typing import Final

import numpy as np

from offhook.codecs.wav import wav_file
from offhook.qa import sounds
from offhook.qa.activity import RATE, Samples
from offhook.qa.match import AUDIBLE
from offhook.qa.scenario.model import MAX_TEXT, Background, CallerSettings, Scenario, Speech, Step
from offhook.qa.voice import Voice, VoiceUnavailable, read_voice

DEFAULT_CACHE: Final = Path("~/.cache/offhook/voice")
"""Where sentences are kept. A sentence takes some 40 KiB; the folder may be emptied at any time."""

CACHE_FORMAT: Final = 1
"""Part of the key of a kept sentence: raise it when the way from synthesiser to samples changes."""

MAX_WAV: Final = 64 * 1024 * 1024
"""Bytes of a WAV file: an hour at 8 kHz."""

BED_S: Final = 20.0
"""Length of made noise, before it is repeated: long enough that nobody notices."""

SEAM: Final = RATE // 50
"""Samples over which the end of a background fades into its beginning."""

FRAME: Final = RATE // 50

BABBLE: Final = (
    "So I told her that we could not come before the end of the week.",
    "There is another table by the window, if you would rather sit there.",
    "Did you see the game last night? It went on until half past eleven.",
    "The train was late again, and nobody could say why.",
)
"""What the people behind the caller talk about."""


class ScriptError(VoiceUnavailable):
    """Something that the scenario names cannot be said. The text names the file and the remedy.

    Args:
        path: of the field in the scenario: `("steps", 2, "say", "wav")`.
        problem: what is wrong with it.
    """

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


def sound_key(speech: Speech, settings: CallerSettings) -> str:
    """Name of a sound in `Script.sounds`, such as `say Hello. @-22`."""
    gain = settings.gain if speech.gain is None else speech.gain
    what = f"say {speech.text}" if speech.text else f"wav {speech.wav}" if speech.wav else f"sound {speech.sound}"
    return f"{what} @{gain:g}"


def speech_of(step: Step) -> tuple[str, Speech] | None:
    """The verb and the speech of a step that has some."""
    for verb in ("say", "barge_in", "backchannel"):
        speech: Speech | None = getattr(step, verb)
        if speech is not None:
            return verb, speech
    return None


class Script:
    """The sounds of one scenario's caller. May be pickled once made.

    Args:
        settings: voice and level.
        folder: where WAV files are looked for.
        cache: folder in which sentences are kept; None: the default.
        seed: of sounds and noise that are made.
    """

    def __init__(self, settings: CallerSettings, folder: Path, *, cache: Path | None = None, seed: int = 1) -> None:
        self.settings = settings
        self.folder = folder
        self.seed = seed
        self.sounds: dict[str, Samples] = {}
        "By `sound_key`: int16 at 8 kHz, from the first audible sample to the last."
        self.beds: dict[str, Samples] = {}
        "Backgrounds by `bed_key`: whole frames, to be repeated without a seam."
        self.voice = ""
        "What sentences were spoken with, such as `flite rms`; empty: nothing was."
        self._cache = (cache or DEFAULT_CACHE).expanduser()
        self._speaker: Voice | None = None

    async def add(self, step: Step, *, path: tuple[str | int, ...] = ()) -> None:
        """Make what a step needs.

        Raises:
            ScriptError: a WAV file is not there, or no WAV file; or the text is too long.
            VoiceUnavailable: there is no synthesiser, or it failed.
        """
        found = speech_of(step)
        if found is not None:
            verb, speech = found
            await self.add_speech(speech, path=(*path, verb))
        if isinstance(step.noise, Background):
            await self.add_bed(step.noise, path=(*path, "noise"))

    async def add_speech(self, speech: Speech, *, path: tuple[str | int, ...] = ()) -> Samples:
        """Make one sound, and give it. Raises as `add`."""
        key = sound_key(speech, self.settings)
        if key not in self.sounds:
            gain = self.settings.gain if speech.gain is None else speech.gain
            self.sounds[key] = _audible(_levelled(await self._raw(speech, path), gain), path)
        return self.sounds[key]

    async def add_bed(self, noise: Background, *, path: tuple[str | int, ...] = ()) -> Samples:
        """Make one background, and give it. Raises as `add`."""
        key = bed_key(noise)
        if key not in self.beds:
            raw = await self._background(noise, path)
            self.beds[key] = _repeatable(_levelled(raw, self.settings.gain - noise.snr))
        return self.beds[key]

    async def speak(self, text: str, *, path: tuple[str | int, ...] = ()) -> Samples:
        """Synthesise a sentence or take it from the cache; its level is the synthesiser's. Raises as `add`."""
        if len(text) > MAX_TEXT:
            raise ScriptError(path, f"{len(text)} letters are too many to say at once: split it after {MAX_TEXT}")
        if self._speaker is None:
            self._speaker = Voice(self.settings.voice.engine, self.settings.voice.name)
            self.voice = f"{self._speaker.engine} {self._speaker.name}"
        kept = self._kept(text)
        said = await asyncio.to_thread(_read_kept, kept)
        if said is None:
            said = await self._speaker.speak(text)
            await asyncio.to_thread(_keep, kept, said)
        return said

    def _kept(self, text: str) -> Path:
        name = hashlib.sha256("\0".join((str(CACHE_FORMAT), self.voice, text)).encode()).hexdigest()
        return self._cache / f"{name[:40]}.wav"

    async def _raw(self, speech: Speech, path: tuple[str | int, ...]) -> sounds.Signal:
        if speech.text:
            return np.asarray((await self.speak(speech.text, path=(*path, "text"))) / 32768)
        if speech.wav:
            return await asyncio.to_thread(self._read, speech.wav, (*path, "wav"))
        made = {"cough": sounds.cough, "knock": sounds.knock, "hum": sounds.hum}[speech.sound]
        return made(np.random.default_rng(self.seed))

    async def _background(self, noise: Background, path: tuple[str | int, ...]) -> sounds.Signal:
        if noise.file:
            return await asyncio.to_thread(self._read, noise.file, (*path, "file"))
        lines = [(await self.speak(line)) / 32768 for line in BABBLE] if noise.kind == "babble" else []
        random = np.random.default_rng(self.seed)
        size = int(BED_S * RATE) + SEAM
        made: sounds.Noise = noise.kind or "white"
        return await asyncio.to_thread(sounds.noise, made, size, self.settings.gain, random, lines)

    def _read(self, name: str, path: tuple[str | int, ...]) -> sounds.Signal:
        file = self.folder / name
        try:
            size = file.stat().st_size
            if size > MAX_WAV:
                raise ScriptError(path, f"{file} has {size} bytes, and {MAX_WAV} are allowed: cut it")
            return np.asarray(read_voice(file) / 32768)
        except OSError as error:
            raise ScriptError(path, f"cannot read {file}: {error.strerror}; paths go from the scenario's") from error
        except VoiceUnavailable as error:
            raise ScriptError(path, str(error)) from error


def bed_key(noise: Background) -> str:
    """Name of a background in `Script.beds`."""
    return f"{noise.file or noise.kind} {noise.snr:g}"


async def prepare(scenario: Scenario, folder: Path, *, cache: Path | None = None, seed: int = 1) -> Script:
    """Make everything that the caller of a scenario says.

    Args:
        scenario: whose caller.
        folder: where its WAV files are looked for, as a rule that of its file.
        cache: folder in which synthesised sentences are kept; None: `DEFAULT_CACHE`.
        seed: of made sounds and noise.

    Raises:
        ScriptError: a WAV file is not there, or no WAV file; `path` says which field named it.
        VoiceUnavailable: there is no synthesiser, or it failed.
    """
    script = Script(scenario.caller, folder, cache=cache, seed=seed)
    if scenario.caller.noise is not None:
        await script.add_bed(scenario.caller.noise, path=("caller", "noise"))
    for index, step in enumerate(scenario.steps):
        await script.add(step, path=("steps", index))
    return script


def _levelled(signal: sounds.Signal, level: float) -> Samples:
    """int16 of a signal whose louder half has that level; what is shorter than two frames is padded for it."""
    short = 2 * FRAME - len(signal)
    if short > 0:
        signal = np.concatenate([signal, np.zeros(short)])
    return np.rint(np.clip(sounds.at_level(signal, level), -1, 32767 / 32768) * 32768).astype(np.int16)


def _audible(sound: Samples, path: tuple[str | int, ...]) -> Samples:
    loud = np.flatnonzero(np.abs(sound.astype(np.int32)) > AUDIBLE)
    if not len(loud):
        raise ScriptError(path, "it cannot be heard at this level: raise `gain`")
    return np.array(sound[loud[0] : loud[-1] + 1])


def _repeatable(bed: Samples) -> Samples:
    """Whole frames, the end faded into the beginning."""
    if len(bed) < 2 * SEAM + FRAME:
        bed = np.tile(bed, 1 + (2 * SEAM + FRAME) // len(bed))
    size = (len(bed) - SEAM) // FRAME * FRAME
    loop = bed[:size].astype(np.float64)
    rise = np.linspace(0, 1, SEAM)
    # Of equal power, for the two pieces of noise have nothing in common.
    loop[:SEAM] = np.sqrt(rise) * loop[:SEAM] + np.sqrt(1 - rise) * bed[size : size + SEAM]
    return np.clip(np.rint(loop), -32768, 32767).astype(np.int16)


def _read_kept(file: Path) -> Samples | None:
    """A kept sentence; None when it is not there, or was damaged."""
    try:
        with wave.open(str(file), "rb") as kept:
            if (kept.getframerate(), kept.getnchannels(), kept.getsampwidth()) != (RATE, 1, 2):
                return None
            data = kept.readframes(kept.getnframes())
    except (OSError, EOFError, wave.Error):
        return None
    return np.frombuffer(data, "<i2") if data and len(data) == 2 * kept.getnframes() else None


def _keep(file: Path, said: Samples) -> None:
    """Write a sentence under another name first: no reader ever sees half of one. A folder that cannot be written to
    costs time only."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, unborn = tempfile.mkstemp(prefix=".new-", suffix=".wav", dir=file.parent)
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(wav_file(said.astype("<i2").tobytes(), RATE))
        Path(unborn).replace(file)
    except OSError:
        Path(unborn).unlink(missing_ok=True)
