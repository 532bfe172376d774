"""The journal: what happened to every call, on disk before it is anywhere else.

Theory of operation
-------------------
`append` stamps and encodes an entry on the event loop (a few microseconds) and puts it into a queue; one thread
writes. A plain entry reaches the operating system within FLUSH_INTERVAL and the disk within SYNC_INTERVAL, one
with `sync=True` reaches the disk at once. A killed process therefore loses at most FLUSH_INTERVAL of entries, and
a machine that loses its power at most SYNC_INTERVAL, but never an answer, a transfer or an end.

On disk a journal is a directory of segments named by the number of their first entry. A segment opens with MAGIC;
an entry is `!II` = length and CRC-32 of the body, then the body, JSON of `Entry`. Every process starts a segment of
its own, so the torn tail of one that was killed stays the tail of its segment. `read_segment` ends a segment at the
first thing that cannot be an entry and steps over one whose checksum fails.

Entry numbers (`seq`) grow through the whole life of a journal, so (call id, seq) names an entry for ever: whoever
ships entries may ship any of them twice. The newest segment is never removed: it remembers the number.

When the disk is full the journal gives up a file it reserved for that day, and goes on in the space. When that
is used up too, entries wait in memory, at most MAX_WAITING bytes of them (then plain entries are dropped and counted,
those with `sync` never), until a write succeeds; then the reserve is made anew.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import socket
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

log = structlog.get_logger(__name__)

MAGIC: Final = b"offhook journal 1\n"
SUFFIX: Final = ".journal"
RESERVE_NAME: Final = "reserve"
LOCK_NAME: Final = "lock"
NODE_NAME: Final = "node"

FLUSH_INTERVAL: Final = 0.1
"""Seconds between writes: what a killed process may lose of plain entries."""
SYNC_INTERVAL: Final = 1.0
"""Seconds between syncs while plain entries come: what a power cut may lose of them."""
RETRY_INTERVAL: Final = 1.0
"""Seconds between attempts while the disk is full."""

SEGMENT_BYTES: Final = 8 * 1024 * 1024
"""A segment is closed above this; shipping after a crash reads at most one segment twice."""
RESERVE_BYTES: Final = 4 * 1024 * 1024
"""Given up when the disk is full: about 20 000 entries, the ends of many hours' calls."""
MAX_ENTRY: Final = 1024 * 1024
"""Bytes of one body; the largest real one is a traceback."""
MAX_WAITING: Final = 32 * 1024 * 1024
"""Bytes that wait in memory while nothing can be written."""

_HEAD = struct.Struct("!II")


class JournalBusy(Exception):
    """Another process writes this journal; the text names the directory."""


class Entry(msgspec.Struct, frozen=True):
    """One thing that happened to a call."""

    call: str
    "offhook's call id."
    seq: int
    event: str
    at: float
    "Wall clock, seconds since 1970 (UTC); may jump."
    mono: float
    "Monotonic seconds of the machine since it started; differences are durations."
    data: dict[str, Any] = {}


_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode = msgspec.json.Decoder(Entry).decode


@dataclass(slots=True)
class JournalStats:
    """Counters of a journal, to be exported; written by its thread, read by anybody."""

    written: int = 0
    "Entries written."
    bytes: int = 0
    "Bytes written."
    syncs: int = 0
    dropped: int = 0
    "Entries lost because neither disk nor memory had room."
    replaced: int = 0
    "Entries whose data was too large or could not be encoded; a note stands in its place."
    failures: int = 0
    "Writes that failed."
    disk_full: bool = False
    "True from the first failed write to the first that succeeds."
    appended_bytes: int = 0
    "Bytes put into the queue; the only counter that the event loop writes besides `replaced`."
    settled_bytes: int = 0
    "Bytes written or dropped."

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self.appended_bytes - self.settled_bytes


