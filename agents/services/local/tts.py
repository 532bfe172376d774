"""Voices with no key and no network: flite and espeak-ng, as child processes (`offhook.agents.speech.tts`)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from typing import ClassVar, Literal

from pydantic import Field

from offhook.agents.api import SettingsError
from offhook.agents.services.base import Audio, ServiceError, ServiceSettings, Spoken, TextToSpeech, Voice
from offhook.agents.speech.tts import SpeechUnavailable, synthesize
from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMA, PCMU, AudioFormat

__all__ = ["EspeakVoice", "FliteVoice"]


class _InstalledVoice(TextToSpeech):
    """A synthesiser of the machine's own. What was said is kept, so that greetings are synthesised once a host."""

    formats = (PCMU, PCMA, L16_8K, L16_16K, L16_24K)
    engine: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, settings: FliteVoice.Settings | EspeakVoice.Settings) -> None:
        super().__init__(settings)
        self.settings = settings
        if shutil.which(self.engine) is None:
            raise SettingsError(
                f"tts.service: {self.engine} is not installed: `apt-get install {self.package}`, or take another voice"
            )

    async def speech(self, text: str, format: AudioFormat) -> bytes:
        """Speak a text. Raises ServiceError."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await synthesize(text, format, engine=self.engine, voice=self.settings.voice)
        except SpeechUnavailable as error:
            raise ServiceError(self.name, "unavailable", str(error)) from error
        except ValueError as error:
            raise ServiceError(self.name, "rejected", str(error)) from error
        except TimeoutError as error:
            raise ServiceError(self.name, "timeout", f"no speech in {self.settings.timeout:g} s") from error

    async def open(self, format: AudioFormat) -> Voice:
        return _InstalledVoiceOfCall(self, format)


class _InstalledVoiceOfCall(Voice):
    def __init__(self, service: _InstalledVoice, format: AudioFormat) -> None:
        self._service, self._format = service, format

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        audio = await self._service.speech(text, self._format)
        if audio:
            yield Audio(audio)

    async def close(self) -> None:
        """Nothing is open."""


class FliteVoice(_InstalledVoice):
    """English by flite: small and quick, some 20 ms a sentence."""

    class Settings(ServiceSettings):
        """How flite speaks."""

        voice: Literal["slt", "rms", "awb", "kal", "kal16"] = "slt"
        """One of the voices flite brings; slt is the clearest on a telephone."""

    engine = "flite"
    package = "flite"


class EspeakVoice(_InstalledVoice):
    """A hundred languages by espeak-ng; it sounds like a machine."""

    class Settings(ServiceSettings):
        """How espeak-ng speaks."""

        voice: str = Field(default="en-us", pattern=r"^[A-Za-z0-9][A-Za-z0-9+_./-]*$")
        """A language or voice of `espeak-ng --voices`, such as `hi` or `de+f3`."""

    engine = "espeak-ng"
    package = "espeak-ng"
