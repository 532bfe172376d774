"""Speech from text, with no key and no network: flite, else espeak-ng, as child processes.

A sentence takes some 20 ms to synthesise. What was said is kept, so a sentence that every caller hears is
synthesised once; calls that ask for the same one at the same time wait for one child together.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from offhook.codecs.audio import L16_8K, AudioFormat
from offhook.codecs.convert import convert_all, resample_all
from offhook.codecs.wav import WavError, parse_wav

ENGINES: Final = {"flite": "slt", "espeak-ng": "en-us"}
"""Synthesisers in the order of choice, each with the voice that is understood best on a telephone."""

MAX_TEXT: Final = 2_000
"""Characters of one text: two minutes of speech. More is no telephone sentence."""

MAX_CACHED: Final = 512
"""Texts kept; a short sentence at 8 kHz takes some 40 kB."""

TIMEOUT: Final = 10.0
"""Seconds after which a synthesiser hangs."""

QUIET: Final = 300
"""Samples below this, of 32768, are silence: 40 dB under a voice."""

LEAD: Final = 0.01
"""Seconds kept before the first sound, so that it does not begin with a click."""

REMEDY: Final = "install flite (`apt-get install flite`, `brew install flite`) or espeak-ng"

_Manner = tuple[AudioFormat, str, str]
"""Format, engine and voice; empty names are the default's."""

_cache: OrderedDict[tuple[str, _Manner], bytes] = OrderedDict()
_running: dict[tuple[asyncio.AbstractEventLoop, str, _Manner], asyncio.Task[bytes]] = {}


class SpeechUnavailable(Exception):
    """Nothing here can speak, or what can failed; the text says what to do."""


def engine() -> str:
    """The synthesiser that is used. Raises SpeechUnavailable when none is installed."""
    for name in ENGINES:
        if shutil.which(name):
            return name
    raise SpeechUnavailable(f"no synthesiser is installed; {REMEDY}")


async def synthesize(text: str, format: AudioFormat = L16_8K, *, engine: str = "", voice: str = "") -> bytes:
    """Speak a text.

    Args:
        text: plain text, at most MAX_TEXT characters.
        format: of the audio that is wanted.
        engine: one of ENGINES; empty: the first that is installed.
        voice: one that the engine has; empty: its voice in ENGINES.

    Returns:
        The audio, beginning with the voice.

    Raises:
        SpeechUnavailable: no synthesiser is installed, or it failed.
        ValueError: the text is too long.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"text of {len(text)} characters; at most {MAX_TEXT} can be spoken at once")
    if not text.strip():
        return b""
    manner = format, engine, voice
    if (kept := _cache.get((text, manner))) is not None:
        with suppress(KeyError):  # a thread may drop it just now
            _cache.move_to_end((text, manner))
        return kept
    loop = asyncio.get_running_loop()
    key = (loop, text, manner)
    task = _running.get(key)
    if task is None:
        task = loop.create_task(asyncio.to_thread(_synthesize, text, manner), name="synthesize")
        _running[key] = task
        task.add_done_callback(lambda _: _running.pop(key, None))
    return await asyncio.shield(task)


def prerender(texts: Iterable[str], format: AudioFormat = L16_8K) -> None:
    """Synthesise sentences that will be wanted. Blocks, some 50 ms a sentence. Raises SpeechUnavailable."""
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda text: _synthesize(text, (format, "", "")), texts):
            pass


def _synthesize(text: str, manner: _Manner) -> bytes:
    format, name, voice = manner
    audio = speak(text, name or engine(), format, voice)
    _cache[text, manner] = audio
    while len(_cache) > MAX_CACHED:
        _cache.popitem(last=False)
    return audio


def _trimmed(pcm: bytes, rate: int) -> bytes:
    """Cut the silence that voices begin with, up to 0.3 s of it: the caller waits through it at every reply."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)) > QUIET)
    start = max(0, int(loud[0]) - int(LEAD * rate)) if len(loud) else 0
    return pcm[2 * start :]


def speak(text: str, engine: str, format: AudioFormat, voice: str = "") -> bytes:
    """Run one synthesiser, uncached. Blocks. Raises SpeechUnavailable."""
    with tempfile.TemporaryDirectory(prefix="offhook-tts-") as folder:
        # By files: flite seeks back to write its header, and a text may begin with a dash.
        text_file, wav_file = Path(folder, "text"), Path(folder, "speech.wav")
        text_file.write_text(text, encoding="utf-8", errors="replace")
        voice = voice or ENGINES[engine]
        command = {
            "flite": ["flite", "-voice", voice, "-f", str(text_file), "-o", str(wav_file)],
            "espeak-ng": ["espeak-ng", "-v", voice, "-f", str(text_file), "-w", str(wav_file)],
        }[engine]
        try:
            subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT)
            encoding, rate, channels, pcm = parse_wav(wav_file.read_bytes(), name=engine)
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()[:200]
            raise SpeechUnavailable(f"{engine} failed with {error.returncode}: {said or 'no message'}") from error
        except subprocess.TimeoutExpired as error:
            raise SpeechUnavailable(f"{engine} did not finish within {TIMEOUT:g} s") from error
        except (OSError, WavError) as error:
            raise SpeechUnavailable(f"{engine} gave no speech: {error}; {REMEDY}") from error
    if (encoding, channels) != ("l16", 1):
        raise SpeechUnavailable(f"{engine} gave {channels} channels of {encoding}, not one of l16")
    # What begins a word may lie above the band that is wanted: cut by what is left of it.
    pcm = _trimmed(resample_all(pcm, rate, format.rate), format.rate)
    return convert_all(pcm, AudioFormat("l16", format.rate), format)