class Journal:
    """An append-only journal in a directory. One process, and `append` and `flush` on one thread.

    Args:
        directory: made when missing, readable by its owner only.
        wall: wall clock, for tests.
        monotonic: monotonic clock, for tests.

    Raises:
        JournalBusy: another process has it.
        OSError: the directory cannot be made or written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.directory = directory
        self.stats = JournalStats()
        self.tap: Callable[[Entry], None] | None = None
        "Told of every entry, on the thread that appends; must not block nor raise."
        self._wall, self._monotonic = wall, monotonic
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(directory)
        self.node = _node(directory)
        "Who wrote this journal: a name made once, the same at every start, whatever the machine is called then."
        left_over = segments(directory)
        self._seq = 1 + max((_last_seq(path) for path in left_over[-1:]), default=0)
        self.left_over = tuple(path for path in left_over if path != _segment(directory, self._seq))
        "Segments that earlier processes wrote, oldest first."
        self._queue: deque[tuple[bytes, bool]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._flushes: deque[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._appended = 0
        self._writer = _Writer(directory, self.stats)
        self._writer.open_segment(self._seq)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def append(self, call_id: str, event: str, data: dict[str, Any] | None = None, *, sync: bool = False) -> int:
        """Put an entry into the journal; never blocks, never raises for its data. Returns the entry's number.

        Args:
            call_id: offhook's call id.
            event: such as `call.answered`.
            data: JSON-like; it is encoded now, so the caller may change it afterwards.
            sync: bring it to the disk at once (answer, transfer, end).
        """
        seq = self._seq
        self._seq = seq + 1
        at, mono = self._wall(), self._monotonic()
        entry = Entry(call_id, seq, event, at, mono, data or {})
        if self.tap is not None:
            self.tap(entry)
        try:
            body = _encode(entry)
        except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
            body = self._replaced(Entry(call_id, seq, event, at, mono), f"could not be encoded: {error}")
        if len(body) > MAX_ENTRY:
            body = self._replaced(Entry(call_id, seq, event, at, mono), f"{len(body)} bytes, limit {MAX_ENTRY}")
        self._appended += 1
        self.stats.appended_bytes += len(body)
        self._queue.append((body, sync))
        if sync:
            self._wake.set()
        return seq

    async def flush(self) -> None:
        """Wait until everything appended so far is on the disk. Waits on while the disk is full."""
        if self.stats.written + self.stats.dropped >= self._appended and not self._writer.unsynced:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._flushes.append((self._appended, loop, future))
        self._wake.set()
        await future

    def close(self) -> None:
        """Write what is queued, sync and stop. Blocks for a write and a sync; entries appended later are lost."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        os.close(self._lock)

    # --- the writing thread

    def _replaced(self, entry: Entry, why: str) -> bytes:
        self.stats.replaced += 1
        call = entry.call.encode(errors="replace").decode()
        return _encode(msgspec.structs.replace(entry, call=call, data={"not_journaled": why[:200]}))

    def _run(self) -> None:
        waiting: deque[tuple[bytes, bool]] = deque()
        synced_at = self._monotonic()
        while True:
            closing = self._closing
            if not closing:
                self._wake.wait(RETRY_INTERVAL if self.stats.disk_full else FLUSH_INTERVAL)
            self._wake.clear()
            flushes = len(self._flushes)
            taken = [self._queue.popleft() for _ in range(len(self._queue))]
            waiting.extend(taken)
            now = self._monotonic()
            if waiting:
                self._write(waiting)
            urgent = flushes > 0 or closing or any(sync for _, sync in taken)
            if self._writer.unsynced and (urgent or now - synced_at >= SYNC_INTERVAL):
                self._writer.sync()
                synced_at = now
            self._settle_flushes(everything=closing)
            if closing:
                self.stats.dropped += len(waiting)
                self._writer.close()
                return

    def _write(self, waiting: deque[tuple[bytes, bool]]) -> None:
        if self._writer.write(waiting):
            return
        size = sum(len(body) for body, _ in waiting)
        if size > MAX_WAITING:
            kept: list[tuple[bytes, bool]] = []
            for body, sync in waiting:
                if sync or size <= MAX_WAITING:
                    kept.append((body, sync))
                else:
                    size -= len(body)
                    self.stats.dropped += 1
                    self.stats.settled_bytes += len(body)
            waiting.clear()
            waiting.extend(kept)

    def _settle_flushes(self, *, everything: bool) -> None:
        done = self.stats.written + self.stats.dropped
        while self._flushes and (everything or self._flushes[0][0] <= done):
            _, loop, future = self._flushes.popleft()
            try:
                loop.call_soon_threadsafe(_finish, future)
            except RuntimeError:
                log.debug("journal flush abandoned", detail="the event loop is closed")


def _segment(directory: Path, first: int) -> Path:
    return directory / f"{first:020d}{SUFFIX}"


def _lock(directory: Path) -> int:
    """Hold the directory until the descriptor is closed, by us or by our death."""
    lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise JournalBusy(
            f"another offhook writes the journal in {directory}; stop it, or give this one a data_dir of its own"
        ) from error
    return lock


