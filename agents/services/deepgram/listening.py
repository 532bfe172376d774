"""A stream of audio into Deepgram, whichever version of Listen it is.

Two tasks: one sends what `push` has left in a bounded buffer, the other reads. While no audio flows, as long as the
phone rings, the connection is kept alive.

What was sent and is not final text yet is kept. When the connection breaks (no close frame, 1011 and the like, or no
message while audio goes in), one new one is opened and hears that audio again, faster than it was spoken; so nothing of
a sentence is lost but time. When that fails too, or the service refuses, HearingLost says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from offhook.agents.services import base
from offhook.agents.services.base import Heard, HearingLost, ServiceError, Transcription
from offhook.agents.services.deepgram.account import DeepgramSettings
from offhook.agents.services.websocket import closing_fault
from offhook.codecs.audio import AudioFormat

BACKLOG: Final = 2.0
"""Seconds of audio that wait for a connection that does not take them; older ones are of no use to a conversation."""

REPLAY: Final = 10.0
"""Seconds of audio that a new connection may hear again: 80 kB of G.711."""

IDLE: Final = 4.0
"""Seconds without audio before the connection is kept alive; Deepgram closes after 10 (NET-0001), asks for 3 to 5."""

SHORTEST_LIFE: Final = 30.0
"""Seconds that a second connection must have held before a third is tried."""

PATIENCE: Final = 1.0
"""Seconds that the answer to `finalize` may take while other messages come; it takes some 150 ms."""

GOODBYE: Final = 0.5
"""Seconds that saying CloseStream may take."""

log = structlog.get_logger("offhook.agents.services")


class Client(Protocol):
    """What the SDK's clients of both versions have in common."""

    async def send_media(self, message: bytes, /) -> None: ...

    async def send_close_stream(self) -> None: ...

    async def recv(self) -> Any: ...


C = TypeVar("C", bound=Client)


