"""Call records in a database: SQLite on one machine, Postgres for several.

`Store` keeps two tables, a row a call and a row an event. Every write is idempotent: an event is known by (call id,
seq), and a call's row is folded from its events. `Shipper` moves the journal into the store and closes what a killed
process left open. Nothing here is on the way of audio, and the database may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from offhook.codecs.wav import WavError
from offhook.gateway.journal import Entry, Journal, read_segment, segments
from offhook.gateway.numbers import canonical
from offhook.gateway.reasons import CallStatus, EndedBy, EndReason
from offhook.gateway.recording import recover
from offhook.gateway.records import RECORDING, CallFold, CallRecord
from offhook.gateway.tables import CALLS, EVENTS, StoreTooNew, migrate

__all__ = ["Shipper", "Store", "StoreTooNew", "StoreUnavailable"]

log = structlog.get_logger("offhook.gateway.store")

CONNECT_TIMEOUT: Final = 5.0
"""Seconds to reach the database."""
QUERY_TIMEOUT: Final = 15.0
"""Seconds for one statement; the journal keeps what a slow database does not take."""

MAX_FOLDS: Final = 5000
"""Records kept in the making; one that fell out is folded again from its events."""

BATCH: Final = 100
"""Entries a transaction: about 3 ms of the event loop, so that no call hears it."""
SHIP_INTERVAL: Final = 0.5
"""Seconds between two looks at the journal."""
RETRY: Final = (1.0, 2.0, 5.0, 15.0)
"""Seconds until the next try while the database is away."""


class StoreUnavailable(Exception):
    """The database cannot be reached or does not answer; what was to be written is still in the journal."""


class Store:
    """Call records and their events.

    Args:
        url: SQLAlchemy URL with an async driver.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        self._engine: AsyncEngine | None = None
        self._folds: OrderedDict[str, CallFold] = OrderedDict()
        # Statements are made once: each is hundreds of objects in cycles, which the collector would have to find.
        insert = sqlite.insert if self._sqlite else postgresql.insert
        self._add_events = insert(EVENTS).on_conflict_do_nothing()
        upsert = insert(CALLS)
        columns = {name: upsert.excluded[name] for name in _COLUMNS if name != "id"}
        self._write_calls = upsert.on_conflict_do_update(index_elements=["id"], set_=columns)
        self._migrated = False
        self.skipped = 0
        "Events that the database refused for good; each is logged."

    @property
    def is_open(self) -> bool:
        """True once the database was reached and has our tables."""
        return self._migrated

    async def open(self) -> bool:
        """Connect and migrate; False when the database cannot be reached now (the shipper tries again).

        Raises:
            StoreTooNew: the database was made by a newer offhook.
        """
        if not self._migrated:
            try:
                async with self._connect().begin() as connection:
                    await migrate(connection)
                await self._warm()
            except (SQLAlchemyError, OSError, TimeoutError) as error:
                log.warning("store is away; the journal keeps what it misses", url=self._shown, error=_short(error))
                return False
            self._migrated = True
            log.info("store is open", url=self._shown)
        return True

    async def open_existing(self) -> bool:
        """Connect to a database that is there, for reading; False when it has no calls table.

        Raises:
            StoreUnavailable: it cannot be reached.
        """
        if self._is_missing():
            return False
        try:
            async with self._connect().connect() as connection:
                names = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"{self._shown}: {_short(error)}") from error
        self._migrated = "calls" in names
        return self._migrated

    async def close(self) -> None:
        """Let go of every connection."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None
            self._migrated = False

    def _is_missing(self) -> bool:
        return self._sqlite and not Path(self._url.database or "").exists()

    @property
    def _shown(self) -> str:
        return self._url.render_as_string(hide_password=True)

    def _connect(self) -> AsyncEngine:
        if self._engine is None:
            more: dict[str, Any]
            if self._sqlite:
                if self._url.database and self._url.database != ":memory:":
                    file = Path(self._url.database)
                    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    file.touch(mode=0o600)  # who called is nobody else's business
                more = {"connect_args": {"timeout": CONNECT_TIMEOUT}}
            else:
                more = {
                    "connect_args": {"timeout": CONNECT_TIMEOUT, "command_timeout": QUERY_TIMEOUT},
                    "pool_pre_ping": True,
                    "pool_size": 2,
                }
            self._engine = create_async_engine(
                self._url, json_serializer=_json, json_deserializer=msgspec.json.decode, **more
            )
            if self._sqlite:
                sa.event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
        return self._engine

    # --- writing

    async def _warm(self) -> None:
        """Write once and take it back: compiling the statements takes 50 ms, which the first call would hear."""
        async with self._connect().connect() as connection, connection.begin() as transaction:
            await self._write_into(connection, [Entry("warm", 0, "warm", 0.0, 0.0)], "")
            await transaction.rollback()
        self._folds.clear()

    async def write(self, entries: Sequence[Entry], *, node: str) -> int:
        """Put entries in, in one transaction; those that are there already change nothing.

        Returns:
            How many were new.

        Raises:
            StoreUnavailable: nothing was written.
        """
        if not entries:
            return 0
        try:
            return await self._write(entries, node)
        except (SQLAlchemyError, OSError, TimeoutError, OverflowError) as error:
            for entry in entries:
                self._folds.pop(_clean(entry.call), None)  # they are ahead of the database now
            if not _is_fault_of_data(error):
                raise StoreUnavailable(_short(error)) from error
            if len(entries) > 1:  # one of them is to blame; the others must not wait for it for ever
                return sum([await self.write([entry], node=node) for entry in entries])
            self.skipped += 1
            entry = entries[0]
            log.error(
                "store refuses an entry", call_id=entry.call, seq=entry.seq, name=entry.event, error=_short(error)
            )
            return 0

    async def _write(self, entries: Sequence[Entry], node: str) -> int:
        async with self._connect().begin() as connection:
            new, touched = await self._write_into(connection, entries, node)
        for call_id, fold in touched.items():
            if fold.record.status != CallStatus.LIVE:
                del self._folds[call_id]
        while len(self._folds) > MAX_FOLDS:
            self._folds.popitem(last=False)
        return new

    async def _write_into(
        self, connection: AsyncConnection, entries: Sequence[Entry], node: str
    ) -> tuple[int, dict[str, CallFold]]:
        """Write those that are new; how many, and the folds they changed."""
        cleaned = [_cleaned(entry) for entry in entries]
        await self._load_folds(connection, {entry.call for entry in cleaned}, node)
        touched: dict[str, CallFold] = {}
        new: list[dict[str, Any]] = []
        for entry in cleaned:
            fold = self._folds[entry.call]
            if fold.apply(entry):
                touched[entry.call] = fold
                row = msgspec.structs.asdict(entry)
                row["call_id"] = row.pop("call")
                new.append(row)
        if new:
            await connection.execute(self._add_events, new)
            await connection.execute(self._write_calls, [fold.record.columns() for fold in touched.values()])
        return len(new), touched

    async def _load_folds(self, connection: AsyncConnection, call_ids: set[str], node: str) -> None:
        """Have a fold for each of the calls, with the events that the database knows."""
        missing = sorted(call_ids - self._folds.keys())
        for call_id in missing:
            self._folds[call_id] = CallFold(CallRecord(call_id, node=node))
        if not missing:
            return
        for row in await connection.execute(_NODES, {"ids": missing}):
            self._folds[row.id].record.node = row.node
        for row in await connection.execute(_EVENTS_OF, {"ids": missing}):
            self._folds[row.call_id].apply(_entry(row))

    # --- reading

    async def calls(
        self, *, since: datetime | None = None, number: str = "", status: str = "", limit: int = 50
    ) -> list[CallRecord]:
        """The newest calls first.

        Args:
            since: an aware moment; calls offered before it are left out.
            number: part of the caller's or the called number, in any notation.
            status: such as `completed`.
            limit: most rows.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        query = sa.select(CALLS).order_by(CALLS.c.offered_at.desc(), CALLS.c.id).limit(limit)
        if since is not None:
            query = query.where(CALLS.c.offered_at >= since)
        if status:
            query = query.where(CALLS.c.status == status)
        if number:
            part = canonical(number)
            query = query.where(
                CALLS.c.from_number.contains(part, autoescape=True) | CALLS.c.to_number.contains(part, autoescape=True)
            )
        return [_record(row) for row in await self._read(query)]

    async def find(self, id: str) -> list[CallRecord]:
        """The call of an id, of the beginning of an id, or of a carrier's id; several when that is ambiguous."""
        exact = sa.select(CALLS).where((CALLS.c.id == id) | (CALLS.c.carrier_call_id == id)).limit(10)
        if rows := await self._read(exact):
            return [_record(row) for row in rows]
        begins = sa.select(CALLS).where(CALLS.c.id.startswith(id, autoescape=True))
        return [_record(row) for row in await self._read(begins.order_by(CALLS.c.offered_at.desc()).limit(10))]

    async def events(self, call_id: str) -> list[Entry]:
        """Every event of a call, in order."""
        query = sa.select(EVENTS).where(EVENTS.c.call_id == call_id).order_by(EVENTS.c.seq)
        return [_entry(row) for row in await self._read(query)]

    async def unfinished(self, node: str) -> list[CallRecord]:
        """Calls of a node that are live, or whose recording is still open."""
        open_call = CALLS.c.status == CallStatus.LIVE.value
        open_recording = CALLS.c.recording_status == RECORDING
        query = sa.select(CALLS).where(CALLS.c.node == node, open_call | open_recording).order_by(CALLS.c.offered_at)
        return [_record(row) for row in await self._read(query)]

    async def _read(self, query: sa.Select[Any]) -> Sequence[Any]:
        try:
            async with self._connect().connect() as connection:
                rows: Sequence[Any] = (await connection.execute(query)).all()
                return rows
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"{self._shown}: {_short(error)}") from error


