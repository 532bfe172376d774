"""Services that keep a script in place of a wire, for tests of what stands between them and the conversation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from offhook.agents.services.base import (
    Audio,
    Delta,
    FaultKind,
    FunctionSchema,
    Heard,
    HearingLost,
    LanguageModel,
    Message,
    ServiceError,
    ServiceSettings,
    SpeechToText,
    Spoken,
    TextDelta,
    TextToSpeech,
    Transcription,
    Voice,
    Word,
)
from offhook.codecs.audio import PCMU, AudioFormat

Step = float | str | Exception | Word | bytes
"""Seconds to wait, text or audio to give, a fault to raise."""


def now() -> float:
    return asyncio.get_running_loop().time()


def fault(kind: FaultKind, **more: Any) -> ServiceError:
    return ServiceError("fake", kind, "as the script has it", **more)


class Reports(list[tuple[str, str, float, str]]):
    def __call__(self, role: str, name: str, ttfb: float, fault: str, detail: str) -> None:
        self.append((role, name, round(ttfb, 3), fault))

    @property
    def faults(self) -> list[tuple[str, str]]:
        return [(name, fault) for _, name, _, fault in self if fault]


def settings(name: str, **more: Any) -> ServiceSettings:
    return ServiceSettings(service=name, **more)


class Model(LanguageModel):
    def __init__(self, name: str, *scripts: Sequence[Step], **more: Any) -> None:
        super().__init__(settings(name, **more))
        self.scripts = list(scripts)
        self.asked: list[float] = []
        self.closed = 0

    async def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        self.asked.append(now())
        try:
            for step in self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield TextDelta(str(step))
        finally:
            self.closed += 1


class Tts(TextToSpeech):
    def __init__(self, name: str, *scripts: Sequence[Step], formats: tuple[AudioFormat, ...] = (PCMU,), **more: Any):
        super().__init__(settings(name, **more))
        self.formats = formats
        self.scripts = list(scripts)
        self.connect: list[Step] = []
        self.opened: list[AudioFormat] = []
        self.closing_time = 0.0
        self.said: list[tuple[str, str]] = []
        self.closed = 0

    async def open(self, format: AudioFormat) -> Voice:
        for step in self.connect:
            if isinstance(step, ServiceError):
                raise step
            await asyncio.sleep(float(step))
        self.opened.append(format)
        return TtsVoice(self)


class TtsVoice(Voice):
    def __init__(self, owner: Tts) -> None:
        self.owner = owner

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        self.owner.said.append((text, previous))
        scripts = self.owner.scripts
        for step in scripts.pop(0) if len(scripts) > 1 else scripts[0]:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, ServiceError):
                raise step
            else:
                yield step if isinstance(step, Word) else Audio(step)

    async def close(self) -> None:
        await asyncio.sleep(self.owner.closing_time)
        self.owner.closed += 1


class Stt(SpeechToText):
    formats = (PCMU,)

    def __init__(self, name: str, *, formats: tuple[AudioFormat, ...] = (PCMU,), **more: Any) -> None:
        super().__init__(settings(name, **more))
        self.formats = formats
        self.connect: list[Step] = []
        self.streams: list[Stream] = []
        self.on_open: Callable[[Stream], None] = lambda stream: None

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        for step in self.connect:
            if isinstance(step, ServiceError):
                raise step
            await asyncio.sleep(float(step))
        stream = Stream(self, format, hear)
        self.streams.append(stream)
        self.on_open(stream)
        return stream


class Stream(Transcription):
    def __init__(self, owner: Stt, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        self.owner, self.format, self.hear = owner, format, hear
        self.frames: list[bytes] = []
        self.times: list[float] = []
        self.finalized: list[int] = []
        self.closed = False

    def push(self, audio: bytes) -> None:
        self.frames.append(audio)
        self.times.append(now())

    def finalize(self) -> None:
        self.finalized.append(len(self.frames))

    async def close(self) -> None:
        self.closed = True

    def lose(self, kind: FaultKind = "unavailable") -> None:
        self.hear(HearingLost(ServiceError(self.owner.name, kind, "dropped")))


def frame(number: int) -> bytes:
    return bytes([number % 256]) * 160
