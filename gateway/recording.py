"""Stereo recordings, streamed to disk while the call goes on: left the caller, right the agent as heard.

The event loop only appends to a queue, one for each recording. One thread looks at each recording about twice a
second, aligns (see `timeline`), decodes and writes. A file is valid at every moment. A recording that cannot be
written any more stops alone; the call does not notice.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import heapq
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final, Literal

import structlog

from offhook.codecs.audio import AudioFormat
from offhook.codecs.wav import StereoWavWriter, WavFull, repair
from offhook.gateway.timeline import Timeline

log = structlog.get_logger(__name__)

INTERVAL: Final = 0.5
"""Seconds between two looks at a recording."""
BATCH: Final = 0.05
"""Seconds a recording may be early, so that several are looked at in one go; one go of 200 calls lasts 1 ms."""
SPREAD: Final = 16
"""Moments within an interval that recordings are spread over."""
MAX_QUEUED: Final = 6000
"""Payloads of one side that may wait for the thread, two minutes: by then the disk hangs."""
KEEP_FREE: Final = 32 * 1024 * 1024
"""Bytes of the disk that recordings leave to the journal and the database."""
FREE_INTERVAL: Final = 1.0
"""Seconds between two looks at the free space."""

StopReason = Literal["complete", "disk_full", "write_failed", "too_slow", "gateway_died"]

_WAV_HEADER: Final = 44
_BYTES_A_SECOND: Final = 8000 * 2 * 2
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")


@dataclass(frozen=True, slots=True)
class RecordingResult:
    """What became of a recording."""

    path: Path
    seconds: float
    bytes: int
    "Size of the file."
    sha256: str
    "Of the whole file, in hex; empty when it could not be read."
    reason: StopReason
    "complete: it has the whole call."
    detail: str = ""


class Recording:
    """One call's recording, as the event loop sees it. Made by `Recorder.open`."""

    __slots__ = ("_agent", "_caller", "_recorder", "_room", "_tape", "path")

    def __init__(self, recorder: Recorder, tape: _Tape) -> None:
        self.path = tape.path
        "Where the file is, or will be within a second."
        self._recorder, self._tape = recorder, tape
        self._caller, self._agent = tape.timeline.caller_queue, tape.timeline.agent_queue
        self._room = MAX_QUEUED

    def caller(self, payload: bytes, at: float, lost_ms: int = 0) -> None:
        """Record audio of the caller that arrived at `at` (monotonic), `lost_ms` missing before it."""
        if len(self._caller) < self._room:
            self._caller.append((payload, at, lost_ms))

    def agent(self, payload: bytes, play_at: float) -> None:
        """Record audio of the agent whose first sample the caller hears at `play_at`; never decreasing."""
        if len(self._agent) < self._room:
            self._agent.append((payload, play_at))

    def cut(self, at: float) -> None:
        """Forget agent audio recorded so far that would have been heard at `at` or later."""
        if self._room:
            self._tape.timeline.cut(at)

    def close(self) -> asyncio.Future[RecordingResult]:
        """Finish the recording; awaiting it gives the result. A second close gives the same."""
        return self._recorder._close(self._tape)

    def _ended(self) -> None:
        self._room = 0


class _Tape:
    """One call's recording, as the thread sees it."""

    def __init__(
        self, path: Path, format: AudioFormat, done: asyncio.Future[RecordingResult], on_stopped: OnStopped | None
    ) -> None:
        self.path = path
        self.timeline = Timeline(format)
        self.done = done
        self.on_stopped = on_stopped
        self.closed_at = 0.0
        "When `close` was called; 0 while open."
        self.writer: StereoWavWriter | None = None
        self.stopped = False
        self.recording: Recording | None = None


OnStopped = Callable[[RecordingResult], None]