class Shipper:
    """Moves journal entries into the store, oldest first, and removes segments that are in it.

    Entries of earlier processes go first. Then, before anything of this process is in the store, every call of
    this node that is still open there belongs to a process that died: it is closed, once, by an entry in the journal.

    Args:
        node: name of this node, the same at every start, no other node's; empty: the journal's own.
    """

    def __init__(self, journal: Journal, store: Store, *, node: str = "") -> None:
        self._journal, self._store, self._node = journal, store, node or journal.node
        self._left_over = list(journal.left_over)
        self._path: Path | None = self._left_over[0] if self._left_over else None
        self._offset = 0
        self._read_up_to = -1
        "Entries the journal had written when everything in it was found shipped."
        self._reaped = False
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._caught_up_at = time.time()
        self._oldest: float | None = None
        self.shipped = 0
        "Entries that this process moved."

    @property
    def lag(self) -> float:
        """Seconds since the oldest entry was made that is not known to be in the store; 0 when there is none."""
        return 0.0 if self._oldest is None else max(0.0, time.time() - self._oldest)

    async def reap(self) -> list[str]:
        """Ship what earlier processes left and close the calls they left open; the ids of those calls.

        When the database is away, nothing happens now: the task does it first thing when it is back.
        """
        try:
            return await self._reap()
        except StoreUnavailable as error:
            log.warning("store is away; calls left open are closed when it is back", error=str(error))
            return []

    def start(self) -> None:
        """Begin to ship."""
        self._task = asyncio.create_task(self._run(), name="shipper")

    async def close(self, budget: float = 5.0) -> None:
        """Ship what there is, for at most `budget` seconds; the journal keeps the rest for the next start."""
        try:
            async with asyncio.timeout(budget):
                await self._journal.flush()
                self._closing.set()
                if self._task is not None:
                    await asyncio.shield(self._task)
        except TimeoutError:
            log.warning("store is behind; the journal keeps the rest", lag_seconds=round(self.lag, 1))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        failures = 0
        while True:
            closing = self._closing.is_set()
            try:
                await self._reap()
                while await self._ship_some():
                    pass
                if failures:
                    log.info("store is back", shipped=self.shipped)
                failures = 0
                if closing:
                    return
            except StoreUnavailable as error:
                if failures == 0:
                    log.warning("store is away; the journal keeps what it misses", error=str(error))
                failures += 1
            except Exception:  # the root of a task that must outlive its mistakes: calls depend on nothing here
                log.exception("shipping failed")
                failures += 1
            if failures and self._oldest is None:
                self._oldest = self._caught_up_at
            pause = RETRY[min(failures, len(RETRY)) - 1] if failures else SHIP_INTERVAL
            if closing:
                await asyncio.sleep(pause)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._closing.wait()

    async def _reap(self) -> list[str]:
        if self._reaped:
            return []
        if not await self._store.open():
            raise StoreUnavailable("the database cannot be reached")
        while self._path is not None and self._path in self._left_over:
            await self._ship_some()
        closed: list[str] = []
        for record in await self._store.unfinished(self._node):
            if record.status == CallStatus.LIVE:
                await self._close_call(record)
                closed.append(record.id)
            if record.recording_status == RECORDING:
                await self._close_recording(record)
        self._reaped = True
        if closed:
            log.warning("closed calls that an earlier process left open", calls=len(closed), node=self._node)
        return closed

    async def _close_call(self, record: CallRecord) -> None:
        last = (await self._store.events(record.id))[-1]
        ended = {
            "status": CallStatus.LOST,
            "reason": EndReason.GATEWAY_DIED,
            "ended_by": EndedBy.GATEWAY,
            "detail": f"the process on {self._node} ended without closing the call",
            "last_at": last.at,
            "last_mono": last.mono,
        }
        self._journal.append(record.id, "call.ended", ended, sync=True)
        log.warning(
            "call lost with its process", call_id=record.id, carrier=record.carrier, reason=EndReason.GATEWAY_DIED.value
        )

    async def _close_recording(self, record: CallRecord) -> None:
        path = Path(record.recording_path)
        stopped: dict[str, Any]
        try:
            found = await asyncio.to_thread(recover, path)
        except (OSError, WavError) as error:
            stopped = {"reason": "missing", "path": str(path), "error": str(error)}
        else:
            stopped = {
                "reason": found.reason,
                "path": str(path),
                "seconds": found.seconds,
                "bytes": found.bytes,
                "sha256": found.sha256,
            }
        self._journal.append(record.id, "recording.stopped", stopped, sync=True)

    async def _ship_some(self) -> bool:
        """Ship one batch; False when there is nothing to ship for now."""
        written = self._journal.stats.written
        if written == self._read_up_to:
            return False
        path = self._path
        if path is None:
            found = segments(self._journal.directory)
            path = self._path = found[0]
        entries, offset = await asyncio.to_thread(_read_batch, path, self._offset)
        if entries:
            self._oldest = entries[0].at
            await self._store.write(entries, node=self._node)
            self._offset = offset
            self.shipped += len(entries)
            return True
        if await asyncio.to_thread(self._next_segment, path):
            return True
        self._oldest, self._caught_up_at = None, time.time()
        self._read_up_to = written
        return False

    def _next_segment(self, path: Path) -> bool:
        """Go on to the next segment when there is one, and remove this one: everything of it is in the store."""
        found = segments(self._journal.directory)
        later = [other for other in found if other.name > path.name]
        if not later:
            return False
        if next(read_segment(path, self._offset), None) is not None:
            return True  # written after we looked, before the next segment was opened
        torn = path.stat().st_size - self._offset if self._offset else 0
        if torn:
            log.warning("journal segment has a torn tail", segment=path.name, bytes=torn)
        path.unlink()
        self._path, self._offset = later[0], 0
        return True


