"""Hearing with no key and no network: sentences of a small grammar (`offhook.agents.speech.stt`)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offhook.agents.api import SettingsError
from offhook.agents.services import base
from offhook.agents.services.base import Heard, HearingLost, ServiceError, ServiceSettings, SpeechToText, Transcription
from offhook.agents.services.registry import plain
from offhook.agents.speech.grammar import Grammar, GrammarError
from offhook.agents.speech.stt import MAX_SECONDS, Recognizer, RecognizerFailed
from offhook.codecs.audio import L16_8K, PCMA, PCMU, AudioFormat
from offhook.codecs.convert import Converter
from offhook.codecs.vad import SpeechStarted, WebRtcVad

__all__ = ["GrammarSpeech"]

PREROLL: Final = 25
"""Windows kept from before speech was noticed, half a second: the detector is late, and the recogniser wants some
silence before the first word."""

APART: Final = 100
"""Windows of silence, two seconds, after which what was not understood is no longer part of the sentence."""


class _GrammarFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    phrases: list[str]
    rules: dict[str, dict[str, list[str]]] = Field(default_factory=dict)


class GrammarSpeech(SpeechToText):
    """Hears the sentences of a grammar and nothing else, within 60 ms of the pause, on the machine itself.

    For menus, digits and yes or no. Whatever the grammar has not is not understood; how phrases are written stands in
    `offhook.agents.speech.grammar`.
    """

    class Settings(ServiceSettings):
        """What may be said: `phrases` and the `rules` they use, or a `file` that has them."""

        phrases: list[str] = Field(default_factory=list)
        """What may be said: `[please]` may be left out, `(yes | no)` is a choice, `<digit>+` one or more of a rule."""
        rules: dict[str, dict[str, list[str]]] = Field(default_factory=dict)
        """Rule name → value → the phrases that mean it."""
        file: Path | None = None
        """YAML file with `phrases` and `rules`, in place of those here."""

    formats = (PCMU, PCMA, L16_8K)
    gives_partials = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        phrases, rules = settings.phrases, settings.rules
        if settings.file is not None:
            if phrases or rules:
                raise SettingsError("stt.file: phrases and rules are given too; leave them out, or the file")
            found = _read(settings.file)
            phrases, rules = found.phrases, found.rules
        if not phrases:
            raise SettingsError("stt.phrases: missing: list what may be said, such as [yes, no]")
        try:
            self.grammar = Grammar({"phrases": phrases}, rules)
        except GrammarError as error:
            raise SettingsError(f"stt.phrases: {error}") from error
        self.recognizer = Recognizer()

    async def warm(self) -> None:
        """Start the recogniser's process and teach it the grammar."""
        try:
            unknown = await asyncio.to_thread(self.recognizer.prepare, [self.grammar])
        except RecognizerFailed as error:
            raise ServiceError(self.name, "unavailable", str(error)) from error
        if unknown:
            raise SettingsError(
                f"stt.phrases: the recogniser's dictionary has no {', '.join(unknown)}; use other words"
            )

    async def close(self) -> None:
        await asyncio.to_thread(self.recognizer.close)

    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        return _GrammarTranscription(self, format, hear)


def _read(path: Path) -> _GrammarFile:
    try:
        return _GrammarFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"stt.file: {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"stt.file: {path} is no YAML: {error}") from error
    except ValidationError as error:
        first: Any = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SettingsError(
            f"stt.file: {path}: {place}: {plain(first['type'], first['msg'])}; it holds phrases and rules"
        ) from error


class _GrammarTranscription(Transcription):
    """Gathers the sentence and has it recognised at every pause.

    What is understood is done with. What is not may be the first half of a sentence, so it is kept and recognised
    together with the second, unless a long silence lies between them.
    """

    def __init__(self, service: GrammarSpeech, format: AudioFormat, hear: Callable[[Heard], None]) -> None:
        self._service, self._hear = service, hear
        self._converter = Converter(format, L16_8K)
        self._vad, self._gate = WebRtcVad(), WebRtcVad.gate()
        self._rest = b""
        self._before: deque[bytes] = deque(maxlen=PREROLL)
        self._sentence: deque[bytes] = deque(maxlen=MAX_SECONDS * 50)
        self._silent = 0
        "Windows since the caller spoke."
        self._tasks: set[asyncio.Task[None]] = set()

    def push(self, audio: bytes) -> None:
        pcm = self._rest + self._converter.convert(audio)
        whole = len(pcm) - len(pcm) % (2 * WebRtcVad.WINDOW)
        self._rest = pcm[whole:]
        for at in range(0, whole, 2 * WebRtcVad.WINDOW):
            self._take(pcm[at : at + 2 * WebRtcVad.WINDOW])

    def _take(self, window: bytes) -> None:
        changed = self._gate.push(self._vad.probability(window), 0.0)
        if isinstance(changed, SpeechStarted):
            if self._silent > APART:
                self._sentence.clear()
            self._sentence.extend(self._before)
            self._before.clear()
        self._silent = 0 if self._gate.speaking else self._silent + 1
        if self._gate.speaking:
            self._sentence.append(window)
        else:
            self._before.append(window)

    def finalize(self) -> None:
        task = asyncio.get_running_loop().create_task(self._recognize(), name="grammar-recognize")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _recognize(self) -> None:
        windows = len(self._sentence)
        if not windows:
            self._hear(base.Final("", answers_finalize=True))
            return
        service = self._service
        try:
            async with asyncio.timeout(service.limits.timeout):
                heard = await service.recognizer.recognize(service.grammar, b"".join(self._sentence))
        except RecognizerFailed as error:
            self._hear(HearingLost(ServiceError(service.name, "unavailable", str(error))))
        except TimeoutError:
            late = f"no text in {service.limits.timeout:g} s"
            self._hear(HearingLost(ServiceError(service.name, "timeout", late)))
        else:
            if heard.text:
                for _ in range(min(windows, len(self._sentence))):
                    self._sentence.popleft()
            self._hear(base.Final(heard.text, heard.score if heard.text else 1.0, answers_finalize=True))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
