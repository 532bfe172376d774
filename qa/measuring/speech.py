"""The agent's words: each of its turns as text, and whether an expected phrase was said in it.

    async with Recogniser() as recogniser:
        transcript = await transcribe(turns, scenario.stt, expected, recogniser=recogniser)
    transcript.heard(expect.heard, start, end)

By default the offline recogniser hears, in a process of its own at low priority (`recogniser.py`); with
`stt: {service: deepgram, …}` a service does. Either is asked after the call, never while it runs.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec
import numpy as np

from offhook.agents.api import SettingsError
from offhook.agents.services import base
from offhook.agents.services.base import HearingLost, ServiceError, SpeechToText
from offhook.agents.services.registry import make_service
from offhook.agents.speech.stt_worker import FRAME
from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.convert import convert_all
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.measuring.words import matches, phrases
from offhook.qa.scenario.model import Heard

MAX_SECONDS: Final = 1800.0
"""Speech of one call that is understood; half an hour of it takes the offline recogniser some twelve minutes."""

START_S: Final = 30.0
"""Within which a recogniser's process answers about no audio at all; it takes one second on an idle machine."""

PACE: Final = 5.0
"""Seconds that a second of audio may take; it takes 0.4 on an idle machine."""

FASTER: Final = 4.0
"""Times real time at which services get audio: none takes that for a flood."""

PUSH_S: Final = 0.020
LEAD_MS: Final = 300
"""Silence before and after each turn, for a service to find the speech."""

AT_ONCE: Final = 4
"""Streams to a service."""

ANSWER_S: Final = 15.0
"""How long a service may take for the text after the last of the audio."""


class SpeechFailed(Exception):
    """A recogniser was not there, or failed: nothing is said about the agent. The text says what to do."""