class Listening(Transcription, Generic[C]):
    """One call's stream.

    Args:
        format: of the audio that is pushed.
        hear: is told what comes of it.
        chunk: seconds of audio in one message.
        whole_chunks: send nothing shorter, unless a final is asked for.
    """

    def __init__(
        self,
        settings: DeepgramSettings,
        format: AudioFormat,
        hear: Callable[[Heard], None],
        *,
        chunk: float,
        whole_chunks: bool = False,
    ) -> None:
        self._settings, self._format, self._hear = settings, format, hear
        self._service = settings.service
        self._chunk, self._least = format.size(chunk), format.size(chunk) if whole_chunks else format.sample_bytes
        self._pending = bytearray()
        "Not sent yet; begins with a whole sample."
        self._room = format.size(BACKLOG)
        self._sent = bytearray()
        "Sent over this connection and not final yet."
        self._sent_from = 0
        "Place of its first byte in the stream of this connection."
        self._unanswered = 0
        "Bytes sent since the last message came."
        self._wake = asyncio.Event()
        self._asking = False
        "A final is to be asked for as soon as all audio is sent."
        self.asked = False
        "A final has been asked for and has not come."
        self._asked_at = 0.0
        "When, monotonic seconds."
        self._clock = asyncio.get_running_loop().time
        self._dropped = 0
        self._over = False
        self._task: asyncio.Task[None] | None = None

    # --- the vendor's language, by version

    @abstractmethod
    async def _connect(self) -> tuple[ClientConnection, C]:
        """Open a connection. Raises ServiceError."""

    @abstractmethod
    async def _ask(self, client: C) -> None:
        """Ask for a final."""

    @abstractmethod
    async def _keep_alive(self, client: C) -> None:
        """Say that audio will follow."""

    @abstractmethod
    def _understand(self, message: Any) -> Iterable[Heard]:
        """What a message means; HearingLost if it says that nothing more will come."""

    def _reset(self) -> None:
        """Another connection begins to count anew."""

    # --- the contract

    async def open(self) -> None:
        """Connect and start. Raises ServiceError."""
        connection, client = await self._connect()
        self._task = asyncio.create_task(self._run(connection, client), name=f"{self._service}: hearing")

    def push(self, audio: bytes) -> None:
        if self._over:
            return
        self._pending += audio
        excess = len(self._pending) - self._room
        if excess > 0:
            excess += excess % self._format.sample_bytes
            del self._pending[:excess]
            if not self._dropped:
                log.warning("hearing.audio_dropped", service=self._service)
            self._dropped += excess
        self._wake.set()

    def finalize(self) -> None:
        self._asking = self.asked = True
        self._wake.set()

    async def close(self) -> None:
        self._over = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # --- what subclasses may use

    def _overdue(self) -> Iterable[Heard]:
        """The answer to a `finalize` that the service leaves unanswered, which it does where there is no text."""
        if self.asked and not self._asking and self._clock() - self._asked_at > PATIENCE:
            self.asked = False
            yield base.Final("", answers_finalize=True)

    async def _send_silence(self, client: C) -> None:
        """Let time pass for a service that knows it by the audio only."""
        self._pending += self._format.silence * (self._chunk // self._format.frame_bytes)
        await self._send_audio(client, self._chunk)

    def _covered(self, until: float) -> None:
        """All audio up to `until` seconds of this connection is final text: it need not be heard again."""
        size = min(max(self._format.size(until) - self._sent_from, 0), len(self._sent))
        del self._sent[:size]
        self._sent_from += size

    # --- the connection

    async def _run(self, connection: ClientConnection, client: C) -> None:
        try:
            fault = await self._persist(connection, client)
        except Exception:
            log.exception("hearing.failed", service=self._service)
            fault = ServiceError(self._service, "bad_reply", "hearing failed; the log says why")
        self._over = True
        self._hear(HearingLost(fault))

    async def _persist(self, connection: ClientConnection, client: C) -> ServiceError:
        """Converse until even a second connection has broken; say why."""
        again = False
        while True:
            began, fault = self._clock(), None
            try:
                fault = await self._converse(client)
            finally:
                try:
                    if fault is None:
                        await self._hang_up(connection, client)
                finally:
                    connection.transport.abort()  # what is broken gets no goodbye: the caller is still speaking
                    await connection.wait_closed()
            if fault.kind not in ("unavailable", "timeout") or (again and self._clock() - began < SHORTEST_LIFE):
                return fault
            log.warning("hearing.opened_anew", service=self._service, error=str(fault))
            again = True
            self._rewind()
            try:
                connection, client = await self._connect()
            except ServiceError as error:
                return error

    def _rewind(self) -> None:
        """Let the next connection hear what is not final yet."""
        self._pending[:0] = self._sent
        self._room = self._format.size(REPLAY)
        del self._pending[: max(0, len(self._pending) - self._room)]
        self._sent.clear()
        self._sent_from = self._unanswered = 0
        self._asking = self.asked
        self._wake.set()
        self._reset()

    async def _converse(self, client: C) -> ServiceError:
        """Send and read until the connection breaks or the service gives up; say why."""
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(client), name=f"{self._service}: sending")
            fault = await self._read(client)
            sending.cancel()
        return fault

    async def _hang_up(self, connection: ClientConnection, client: C) -> None:
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await client.send_close_stream()
        await connection.close()

    async def _send(self, client: C) -> None:
        try:
            while True:
                try:
                    async with asyncio.timeout(IDLE):
                        await self._wake.wait()
                except TimeoutError:
                    await self._keep_alive(client)
                    continue
                self._wake.clear()
                while len(self._pending) >= self._least:
                    await self._send_audio(client, self._chunk)
                self._room = self._format.size(BACKLOG)
                if self._asking:
                    self._asking = False
                    await self._send_audio(client, len(self._pending))
                    self._asked_at = self._clock()
                    await self._ask(client)
        except ConnectionClosed:
            return  # the reader sees it too, and says why

    async def _send_audio(self, client: C, size: int) -> None:
        """Send the next `size` bytes or what there is of them, whole samples; never an empty message."""
        size = min(size, len(self._pending))
        size -= size % self._format.sample_bytes
        if not size:
            return  # an empty message once meant the end of the stream
        audio = bytes(self._pending[:size])
        del self._pending[:size]
        self._sent += audio
        self._unanswered += size
        excess = max(0, len(self._sent) - self._format.size(REPLAY))
        del self._sent[:excess]
        self._sent_from += excess
        await client.send_media(audio)

    async def _read(self, client: C) -> ServiceError:
        stall = self._settings.stall
        while True:
            try:
                async with asyncio.timeout(stall):
                    message = await client.recv()
            except TimeoutError:
                if self._unanswered < self._format.size(stall / 2):
                    continue  # there was little to answer
                return ServiceError(self._service, "timeout", f"no message for {stall:g} s in spite of audio")
            except ConnectionClosed as error:
                return closing_fault(self._service, error)
            except ValueError as error:
                log.warning("service.not_understood", service=self._service, error=repr(error))
                continue
            self._unanswered = 0
            try:
                understood = list(self._understand(message))
            except (ValueError, TypeError, AttributeError, LookupError) as error:  # of a shape it never has
                log.warning("service.not_understood", service=self._service, error=repr(error))
                continue
            for heard in (*understood, *self._overdue()):
                if isinstance(heard, HearingLost):
                    return heard.error
                self._hear(heard)
