"""Piper: a neural voice that runs on the machine itself, from a voice file that you supply.

https://github.com/OHF-Voice/piper1-gpl. Voices (an .onnx file and its .onnx.json) have licences of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pydantic import Field

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Audio, ServiceError, ServiceSettings, Spoken, TextToSpeech, Voice
from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import convert_all, resample_all

# Before the import: the library may otherwise report its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime
import piper
from onnxruntime.capi import onnxruntime_pybind11_state as ort

__all__ = ["PiperVoice"]

MAX_TEXT: Final = 2_000
"""Characters of one text: two minutes of speech, some 20 s of computing."""

OrtErrors: Final = (
    ort.EPFail,
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NoModel,
    ort.NoSuchFile,
    ort.NotImplemented,
    ort.RuntimeException,
)
"""They have no base in common."""


class PiperVoice(TextToSpeech):
    """A voice of Piper's, loaded once a host.

    It speaks one sentence at a time, whichever call it is for: a medium voice computes a second of speech in some
    0.1 s on one core, so a few calls can share it.
    """

    class Settings(ServiceSettings):
        """The voice file, and how it speaks."""

        file: Path
        """The voice, such as en_GB-alba-medium.onnx."""
        config: Path | None = None
        """Its description; by default the file of the same name with .json behind it."""
        speaker: int | str | None = None
        """Number or name, for voices with several speakers."""
        speed: float = Field(default=1.0, ge=0.5, le=2.0)
        """Times the voice's own pace."""
        threads: int = Field(default=1, ge=1, le=16)
        """Cores it may take for itself."""

    formats = (PCMU, PCMA, L16_8K, L16_16K, L16_24K)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        self._config = settings.config or Path(f"{settings.file}.json")
        for name, path in (("file", settings.file), ("config", self._config)):
            if not path.is_file():
                raise SettingsError(
                    f"tts.{name}: {path} is no file; a Piper voice is two files, an .onnx and its .onnx.json"
                )
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="piper")
        self._loading: asyncio.Future[tuple[piper.PiperVoice, piper.SynthesisConfig]] | None = None

    async def warm(self) -> None:
        """Load the voice."""
        await self.load()

    async def load(self) -> tuple[piper.PiperVoice, piper.SynthesisConfig]:
        """The voice and how it is to speak. Raises SettingsError."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.get_running_loop().run_in_executor(self.thread, self._load)
        return await asyncio.shield(self._loading)

    def _load(self) -> tuple[piper.PiperVoice, piper.SynthesisConfig]:
        settings = self.settings
        try:
            config = piper.PiperConfig.from_dict(json.loads(self._config.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingsError(f"tts.config: {self._config} describes no Piper voice: {error!r}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the media path wants the cores
        try:
            session = onnxruntime.InferenceSession(str(settings.file), options, providers=["CPUExecutionProvider"])
        except OrtErrors as error:
            raise SettingsError(f"tts.file: {settings.file} is no Piper voice: {error}") from error
        how = piper.SynthesisConfig(speaker_id=self._speaker(config), length_scale=config.length_scale / settings.speed)
        return piper.PiperVoice(session=session, config=config), how

    def _speaker(self, config: piper.PiperConfig) -> int | None:
        speaker = self.settings.speaker
        if speaker is None:
            return None
        number = config.speaker_id_map.get(speaker) if isinstance(speaker, str) else speaker
        if number is None or not 0 <= number < config.num_speakers:
            known = ", ".join(config.speaker_id_map) or f"0 to {config.num_speakers - 1}"
            raise SettingsError(f"tts.speaker: the voice has no {speaker!r}; there are {known}")
        return number

    async def close(self) -> None:
        self._loading = None
        await asyncio.to_thread(self.thread.shutdown)

    async def open(self, format: AudioFormat) -> Voice:
        voice, how = await self.load()
        return _PiperVoice(self, voice, how, format)


class _PiperVoice(Voice):
    def __init__(
        self, service: PiperVoice, voice: piper.PiperVoice, how: piper.SynthesisConfig, format: AudioFormat
    ) -> None:
        self._service, self._voice, self._how, self._format = service, voice, how, format

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        name, limits = self._service.name, self._service.limits
        if len(text) > MAX_TEXT:
            raise ServiceError(name, "rejected", f"text of {len(text)} characters; at most {MAX_TEXT}")
        loop, limit = asyncio.get_running_loop(), limits.timeout
        chunks = self._speak(text)
        while True:
            try:
                async with asyncio.timeout(limit):
                    data = await loop.run_in_executor(self._service.thread, next, chunks, None)
            except TimeoutError as error:
                raise ServiceError(name, "timeout", f"no speech for {limit:g} s; the machine is busy") from error
            except OrtErrors as error:
                raise ServiceError(name, "bad_reply", f"the voice failed: {error}") from error
            if data is None:
                return
            limit = limits.stall
            yield Audio(data)

    def _speak(self, text: str) -> Iterator[bytes]:
        """On the thread, a sentence at a time."""
        rate = self._format.rate
        for chunk in self._voice.synthesize(text, self._how):
            pcm = chunk.audio_int16_bytes
            if chunk.sample_rate != rate:
                pcm = resample_all(pcm, chunk.sample_rate, rate)
            yield convert_all(pcm, AudioFormat("l16", rate), self._format)

    async def close(self) -> None:
        """Nothing of the call is open."""