def _node(directory: Path) -> str:
    file = directory / NODE_NAME
    if file.exists() and (name := file.read_text().strip()):
        return name
    name = f"{socket.gethostname()}-{secrets.token_hex(3)}"
    file.write_text(name + "\n")
    return name


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Writer:
    """The file side of a journal; lives on the journal's thread after the first segment is open."""

    def __init__(self, directory: Path, stats: JournalStats) -> None:
        self.directory, self.stats = directory, stats
        self.unsynced = False
        self._file = -1
        self._size = 0
        self._reserve = directory / RESERVE_NAME
        self._make_reserve()

    def open_segment(self, first: int) -> None:
        file = os.open(_segment(self.directory, first), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, MAGIC)
        except OSError:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = file, len(MAGIC)
        self._sync_directory()

    def write(self, waiting: deque[tuple[bytes, bool]]) -> bool:
        """Write every waiting entry, taking it out; False when the disk has no room for all of them."""
        while waiting:
            try:
                if self._size >= SEGMENT_BYTES:
                    self.sync()
                    self.open_segment(_decode(waiting[0][0]).seq)
                self._write_some(waiting)
            except OSError as error:
                self.stats.failures += 1
                if not self.stats.disk_full:
                    self.stats.disk_full = True
                    log.error(
                        "journal cannot be written; entries wait", error=error.strerror, directory=str(self.directory)
                    )
                if not self._give_up_reserve(error):
                    return False
        if self.stats.disk_full and self._make_reserve():
            self.stats.disk_full = False
            log.info("journal is written as before", directory=str(self.directory))
        return True

    def _write_some(self, waiting: deque[tuple[bytes, bool]]) -> None:
        """Write up to a segment's worth in one call. A part of it that fits nowhere is taken back."""
        parts: list[bytes] = []
        size = count = 0
        for body, _ in waiting:
            if self._size + size >= SEGMENT_BYTES:
                break
            parts += (_HEAD.pack(len(body), zlib.crc32(body)), body)
            size += _HEAD.size + len(body)
            count += 1
        data = b"".join(parts)
        try:
            done = 0
            while done < size:
                done += os.write(self._file, data[done:])
        except OSError:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            if count == 1:
                raise
            # Less may still fit: the end of a call matters more than a full batch.
            self._write_one_by_one(waiting)
            return
        self._written(waiting, count, size)

    def _write_one_by_one(self, waiting: deque[tuple[bytes, bool]]) -> None:
        while waiting:
            body = waiting[0][0]
            data = _HEAD.pack(len(body), zlib.crc32(body)) + body
            try:
                done = 0
                while done < len(data):
                    done += os.write(self._file, data[done:])
            except OSError:
                os.ftruncate(self._file, self._size)
                os.lseek(self._file, self._size, os.SEEK_SET)
                raise
            self._written(waiting, 1, len(data))

    def _written(self, waiting: deque[tuple[bytes, bool]], count: int, size: int) -> None:
        for _ in range(count):
            self.stats.settled_bytes += len(waiting.popleft()[0])
        self._size += size
        self.stats.written += count
        self.stats.bytes += size
        self.unsynced = True

    def sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            self.stats.failures += 1
            log.error("journal cannot be synced", error=error.strerror)
        self.stats.syncs += 1
        self.unsynced = False

    def close(self) -> None:
        os.close(self._file)
        self._reserve.unlink(missing_ok=True)

    def _sync_directory(self) -> None:
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _make_reserve(self) -> bool:
        """Fill the reserved file; False when there is no room for it."""
        try:
            file = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, RESERVE_BYTES)
            finally:
                os.close(file)
        except OSError:
            self._reserve.unlink(missing_ok=True)
            return False
        return True

    def _give_up_reserve(self, error: OSError) -> bool:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._reserve.exists():
            return False
        self._reserve.unlink(missing_ok=True)
        log.warning("journal goes on in its reserved space", bytes=RESERVE_BYTES)
        return True


# --- reading ------------------------------------------------------------------------


def segments(directory: Path) -> list[Path]:
    """The segments of a journal, oldest first."""
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if path.stem.isdigit())


def read_segment(path: Path, offset: int = 0) -> Iterator[tuple[Entry, int]]:
    """Give the entries of a segment and the offset behind each, from an offset given earlier (0: the start).

    Ends at the end of the file or at the first bytes that cannot be an entry (a torn tail, or an entry that is
    being written). Steps over entries whose checksum or body is wrong.
    """
    with path.open("rb") as file:
        if offset == 0:
            if file.read(len(MAGIC)) != MAGIC:
                return
            offset = len(MAGIC)
        file.seek(offset)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if not 0 < length <= MAX_ENTRY + 1024:
                return
            body = file.read(length)
            if len(body) < length:
                return
            offset += _HEAD.size + length
            if zlib.crc32(body) != checksum:
                log.warning("journal entry with a wrong checksum stepped over", segment=path.name, offset=offset)
                continue
            try:
                entry = _decode(body)
            except msgspec.DecodeError as error:
                log.warning(
                    "journal entry that cannot be read stepped over", segment=path.name, offset=offset, error=str(error)
                )
                continue
            yield entry, offset


def _last_seq(path: Path) -> int:
    """The highest number used in the newest segment; one less than its name when it is empty."""
    last = int(path.stem) - 1
    for entry, _ in read_segment(path):
        last = max(last, entry.seq)
    return last
