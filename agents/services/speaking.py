"""A voice over a WebSocket that stays open from one sentence to the next, whoever the vendor is.

`open` connects while the phone rings. A task reads what comes and sorts it into the sentence that is being spoken;
what belongs to none, because the caller interrupted it, is dropped. When the connection breaks between two sentences,
it is opened again at once, so that it is warm for the next; in the middle of one, that sentence fails.

A vendor's part is a `Line`, which says and cancels a sentence in its language, and reads what comes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final
from uuid import uuid4

import structlog
from websockets.exceptions import ConnectionClosed

from offhook.agents.services.base import Audio, ServiceError, ServiceSettings, Spoken, Voice, Word
from offhook.agents.services.websocket import closing_fault
from offhook.codecs.audio import AudioFormat
from offhook.codecs.pcm import WholeSamples

MAX_SENTENCE: Final = 120.0
"""Seconds of audio in one sentence. Nobody says that much in one go: a service that sends more has lost its way."""

SHORTEST_LIFE: Final = 5.0
"""Seconds. A connection that breaks sooner is not opened again before there is something to say."""

CANCEL_TIME: Final = 0.5
"""Seconds that telling the service to stop may take, before the connection is given up."""

log = structlog.get_logger("offhook.agents.services")


class Sentence:
    """One sentence on its way: what has come of it and was not taken yet."""

    def __init__(self, service: str, format: AudioFormat) -> None:
        self.id: Final = uuid4().hex
        "Names it to the service, where that can speak of several."
        self.came = 0.0
        "Seconds of audio so far."
        self._service, self._format = service, format
        self._queue: asyncio.Queue[Spoken | ServiceError | None] = asyncio.Queue()
        self._whole = WholeSamples() if format.encoding == "l16" else None

    def audio(self, data: bytes) -> None:
        """Take the next piece, cut anywhere."""
        if self._whole is not None:
            data = self._whole.push(data)
        if not data:
            return
        self.came += self._format.duration(len(data))
        if self.came > MAX_SENTENCE:
            self.fail(ServiceError(self._service, "bad_reply", f"more than {MAX_SENTENCE:g} s for one sentence"))
        else:
            self._queue.put_nowait(Audio(data))

    def word(self, word: Word) -> None:
        """Take the timing of a word."""
        self._queue.put_nowait(word)

    def end(self) -> None:
        """All of it has come."""
        self._queue.put_nowait(None)

    def fail(self, error: ServiceError) -> None:
        """Nothing more will come."""
        self._queue.put_nowait(error)

    async def next(self) -> Spoken | None:
        """Give what comes next, None at the end. Raises ServiceError."""
        item = await self._queue.get()
        if isinstance(item, ServiceError):
            raise item
        return item


class Line(ABC):
    """A connection to a service, in its language."""

    @abstractmethod
    async def say(self, sentence: Sentence, text: str) -> None:
        """Ask for a sentence. Raises ConnectionClosed."""

    @abstractmethod
    async def cancel(self, sentence: Sentence) -> None:
        """Stop it. Raises ConnectionClosed."""

    @abstractmethod
    async def read(self, sentence: Callable[[], Sentence | None]) -> None:
        """Wait for the next message and give what it holds to the sentence that is being spoken.

        Raises:
            ConnectionClosed: that was the last one.
            ServiceError: the service said that it will not go on.
            ValueError: it cannot be understood.
        """

    @abstractmethod
    async def close(self) -> None:
        """Hang up."""


class StreamingVoice(Voice):
    """One call's voice.

    Args:
        settings: `timeout` until the first audio, `stall` between two pieces of it.
        format: of the audio that comes.
        connect: opens a line. Raises ServiceError.
    """

    def __init__(
        self, settings: ServiceSettings, format: AudioFormat, connect: Callable[[], Coroutine[Any, Any, Line]]
    ) -> None:
        self._service, self._settings, self._format, self._connect = settings.service, settings, format, connect
        self._line: Line | None = None
        self._reader: asyncio.Task[None] | None = None
        self._sentence: Sentence | None = None
        self._connecting = asyncio.Lock()
        self._hanging_up: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self) -> None:
        """Connect. Raises ServiceError."""
        await self._ready()

    async def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        """Speak one sentence, as `Voice` has it. `previous` is not used: these services have no place for it."""
        if not text.strip():
            return
        if self._sentence is not None:
            raise RuntimeError("a voice speaks one sentence at a time: close the one before")
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.timeout
        sentence = self._sentence = Sentence(self._service, self._format)
        line: Line | None = None
        try:
            started = False
            try:
                async with asyncio.timeout_at(deadline):
                    line = await self._ready()
                    await line.say(sentence, text.strip())
                while True:
                    async with asyncio.timeout_at(deadline):
                        item = await sentence.next()
                    if item is None:
                        line = None  # nothing is left to cancel
                        return
                    started = started or isinstance(item, Audio)
                    yield item
                    if started:
                        deadline = clock() + self._settings.stall
            except TimeoutError as error:
                self._drop(line)
                line = None
                limits = self._settings
                missing = f"no more for {limits.stall:g} s" if started else f"no audio in {limits.timeout:g} s"
                raise ServiceError(self._service, "timeout", missing) from error
            except ConnectionClosed as error:
                raise closing_fault(self._service, error) from error
        finally:
            self._sentence = None
            if line is not None:
                await self._cancel(line, sentence)

    async def close(self) -> None:
        self._closed = True
        if self._sentence is not None:
            self._sentence.fail(ServiceError(self._service, "unavailable", "the call is over"))
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        self._drop(self._line)
        if self._hanging_up:
            await asyncio.wait(self._hanging_up)

    # --- the connection

    async def _ready(self) -> Line:
        """The open connection, or a new one."""
        async with self._connecting:
            self._check()
            if self._line is None:
                line = await self._connect()
                try:
                    self._check()
                except ServiceError:
                    await self._hang_up(line)
                    raise
                self._line = line
                self._reader = asyncio.create_task(self._read(self._line), name=f"{self._service}: voice")
            return self._line

    def _check(self) -> None:
        if self._closed:
            raise ServiceError(self._service, "unavailable", "the call is over")

    async def _read(self, line: Line) -> None:
        """Read until the line breaks, and open the next one if nobody is speaking."""
        clock = asyncio.get_running_loop().time
        opened = clock()
        while True:
            try:
                await line.read(lambda: self._sentence)
            except ConnectionClosed as error:
                fault = closing_fault(self._service, error)
                break
            except ServiceError as error:
                fault = error
                break
            except (ValueError, TypeError, AttributeError, LookupError) as error:  # of a shape it never has
                log.warning("service.not_understood", service=self._service, error=repr(error))
                if self._sentence is not None:
                    self._sentence.fail(ServiceError(self._service, "bad_reply", f"not understood: {error!r}"))
        self._forget(line)
        if self._sentence is not None:
            self._sentence.fail(fault)
        elif clock() - opened >= SHORTEST_LIFE:
            try:
                await self._ready()
            except ServiceError as error:
                log.info("voice.not_reopened", service=self._service, error=str(error))

    async def _cancel(self, line: Line, sentence: Sentence) -> None:
        if line is not self._line:
            return
        try:
            async with asyncio.timeout(CANCEL_TIME):
                await line.cancel(sentence)
        except (ConnectionClosed, TimeoutError):
            self._drop(line)

    def _drop(self, line: Line | None) -> None:
        """Give a connection up; what it still brings is heard by nobody."""
        if line is None or line is not self._line:
            return
        if self._reader is not None:
            self._reader.cancel()
        self._forget(line)

    def _forget(self, line: Line) -> None:
        """Let a connection end without waiting for it."""
        self._line = None
        task = asyncio.create_task(self._hang_up(line), name=f"{self._service}: hanging up")
        self._hanging_up.add(task)
        task.add_done_callback(self._hanging_up.discard)

    @staticmethod
    async def _hang_up(line: Line) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            await line.close()
