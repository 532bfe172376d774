"""The assistant's mouth: lines of text become speech, in order, and each knows what of it was heard.

Theory of operation
-------------------
A line is one sentence. It waits, is synthesised, is spoken as one utterance, and is over. One worker synthesises line
after line, a little ahead of what is being heard, so that an interruption throws away little that was paid for. Audio
goes to the gateway as it comes; the gateway paces it, and tells of each utterance once how it ended.

`hold` falls silent and keeps everything: the audio made so far stays with its line, so `resume` can take the sentence
up again at the word where it stopped, without asking the service once more. `drop` lets go of what was not said.

A line may be staged: it is synthesised, but not spoken before it is released. So a reply can be prepared while it
is not certain yet that the caller has finished.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Final

from offhook.agents.api import AgentCall, Utterance
from offhook.agents.conversation.heard import heard_text, restart_ms
from offhook.agents.link import UtteranceEnded
from offhook.agents.services.base import Audio, ServiceError, Voice, Word
from offhook.codecs.audio import AudioFormat
from offhook.codecs.convert import Converter

LINES_AHEAD: Final = 2
"""Lines synthesised beyond the one that is heard: enough for no gap between sentences."""

MS_PER_CHARACTER: Final = 65
"""Estimate of speech, for a line that was cut before all of it was made: 15 characters a second."""

MAX_KEPT: Final = 256
"""Fixed sentences (greetings, fillers) whose audio a host keeps; 40 kB each as G.711."""

_kept: OrderedDict[tuple[str, str, AudioFormat], tuple[bytes, tuple[Word, ...]]] = OrderedDict()


class CallVoice:
    """A voice of this call: the service's session and the format it speaks in."""

    def __init__(self, key: str, voice: Voice, format: AudioFormat) -> None:
        self.key, self.voice, self.format = key, voice, format


class Line:
    """One sentence on its way to the caller's ear."""

    def __init__(
        self,
        text: str,
        voice: CallVoice,
        *,
        interruptible: bool = True,
        staged: bool = False,
        fixed: bool = False,
        on_open: Callable[[Utterance], None] | None = None,
    ) -> None:
        self.text, self.voice = text, voice
        self.interruptible, self.staged, self.fixed = interruptible, staged, fixed
        self.on_open = on_open
        self.audio = bytearray()
        "All that was made so far, in the link's format."
        self.words: list[Word] = []
        self.complete = asyncio.Event()
        "Set when all of its audio is there, or no more will come."
        self.first_audio_at = 0.0
        self.utterance: Utterance | None = None
        self.base_ms = 0
        "Where in the audio the present utterance began."
        self.sent = 0
        "Bytes of the audio that went to the gateway."
        self.heard_ms = 0.0
        self.dropped = False
        "The caller interrupted it."
        self.broken = False
        "The service failed before all of it was made."
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        "True when it was heard whole."
        self._heard = ""

    @property
    def made(self) -> bool:
        """All of its audio is there."""
        return self.complete.is_set()

    @property
    def text_so_far(self) -> str:
        """Its text while it is still to be heard or when it was heard whole, else what was heard of it."""
        if not self.over.done() or self.over.result():
            return self.text
        return self._heard

    @property
    def settled(self) -> bool:
        """Whether `text_so_far` will not change any more."""
        return self.over.done()

    def finish(self, whole: bool, format: AudioFormat) -> None:
        """It will not be spoken any further. Its audio is forgotten: the conversation keeps the line to its end."""
        if self.over.done():
            return
        whole = whole and not self.broken
        if not whole:
            self._heard = heard_text(self.text, self.words, self.heard_ms, self.length_ms(format))
        self.over.set_result(whole)
        self.audio, self.words, self.on_open = bytearray(), [], None

    def length_ms(self, format: AudioFormat) -> float:
        """Length of its audio; an estimate until it is all there."""
        made = format.duration(len(self.audio)) * 1000
        return made if self.made and not self.broken else max(made, len(self.text) * MS_PER_CHARACTER)