class Recorder:
    """Writes all recordings of a process, in one thread that lives while there are any.

    Args:
        directory: made when missing, readable by its owner only; one directory a day below it.
        keep_free: bytes of the disk to leave alone; a recording stops rather than go below.
    """

    def __init__(
        self, directory: Path, *, keep_free: int = KEEP_FREE, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.directory = directory
        self.bytes_written = 0
        "Audio bytes of all recordings."
        self.stopped_early = 0
        "Recordings that stopped before their calls."
        self._keep_free = keep_free
        self._monotonic = monotonic
        self._wake = threading.Event()
        self._arrived: deque[_Tape] = deque()
        self._closing: deque[_Tape] = deque()
        self._open: set[_Tape] = set()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._free_at = -1e9
        self._free = True

    @property
    def live(self) -> int:
        """Recordings that are open."""
        return len(self._open)

    def open(self, call_id: str, format: AudioFormat, *, on_stopped: OnStopped | None = None) -> Recording:
        """Begin a recording. Touches no disk; a failure is told by `on_stopped`, on this event loop.

        Args:
            call_id: becomes the file's name.
            format: of every payload of both sides.
            on_stopped: called when the recording ends before `close`, as by a full disk.

        Raises:
            ValueError: the call id is not fit for a file name.
        """
        if not _CALL_ID.match(call_id):
            raise ValueError(f"call id {call_id!r} is not fit for a file name; use letters, digits, - and _")
        loop = asyncio.get_running_loop()
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        tape = _Tape(self.directory / day / f"{call_id}.wav", format, loop.create_future(), on_stopped)
        self._open.add(tape)
        tape.done.add_done_callback(lambda _: self._open.discard(tape))
        self._arrived.append(tape)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._thread.start()
        self._wake.set()
        tape.recording = Recording(self, tape)
        return tape.recording

    async def close(self) -> None:
        """Finish every open recording and stop the thread."""
        if self._thread is None:
            return
        waiting = [self._close(tape) for tape in tuple(self._open)]
        if waiting:
            await asyncio.wait(waiting)
        self._ending = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)
        self._thread = None
        self._ending = False

    def _close(self, tape: _Tape) -> asyncio.Future[RecordingResult]:
        if not tape.closed_at and not tape.done.done():
            tape.closed_at = self._monotonic()
            self._closing.append(tape)
            self._wake.set()
        return tape.done

    # --- the thread

    def _run(self) -> None:
        order = count()
        due: list[tuple[float, int, _Tape]] = []
        while not self._ending:
            now = self._monotonic()
            self._wake.wait(max(0.0, due[0][0] - now) if due else None)
            self._wake.clear()
            now = self._monotonic()
            while self._arrived:
                # Calls that begin together are spread, so that the loop never waits for all of them at once.
                number = next(order)
                first = now + INTERVAL * (0.5 + number % SPREAD / SPREAD)
                heapq.heappush(due, (first, number, self._arrived.popleft()))
            while self._closing:
                self._work(self._closing.popleft(), now)
            while due and due[0][0] <= now + BATCH:
                _, _, tape = heapq.heappop(due)
                if not tape.stopped:
                    self._work(tape, now)
                    heapq.heappush(due, (now + INTERVAL, next(order), tape))

    def _work(self, tape: _Tape, now: float) -> None:
        if tape.stopped:
            return
        last = tape.closed_at > 0
        overflow = max(len(tape.timeline.caller_queue), len(tape.timeline.agent_queue)) >= MAX_QUEUED
        try:
            left, right = tape.timeline.take(tape.closed_at if last else now, last=last)
            if tape.writer is None and (left or last):
                tape.writer = self._create(tape.path)
            if left and tape.writer is not None:
                if not self._has_room(now):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                tape.writer.append(left, right)
                self.bytes_written += 2 * len(left)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            self._stop(tape, "disk_full" if full else "write_failed", error.strerror or str(error))
        except WavFull as error:
            self._stop(tape, "disk_full", str(error))
        else:
            if overflow:
                self._stop(tape, "too_slow", f"more than {MAX_QUEUED} payloads waited for the disk")
            elif last:
                self._stop(tape, "complete", "")

    def _create(self, path: Path) -> StereoWavWriter:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        writer = StereoWavWriter(path)
        path.chmod(0o600)
        return writer

    def _has_room(self, now: float) -> bool:
        if now - self._free_at >= FREE_INTERVAL:
            space = os.statvfs(self.directory)
            self._free = space.f_bavail * space.f_frsize >= self._keep_free
            self._free_at = now
        return self._free

    def _stop(self, tape: _Tape, reason: StopReason, detail: str) -> None:
        tape.stopped = True
        early = not tape.closed_at
        if reason != "complete":
            self.stopped_early += 1
            log.error("recording stopped early", path=str(tape.path), reason=reason, detail=detail)
        if tape.writer is not None:
            tape.writer.close()
        result = describe(tape.path, reason, detail)
        try:
            tape.done.get_loop().call_soon_threadsafe(_tell, tape, result, early)
        except RuntimeError:
            log.debug("recording result abandoned", path=str(tape.path), detail="the event loop is closed")


def _tell(tape: _Tape, result: RecordingResult, early: bool) -> None:
    if not tape.done.done():
        tape.done.set_result(result)
    if tape.recording is not None:
        tape.recording._ended()
    if early and tape.on_stopped is not None:
        tape.on_stopped(result)


def describe(path: Path, reason: StopReason, detail: str = "") -> RecordingResult:
    """Sync a finished recording to disk and say how long and large it is. Blocks; for a thread."""
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        return RecordingResult(path, 0.0, 0, "", reason, detail or error.strerror or str(error))
    return RecordingResult(path, max(0, size - _WAV_HEADER) / _BYTES_A_SECOND, size, digest, reason, detail)


def recover(path: Path) -> RecordingResult:
    """Make the recording of a process that died readable and describe it. Blocks; for a thread.

    Raises:
        OSError: there is no such file, or it cannot be written.
        WavError: it is no recording of offhook.
    """
    repair(path)
    return describe(path, "gateway_died")