@dataclass(frozen=True, slots=True)
class TurnText:
    """One turn of the agent."""

    span: Span
    text: str
    "As the recogniser wrote it; the offline one: lower case, no punctuation, numbers as words."
    sounded: frozenset[str] = frozenset()
    "Expected phrases that its sound has, even where the text does not."


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the agent said in a call."""

    turns: tuple[TurnText, ...]
    recogniser: str
    "`offline`, or the name of the service."
    unknown: tuple[str, ...] = ()
    "Words of expected phrases that are not in the offline recogniser's dictionary: they can hardly be found."

    @property
    def text(self) -> str:
        """All of it."""
        return self.said()

    def said(self, start: float = -math.inf, end: float = math.inf) -> str:
        """The text of the turns that have something between two track seconds."""
        return " ".join(turn.text for turn in self._between(start, end) if turn.text)

    def heard(self, expected: Heard, start: float = -math.inf, end: float = math.inf) -> bool:
        """Whether what is expected was said in the turns that have something between two track seconds.

        A phrase may begin in one turn and end in the next, for a pause may have parted them.

        Raises:
            re.error: its regular expression is none.
        """
        turns = self._between(start, end)
        return matches(expected, self.said(start, end), frozenset().union(*(turn.sounded for turn in turns)))

    def _between(self, start: float, end: float) -> list[TurnText]:
        return [turn for turn in self.turns if turn.span.start < end and turn.span.end > start]


class Recogniser:
    """The offline recogniser: `processes` of them, started when first needed. For all calls of a run.

    A process takes 170 MB and a second to start.
    """

    def __init__(self, processes: int = 1) -> None:
        self._free = asyncio.Semaphore(processes)
        self._idle: list[asyncio.subprocess.Process] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def hear(self, turn: Samples, wanted: Sequence[str] = ()) -> tuple[str, list[str], list[str]]:
        """Understand one turn.

        Returns:
            The text, which of the wanted phrases its sound has, and which words of them nobody can look for.

        Raises:
            SpeechFailed: the process does not start, dies or takes too long.
        """
        async with self._free:
            if self._closed:
                raise SpeechFailed("the recogniser was closed")
            child = self._idle.pop() if self._idle else await _start()
            done = False
            try:
                limit = START_S + PACE * len(turn) / RATE
                async with asyncio.timeout(limit):
                    answer = await _ask(child, turn, wanted)
            except TimeoutError as error:
                raise SpeechFailed(
                    f"the offline recogniser took more than {limit:.0f} s for {len(turn) / RATE:.0f} s of speech: "
                    "is the machine overloaded?"
                ) from error
            except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError) as error:
                raise SpeechFailed(f"the offline recogniser's process ended: {error}") from error
            else:
                done = True
            finally:
                if done and not self._closed:
                    self._idle.append(child)
                else:
                    await _end(child)
        return answer["text"], answer["found"], answer["unknown"]

    async def close(self) -> None:
        """End the processes."""
        self._closed = True
        while self._idle:
            await _end(self._idle.pop())


async def transcribe(
    turns: Sequence[tuple[Span, Samples]],
    settings: Mapping[str, Any],
    expected: Sequence[Heard],
    *,
    recogniser: Recogniser | None = None,
) -> Transcript:
    """Understand the agent's turns.

    Args:
        turns: where each lies on the track, and its samples at 8 kHz.
        settings: `stt` of the scenario; empty: the offline recogniser.
        expected: everything that any assertion of the scenario asks for, `not_heard` and `never_hear` included.
        recogniser: the offline one, kept from call to call; without it one is started for this call.

    Raises:
        SpeechFailed: the recogniser is not there, its settings are wrong, or it failed.
    """
    seconds = sum(len(samples) for _, samples in turns) / RATE
    if seconds > MAX_SECONDS:
        raise SpeechFailed(f"the agent spoke for {seconds:.0f} s, and {MAX_SECONDS:.0f} s are understood at most")
    wanted = list(dict.fromkeys(phrase for one in expected for phrase in phrases(one)))
    if settings:
        return await _by_service(turns, settings)
    if recogniser is None:
        async with Recogniser() as own:
            return await _offline(turns, wanted, own)
    return await _offline(turns, wanted, recogniser)


async def _offline(turns: Sequence[tuple[Span, Samples]], wanted: Sequence[str], recogniser: Recogniser) -> Transcript:
    heard = [(span, await recogniser.hear(samples, wanted)) for span, samples in turns]
    unknown = dict.fromkeys(word for _, (_, _, words) in heard for word in words)
    texts = tuple(TurnText(span, text, frozenset(found)) for span, (text, found, _) in heard)
    return Transcript(texts, "offline", tuple(unknown))


# --- the offline recogniser's process ----------------------------------------------------


async def _start() -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "offhook.qa.measuring.recogniser"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise SpeechFailed(f"the offline recogniser does not start: {error}") from error


async def _ask(child: asyncio.subprocess.Process, turn: Samples, wanted: Sequence[str]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    head, audio = msgspec.json.encode({"phrases": wanted}), np.asarray(turn, "<i2").tobytes()
    child.stdin.write(FRAME.pack(len(head), len(audio)) + head + audio)
    await child.stdin.drain()
    length, _ = FRAME.unpack(await child.stdout.readexactly(FRAME.size))
    answer: dict[str, Any] = msgspec.json.decode(await child.stdout.readexactly(length))
    return answer


async def _end(child: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        child.kill()
    # What it still wrote is read to its end, or the pipe stays open.
    await child.communicate()


# --- services ----------------------------------------------------------------------------


async def _by_service(turns: Sequence[tuple[Span, Samples]], settings: Mapping[str, Any]) -> Transcript:
    try:
        service = make_service("stt", dict(settings))
    except SettingsError as error:
        raise SpeechFailed(str(error)) from error
    assert isinstance(service, SpeechToText)
    free = asyncio.Semaphore(AT_ONCE)

    async def one(samples: Samples) -> str | ServiceError:
        async with free:
            try:
                return await _listen(service, samples)
            except ServiceError as error:
                return error

    try:
        await service.warm()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(samples), name="qa-speech") for _, samples in turns]
    except (ServiceError, SettingsError) as error:
        raise SpeechFailed(str(error)) from error
    finally:
        await service.close()
    texts = []
    for (span, _), task in zip(turns, tasks, strict=True):
        text = task.result()
        if isinstance(text, ServiceError):
            raise SpeechFailed(str(text)) from text
        texts.append(TurnText(span, text))
    return Transcript(tuple(texts), service.name)


async def _listen(service: SpeechToText, samples: Samples) -> str:
    """One turn through a stream of its own. Raises ServiceError."""
    format = PCMU if PCMU in service.formats else service.formats[0]
    silence = np.zeros(LEAD_MS * RATE // 1000, np.int16)
    audio = convert_all(np.concatenate([silence, samples, silence]).tobytes(), L16_8K, format)
    words = _Words(service.name)
    try:
        async with asyncio.timeout(format.duration(len(audio)) / FASTER + service.limits.timeout + ANSWER_S):
            stream = await service.open(format, words.take)
            try:
                for at in range(0, len(audio), format.size(PUSH_S)):
                    stream.push(audio[at : at + format.size(PUSH_S)])
                    await asyncio.sleep(PUSH_S / FASTER)
                stream.finalize()
                # The line stays open as in a call: some services answer only while audio goes on.
                while not words.all.done():
                    stream.push(format.hush(PUSH_S))
                    await asyncio.wait([words.all], timeout=PUSH_S)
                return words.all.result()
            finally:
                await stream.close()
    except TimeoutError as error:
        raise ServiceError(service.name, "timeout", f"no text in {ANSWER_S:g} s after the audio") from error


class _Words:
    """What a stream gives, until it has answered `finalize`."""

    def __init__(self, service: str) -> None:
        self.all: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._service = service
        self._ended: list[str] = []
        self._fresh: list[str] = []

    def take(self, heard: base.Heard) -> None:
        if self.all.done():
            return
        match heard:
            case base.Final(text=text, answers_finalize=last):
                self._fresh.append(text)
                if last:
                    self.all.set_result(" ".join(part for part in (*self._ended, *self._fresh) if part))
            case base.EndOfTurn(text=text):
                # A service that ends turns takes a pause of the agent for one; it repeats the turn or has said it.
                self._ended += [text] if text else self._fresh
                self._fresh = []
            case HearingLost(error=error):
                self.all.set_exception(error)