class Speaker:
    """Says lines, one after the other. Times are the event loop's, in seconds."""

    def __init__(
        self,
        call: AgentCall,
        on_change: Callable[[], None],
        on_fault: Callable[[Line, ServiceError, int], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        """Take the call, and whom to tell.

        Args:
            call: that is spoken on.
            on_change: something was said, begins to be said, or is to be said no more.
            on_fault: a line could not be spoken, or not to its end, the so-manieth in a row.
            on_bug: it can speak no more.
        """
        self._call, self._on_change, self._on_fault, self._on_bug = call, on_change, on_fault, on_bug
        self._loop = asyncio.get_running_loop()
        self._lines: list[Line] = []
        self._by_utterance: dict[int, Line] = {}
        self._open: Line | None = None
        self._held = False
        self._cleared: set[int] = set()
        "Utterances taken back whose end has not been reported yet."
        self._failures = 0
        self._worker: asyncio.Task[None] | None = None
        self._workers: set[asyncio.Task[None]] = set()
        "That one, and those before it that are still letting go of a line."
        self._making: Line | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Something is being said, or is about to be."""
        return any(not line.staged for line in self._lines)

    @property
    def interruptible(self) -> bool:
        """Whether what is being said may be interrupted."""
        return next((line.interruptible for line in self._lines if not line.staged), True)

    def say(self, line: Line) -> Line:
        """Say it after what is waiting already; a line that is not staged goes before those that are."""
        if self._closed:
            line.finish(False, self._call.format)
            return line
        at = len(self._lines)
        if not line.staged:
            while at and self._lines[at - 1].staged:
                at -= 1
        self._lines.insert(at, line)
        self._work()
        self._on_change()
        return line

    def release(self, lines: Iterable[Line]) -> None:
        """Staged lines may be spoken now."""
        for line in lines:
            line.staged = False
        self._pump()
        self._work()
        self._on_change()

    def hold(self) -> None:
        """Fall silent, forgetting nothing."""
        if not self._held:
            self._held = True
            self._clear()

    def resume(self) -> None:
        """Go on at the word where it stopped."""
        if self._held:
            self._held = False
            self._pump()

    def drop(self) -> None:
        """Let go of everything that may be interrupted and was not heard yet. Staged lines stay."""
        self._held = False
        gone = [line for line in self._lines if line.interruptible and not line.staged]
        for line in gone:
            line.dropped = True
        if any(line.utterance is not None for line in gone):
            self._clear()
        self._remove(gone)
        self._pump()
        self._on_change()

    def forget(self, lines: Iterable[Line]) -> None:
        """Let go of those of the lines that are staged: what was prepared is void."""
        self._remove([line for line in lines if line.staged])

    async def silent(self) -> bool:
        """Wait until everything said so far has been heard or cut; False when the caller stopped some of it."""
        lines = [line for line in self._lines if not line.staged]
        for line in lines:
            await asyncio.shield(line.over)
        return not any(line.dropped for line in lines)

    async def settled(self, within: float) -> None:
        """Wait until the gateway has told how far each line came that was dropped, so many seconds at most."""
        dropped = [line.over for line in self._by_utterance.values() if line not in self._lines]
        if dropped:
            await asyncio.wait(dropped, timeout=within)

    async def close(self) -> None:
        """The call is over. Of what was being said nothing more is known."""
        self._closed = True
        lines = {*self._lines, *self._by_utterance.values()}
        self._lines.clear()
        self._by_utterance.clear()
        for line in lines:
            line.finish(False, self._call.format)
        for task in self._workers:
            task.cancel()
        if self._workers:
            await asyncio.wait(self._workers)

    # --- towards the gateway

    def utterance_ended(self, ended: UtteranceEnded) -> None:
        """The gateway has told how an utterance ended."""
        self._cleared.discard(ended.utterance)
        line = self._by_utterance.pop(ended.utterance, None)
        if line is None:
            return
        line.heard_ms = max(line.heard_ms, line.base_ms + ended.heard_ms)
        line.utterance = None
        if self._open is line:
            self._open = None
        if ended.outcome == "played" and line.made and line.sent >= len(line.audio):
            self._end(line, whole=True)
        elif line in self._lines:  # taken back, but not dropped
            line.base_ms = restart_ms(line.words, line.heard_ms, bytes(line.audio), self._call.format)
            line.sent = self._call.format.size(line.base_ms / 1000)
        else:
            line.finish(False, self._call.format)
        self._pump()
        self._work()
        self._on_change()

    def _clear(self) -> None:
        if self._by_utterance:
            self._cleared |= set(self._by_utterance)
            self._call.clear()
        self._open = None

    def _remove(self, lines: list[Line]) -> None:
        for line in lines:
            self._lines.remove(line)
            if line.utterance is None:  # otherwise the gateway will say how far it came
                line.finish(False, self._call.format)
        if self._making is not None and self._making not in self._lines:
            assert self._worker is not None
            self._worker.cancel()
        self._work()

    def _end(self, line: Line, *, whole: bool) -> None:
        if line in self._lines:
            self._lines.remove(line)
        line.finish(whole, self._call.format)

    def _pump(self) -> None:
        """Give the gateway what may be spoken."""
        for line in list(self._lines):
            if self._held or line.staged or (self._open is not None and self._open is not line):
                return
            if line.utterance is None:
                if len(line.audio) <= line.sent:
                    if not line.made:
                        return
                    self._end(line, whole=True)  # nothing to be heard in it
                    continue
                self._begin(line)
            utterance = line.utterance
            if utterance is None or utterance.id in self._cleared:
                return
            if len(line.audio) > line.sent:
                self._call.add(utterance, bytes(memoryview(line.audio)[line.sent :]))
                line.sent = len(line.audio)
            if not line.made:
                return
            if self._open is line:
                self._call.finish(utterance)
                self._open = None

    def _begin(self, line: Line) -> None:
        text = line.text
        if line.base_ms:
            text = text[len(heard_text(text, line.words, line.base_ms, line.length_ms(self._call.format))) :].strip()
        line.utterance = self._call.speak(text=text, last=False)
        self._by_utterance[line.utterance.id] = line
        self._open = line
        if line.on_open is not None:
            line.on_open(line.utterance)
            line.on_open = None

    # --- towards the service

    def _next(self) -> Line | None:
        """The line to synthesise now."""
        for ahead, line in enumerate(self._lines):
            if not line.made:
                return line if ahead <= LINES_AHEAD else None
            if line.staged:  # of a reply that may be void only the beginning is paid for
                return None
        return None

    def _work(self) -> None:
        if self._closed or self._next() is None:
            return
        if self._worker is None or self._worker.done() or self._worker.cancelling():
            self._worker = self._loop.create_task(self._make_lines(self._worker), name=f"speaker-{self._call.info.id}")
            self._workers.add(self._worker)
            self._worker.add_done_callback(self._worker_done)

    def _worker_done(self, task: asyncio.Task[None]) -> None:
        self._workers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)

    async def _make_lines(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        while (line := self._next()) is not None:
            self._making = line
            try:
                await self._make(line)
            except ServiceError as error:
                self._failed(line, error)
            finally:
                self._making = None

    async def _make(self, line: Line) -> None:
        format = self._call.format
        key = (line.voice.key, line.text, format)
        if line.fixed and (kept := _kept.get(key)) is not None:
            line.audio += kept[0]
            line.words += kept[1]
            line.first_audio_at = self._loop.time()
        else:
            converter = Converter(line.voice.format, format)
            previous = self._before(line)
            async with aclosing(line.voice.voice.synthesize(line.text, previous=previous)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Audio):
                        if not line.audio:
                            line.first_audio_at = self._loop.time()
                        line.audio += converter.convert(piece.data)
                        self._pump()
                    else:
                        line.words.append(piece)
            if not line.audio and not line.over.done():
                raise ServiceError("voice", "bad_reply", f"no audio for {line.text[:80]!r}")
            if line.fixed and line.voice.voice.first_choice:
                _kept[key] = (bytes(line.audio), tuple(line.words))
                while len(_kept) > MAX_KEPT:
                    _kept.popitem(last=False)
        line.complete.set()
        self._failures = 0
        self._pump()
        self._on_change()

    def _before(self, line: Line) -> str:
        at = self._lines.index(line)
        return self._lines[at - 1].text if at else ""

    def _failed(self, line: Line, error: ServiceError) -> None:
        """Say what there is of it, and go on with the next."""
        line.broken = True
        line.complete.set()
        if line not in self._lines:  # dropped meanwhile: nobody misses it
            return
        self._failures += 1
        self._on_fault(line, error, self._failures)
        self._pump()
        self._on_change()