def _read_batch(path: Path, offset: int) -> tuple[list[Entry], int]:
    entries: list[Entry] = []
    for entry, end in read_segment(path, offset):
        entries.append(entry)
        offset = end
        if len(entries) == BATCH:
            break
    return entries, offset


_COLUMNS: Final = tuple(item.name for item in fields(CallRecord))

_NODES: Final = sa.select(CALLS.c.id, CALLS.c.node).where(CALLS.c.id.in_(sa.bindparam("ids", expanding=True)))

_EVENTS_OF: Final = (
    sa.select(EVENTS)
    .where(EVENTS.c.call_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(EVENTS.c.call_id, EVENTS.c.seq)
)


def _record(row: Any) -> CallRecord:
    return CallRecord(**{name: getattr(row, name) for name in _COLUMNS})


def _entry(row: Any) -> Entry:
    return Entry(row.call_id, row.seq, row.event, row.at, row.mono, row.data)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _cleaned(entry: Entry) -> Entry:
    """The same entry, fit for every database."""
    return Entry(_clean(entry.call), entry.seq, _clean(entry.event), entry.at, entry.mono, _clean_value(entry.data))


def _clean(text: str) -> str:
    # Postgres has no NUL in text.
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, dict):
        return {_clean(key): _clean_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean_value(item) for item in value]
    return value


def _is_fault_of_data(error: BaseException) -> bool:
    """Whether the very values are refused, so that trying again is of no use."""
    if isinstance(error, OverflowError):  # a number too large for SQLite
        return True
    if not isinstance(error, StatementError):
        return False
    if not isinstance(error, DBAPIError) or isinstance(error, DataError | IntegrityError):
        return True
    state = str(getattr(error.orig, "sqlstate", None) or "")
    # Classes 22 and 23 of SQLSTATE: data exception, integrity constraint violation.
    return state[:2] in ("22", "23") or isinstance(getattr(error.orig, "__cause__", None), ValueError)


def _short(error: BaseException) -> str:
    """One line of an error, without the statement and its parameters (they are callers' data)."""
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"{type(origin).__name__}: {origin}".splitlines()[0][:300]


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Readers do not wait for the writer; a power cut may lose the last transactions, which the journal still has.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={int(CONNECT_TIMEOUT * 1000)}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
