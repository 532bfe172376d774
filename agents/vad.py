"""Voice activity for every call of a host: one model, one thread, many streams.

Theory of operation
-------------------
A stream cuts its call's audio into the model's windows. Full windows wait in one list; the thread takes the
whole list at once and runs it through the model as one batch, since a batch of eight costs less than half as
much a window as eight batches of one. With few calls a window is handed over at once; with more than
`EAGER_STREAMS` the service gathers for `GATHER` seconds first. Probabilities come back to the event loop,
where each stream's gate turns them into speech that started or stopped.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from offhook.codecs.vad import SileroModel, SpeechGate, SpeechStarted, WebRtcVad

EAGER_STREAMS: Final = 8
"""Up to this many streams a window goes to the model at once."""

GATHER: Final = 0.008
"""Seconds to gather a batch beyond that: a quarter of a window, so no stream waits for its second one."""

MAX_WAITING: Final = 64
"""Windows of one stream that may wait (2 s): a host too slow for its calls drops the oldest, and counts them."""

WINDOW_BYTES: Final = 2 * SileroModel.WINDOW
WINDOW_SECONDS: Final = SileroModel.WINDOW / 8000

Heard = Callable[[float], None]


class VadStream(ABC):
    """One call's detector. Feed it int16 mono 8 kHz; the handlers are called on the event loop."""

    def __init__(self, gate: SpeechGate, on_started: Heard, on_stopped: Heard) -> None:
        self._gate = gate
        self._on_started, self._on_stopped = on_started, on_stopped
        self._closed = False
        self.dropped = 0
        "Windows dropped because the model could not keep up."

    @abstractmethod
    def feed(self, pcm: bytes, now: float) -> None:
        """Take audio that arrived at `now` (monotonic seconds)."""

    def _judge(self, probability: float, at: float) -> None:
        if self._closed:
            return
        change = self._gate.push(probability, at)
        if change is None:
            return
        if isinstance(change, SpeechStarted):
            self._on_started(change.at)
        else:
            self._on_stopped(change.at)

    def close(self) -> None:
        """The call is over; no handler is called any more."""
        self._closed = True


class _WebRtcStream(VadStream):
    """Cheap enough to run where the audio is."""

    def __init__(self, gate: SpeechGate, on_started: Heard, on_stopped: Heard) -> None:
        super().__init__(gate, on_started, on_stopped)
        self._detector = WebRtcVad()
        self._rest = b""

    def feed(self, pcm: bytes, now: float) -> None:
        data = self._rest + pcm if self._rest else pcm
        size = 2 * WebRtcVad.WINDOW
        whole = len(data) // size
        for i in range(whole):
            end = now - (len(data) - (i + 1) * size) / 16_000
            self._judge(self._detector.probability(data[i * size : (i + 1) * size]), end)
        self._rest = data[whole * size :]


class _SileroStream(VadStream):
    def __init__(self, service: VadService, gate: SpeechGate, on_started: Heard, on_stopped: Heard) -> None:
        super().__init__(gate, on_started, on_stopped)
        self._service = service
        self._rest = b""
        self.waiting = 0
        # What the model remembers of this call, touched by the service's thread only.
        self.context = np.zeros(SileroModel.CONTEXT, np.float32)
        self.state = np.zeros((2, 128), np.float32)

    def feed(self, pcm: bytes, now: float) -> None:
        data = self._rest + pcm if self._rest else pcm
        while len(data) >= WINDOW_BYTES:
            window, data = data[:WINDOW_BYTES], data[WINDOW_BYTES:]
            if self.waiting >= MAX_WAITING:
                self.dropped += 1
            else:
                self.waiting += 1
                self._service._submit(self, window, now - len(data) / 16_000)
        self._rest = data

    def close(self) -> None:
        if not self._closed:
            super().close()
            self._service._streams -= 1


Job = tuple[_SileroStream, bytes, float]


class VadService:
    """The detectors of one process. Make it on the event loop; `close` joins its thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams = 0
        self._jobs: list[Job] = []
        self._timer: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._model: SileroModel | None = None

    def open(
        self, kind: Literal["silero", "webrtc"], on_started: Heard, on_stopped: Heard, *, silence_ms: float = 320
    ) -> VadStream:
        """A detector for one call."""
        if kind == "webrtc":
            return _WebRtcStream(WebRtcVad.gate(silence_ms), on_started, on_stopped)
        self.load()
        self._streams += 1
        return _SileroStream(self, SpeechGate(min_silence_ms=silence_ms), on_started, on_stopped)

    def load(self) -> None:
        """Load the Silero model now rather than with the first stream; takes some 50 ms."""
        if self._thread is None:
            self._model = SileroModel()
            self._thread = threading.Thread(target=self._work, name="vad", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; what still waits is forgotten."""
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _submit(self, stream: _SileroStream, window: bytes, at: float) -> None:
        self._jobs.append((stream, window, at))
        if self._streams <= EAGER_STREAMS:
            self._dispatch()
        elif self._timer is None:
            self._timer = self._loop.call_later(GATHER, self._dispatch)

    def _dispatch(self) -> None:
        self._timer = None
        if self._jobs:
            self._queue.put(self._jobs)
            self._jobs = []

    def _work(self) -> None:
        while (jobs := self._queue.get()) is not None:
            try:
                while (more := self._queue.get_nowait()) is not None:
                    jobs += more
                self._queue.put(None)
            except queue.Empty:
                pass
            while jobs:
                jobs = self._run_batch(jobs)

    def _run_batch(self, jobs: list[Job]) -> list[Job]:
        """Run at most one window of each stream; gives the jobs that must wait for the next batch."""
        model = self._model
        assert model is not None
        batch: dict[_SileroStream, Job] = {}
        later = [job for job in jobs if batch.setdefault(job[0], job) is not job]
        streams = list(batch)
        pcm: NDArray[Any] = np.frombuffer(b"".join(job[1] for job in batch.values()), "<i2")
        windows = (pcm.astype(np.float32) * np.float32(1 / 32768)).reshape(len(streams), SileroModel.WINDOW)
        contexts = np.stack([stream.context for stream in streams])
        states = np.stack([stream.state for stream in streams], axis=1)
        probabilities, states = model.probabilities(windows, contexts, states)
        for i, stream in enumerate(streams):
            stream.context = windows[i, -SileroModel.CONTEXT :]
            stream.state = states[:, i]
        results = [(job[0], p, job[2]) for job, p in zip(batch.values(), probabilities.tolist(), strict=True)]
        try:
            self._loop.call_soon_threadsafe(self._deliver, results)
        except RuntimeError:  # the loop has closed: nobody is left to tell
            return []
        return later

    def _deliver(self, results: list[tuple[_SileroStream, float, float]]) -> None:
        for stream, probability, at in results:
            stream.waiting -= 1
            stream._judge(probability, at)
