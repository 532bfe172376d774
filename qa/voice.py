"""The caller's voice: sentences from a synthesiser that runs as a child process, or audio from WAV files.

All of it is given as a phone would pick it up: mono int16 at 8 kHz, levelled, no silence at either end, so that
the moment when a caller begins and stops to speak is known to the sample.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from offhook.codecs.audio import AudioFormat
from offhook.codecs.convert import convert_all, resample_all
from offhook.codecs.wav import parse_wav
from offhook.qa.activity import QUIET_DBFS, RATE, Samples, speech_spans
from offhook.qa.spoken import SOUNDS

PEAK: Final = 0.5
"""Loudest sample of a levelled voice, of full scale: about -20 dBFS for speech, the usual level on the network."""

FADE_S: Final = 0.005
"""Faded at both ends, so that trimming makes no click."""

SYNTHESIS_TIMEOUT_S: Final = 20.0
"""A sentence takes a tenth of a second; a child that needs this long hangs."""

ENGINES: Final = {
    "flite": ("rms", "slt", "awb", "kal"),
    "espeak-ng": ("en-us", "en-gb"),
}
"""Synthesisers in the order of choice, and voices of theirs; the first is the default."""


class VoiceUnavailable(Exception):
    """The caller has no voice; the text says what to install, or what is wrong with the file."""


class Voice:
    """One caller's voice. Sentences are cached by their text.

    Args:
        engine: `flite` or `espeak-ng`; empty: the first that is installed.
        name: a voice of that engine; empty: its default, a man's voice with flite.

    Raises:
        VoiceUnavailable: no such engine here.
    """

    def __init__(self, engine: str = "", name: str = "") -> None:
        if engine and engine not in ENGINES:
            raise VoiceUnavailable(f"there is no engine {engine!r}: choose one of {', '.join(ENGINES)}")
        wanted = [engine] if engine else list(ENGINES)
        found = next((candidate for candidate in wanted if shutil.which(candidate)), None)
        if found is None:
            raise VoiceUnavailable(f"the caller needs {' or '.join(wanted)} to speak: install with `apt install flite`")
        self.engine, self.name = found, name or ENGINES[found][0]
        self._said: dict[str, Samples] = {}

    async def speak(self, text: str) -> Samples:
        """Synthesise a sentence.

        Raises:
            VoiceUnavailable: the synthesiser failed.
        """
        if text not in self._said:
            self._said[text] = await asyncio.to_thread(self._synthesize, text)
        return self._said[text]

    def _synthesize(self, text: str) -> Samples:
        with tempfile.TemporaryDirectory(prefix="offhook-voice-") as directory:
            # By files, for flite writes its WAV header by seeking back, and a text may begin with a dash.
            text_file, wav_file = Path(directory, "text"), Path(directory, "voice.wav")
            # What is no word, such as mm-hm, would be spelt out: it is given by its sounds.
            flite_sounds, espeak_sounds = SOUNDS.get(text.strip(" .,!?").lower(), ("", text))
            text_file.write_text(espeak_sounds if self.engine == "espeak-ng" else text)
            given: list[str | Path] = ["-p", flite_sounds] if flite_sounds else ["-f", text_file]
            commands: dict[str, list[str | Path]] = {
                "flite": ["flite", "-voice", self.name, *given, "-o", wav_file],
                "espeak-ng": ["espeak-ng", "-v", self.name, "-s", "150", "-f", text_file, "-w", wav_file],
            }
            return self._run(commands[self.engine], wav_file)

    def _run(self, command: list[str | Path], wav_file: Path) -> Samples:
        try:
            subprocess.run(command, capture_output=True, timeout=SYNTHESIS_TIMEOUT_S, check=True)
            return _from_wav(wav_file.read_bytes(), f"output of {self.engine}")
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()[:200]
            raise VoiceUnavailable(f"{self.engine} failed with exit code {error.returncode}: {said}") from error
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise VoiceUnavailable(f"{self.engine} failed: {error}") from error


def read_voice(path: Path) -> Samples:
    """What somebody says in a WAV file; of several channels the first.

    Raises:
        VoiceUnavailable: it cannot be read, or holds no sound.
    """
    try:
        return _from_wav(path.read_bytes(), str(path))
    except (OSError, ValueError) as error:
        raise VoiceUnavailable(f"cannot read the caller's voice: {error}") from error


def _from_wav(file: bytes, name: str) -> Samples:
    encoding, rate, channels, data = parse_wav(file, name=name)
    if encoding != "l16":
        data = convert_all(data, AudioFormat(encoding, 8000), AudioFormat("l16", 8000))
    first = np.frombuffer(data, "<i2")[::channels]
    sound = np.frombuffer(resample_all(first.tobytes(), rate, RATE), "<i2")
    return _levelled(sound, name)


def _levelled(sound: Samples, name: str) -> Samples:
    peak = int(np.abs(sound.astype(np.int32)).max(initial=0))
    if not peak:
        raise VoiceUnavailable(f"{name} holds no sound")
    loud = np.rint(sound.astype(np.float64) * (PEAK * 32767 / peak)).astype(np.int16)
    spans = speech_spans(loud, above=QUIET_DBFS)
    if not spans:
        raise VoiceUnavailable(f"{name} holds nothing as long as a syllable")
    fade = int(FADE_S * RATE)
    start, end = round(spans[0].start * RATE), round(spans[-1].end * RATE)
    part = loud[max(0, start - fade) : end + fade].astype(np.float64)
    part[:fade] *= np.linspace(0, 1, fade)
    part[-fade:] *= np.linspace(1, 0, fade)
    return np.rint(part).astype(np.int16)
