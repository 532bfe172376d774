"""The store and the shipper, on SQLite and on a real Postgres."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from offhook.codecs.wav import read_wav
from offhook.gateway import journal as journal_module
from offhook.gateway import store as module
from offhook.gateway.journal import Entry, Journal, read_segment, segments
from offhook.gateway.store import Shipper, Store, StoreTooNew, StoreUnavailable
from offhook.gateway.tables import METADATA, MIGRATIONS, SCHEMA

WALL = 1_790_000_000.0
ENDED = {"status": "completed", "reason": "caller_hangup", "ended_by": "caller", "detail": ""}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of either kind."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite+aiosqlite:///{tmp_path}/db/calls.db"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = Store(url)
    assert await store.open()
    yield store
    await store.close()


def offered(call: str, seq: int, at: float = 0.0, **more: Any) -> Entry:
    data = {"carrier": "twilio", "carrier_call_id": f"CA-{call}", "from": "+15550142", "to": "+15550100", **more}
    return Entry(call, seq, "call.offered", WALL + at, 100 + at, data)


def whole_call(call: str, seq: int, at: float = 0.0, **more: Any) -> list[Entry]:
    return [
        offered(call, seq, at, **more),
        Entry(call, seq + 1, "call.answered", WALL + at + 1, 101 + at, {"format": "pcmu/8000"}),
        Entry(
            call, seq + 2, "turn", WALL + at + 2, 102 + at, {"voice_to_voice_ms": 640.5, "stages": {"thinking": 5.0}}
        ),
        Entry(call, seq + 3, "call.ended", WALL + at + 9, 109 + at, ENDED),
    ]


# --- the store --------------------------------------------------------------------------


async def test_a_call_and_its_events_come_back_as_they_went_in(store: Store) -> None:
    entries = whole_call("a", 1, fields={"Caller": "Zoë “Z” O'Neil; DROP TABLE calls;--", "n": [1, None, {"x": 0.1}]})
    assert await store.write(entries, node="n1") == 4
    assert await store.events("a") == entries
    (record,) = await store.calls()
    assert (record.id, record.node, record.status, record.talk_seconds) == ("a", "n1", "completed", 8.0)
    assert record.offered_at == datetime.fromtimestamp(WALL, UTC)
    assert record.voice_to_voice_p50_ms == 640.5


async def test_writing_again_changes_nothing(store: Store, url: str) -> None:
    entries = whole_call("a", 1) + whole_call("b", 5)
    await store.write(entries, node="n1")
    before = await store.calls()
    assert await store.write(entries, node="n2") == 0
    assert await store.write(entries[2:6], node="n2") == 0
    other = Store(url)  # one that remembers nothing
    assert await other.open()
    assert await other.write(entries, node="n2") == 0
    await other.close()
    assert await store.calls() == before
    assert len(await store.events("a")) == 4


async def test_a_record_grows_with_its_events_over_many_writes_and_processes(store: Store, url: str) -> None:
    entries = whole_call("a", 1)
    for one in entries[:2]:
        await store.write([one], node="n1")
    assert (await store.calls())[0].status == "live"
    other = Store(url)
    await other.open()
    for one in entries[2:]:
        await other.write([one], node="n1")
    late = Entry("a", 9, "carrier.status", WALL + 60, 160, {"status": "completed", "sequence": 3})
    await other.write([late], node="n1")
    (record,) = await other.calls()
    assert (record.status, record.turns, record.carrier_status, record.events) == ("completed", 1, "completed", 5)
    await other.close()


async def test_nothing_a_caller_sends_breaks_a_write(store: Store) -> None:
    nasty = {
        "from": "\x00+1\x1b[2J\u202e",
        "to": "x" * 10_000,
        "fields": {"a\x00": ["\x00", {"b": "\ud7ff\U0001f4de"}]},
    }
    assert await store.write([offered("a", 1, **nasty), *whole_call("b", 2)], node="n") == 5
    (found,) = await store.find("a")
    assert found.from_number == "\ufffd+1\x1b[2J\u202e"
    assert (await store.events("a"))[0].data["fields"] == {"a\ufffd": ["\ufffd", {"b": "\ud7ff\U0001f4de"}]}
    assert store.skipped == 0


async def test_an_entry_that_the_database_refuses_holds_up_no_other(store: Store) -> None:
    refused = Entry("a", 1 << 70, "note", WALL, 1.0)
    assert await store.write([*whole_call("b", 1), refused, *whole_call("c", 5)], node="n") == 8
    assert store.skipped == 1
    assert {record.id for record in await store.calls()} == {"b", "c"}


async def test_lists_are_filtered_and_newest_first(store: Store) -> None:
    for n in range(5):
        await store.write(whole_call(f"c{n}", n * 10 + 1, n * 60, **{"from": f"+4930{n}"}), node="n")
    await store.write([offered("live", 99, 600, to="sip:100%@example.com")], node="n")
    ids = [record.id for record in await store.calls()]
    assert ids == ["live", "c4", "c3", "c2", "c1", "c0"]
    assert [r.id for r in await store.calls(limit=2)] == ["live", "c4"]
    assert [r.id for r in await store.calls(status="live")] == ["live"]
    assert [r.id for r in await store.calls(number="+49 30-3")] == ["c3"]
    assert [r.id for r in await store.calls(number="4930", limit=1)] == ["c4"]
    assert [r.id for r in await store.calls(number="100_")] == []
    assert [r.id for r in await store.calls(number="sip:100%")] == ["live"]
    since = datetime.fromtimestamp(WALL + 180, UTC)
    assert [r.id for r in await store.calls(since=since)] == ["live", "c4", "c3"]


async def test_calls_are_found_by_id_its_beginning_and_the_carriers_id(store: Store) -> None:
    await store.write(whole_call("abc123", 1) + whole_call("abd456", 5) + whole_call("ab%", 9), node="n")
    assert [r.id for r in await store.find("abc123")] == ["abc123"]
    assert [r.id for r in await store.find("abc")] == ["abc123"]
    assert len(await store.find("ab")) == 3
    assert [r.id for r in await store.find("CA-abd456")] == ["abd456"]
    assert [r.id for r in await store.find("ab%")] == ["ab%"]
    assert await store.find("nope") == []


async def test_opening_twice_and_by_many_at_once_migrates_once(url: str) -> None:
    stores = [Store(url) for _ in range(4)]
    if url.startswith("sqlite"):
        assert [await store.open() for store in stores] == [True] * 4
    else:
        assert await asyncio.gather(*(store.open() for store in stores)) == [True] * 4
    assert await stores[0].open()
    await stores[0].write(whole_call("a", 1), node="n")
    assert len(await stores[3].calls()) == 1
    for store in stores:
        await store.close()


async def test_the_migrations_make_the_tables_that_the_code_uses(store: Store, url: str) -> None:
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(
                    sync, opts={"compare_type": True, "include_name": lambda name, *_: name != "alembic_version"}
                ),
                METADATA,
            )
        )
    await engine.dispose()
    assert differences == []


def test_the_newest_migration_is_the_one_the_code_expects() -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


async def test_a_database_of_a_newer_offhook_is_left_alone(store: Store, url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    other = Store(url)
    with pytest.raises(StoreTooNew, match="made by a newer offhook"):
        await other.open()
    await other.close()


async def test_the_database_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{tmp_path}/calls.db")
    await store.open()
    await store.write(whole_call("a", 1), node="n")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    await store.close()
    assert modes.pop("calls.db") == 0o600
    assert set(modes.values()) <= {0o600}


async def test_reading_never_makes_a_database(tmp_path: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{tmp_path}/none/calls.db")
    assert not await store.open_existing()
    await store.close()
    assert list(tmp_path.iterdir()) == []


async def test_an_empty_database_has_no_calls(url: str) -> None:
    if url.startswith("sqlite"):
        path = Path(url.partition("///")[2])
        path.parent.mkdir()
        path.touch()
    store = Store(url)
    assert not await store.open_existing()
    await store.close()


async def test_a_postgres_that_is_away_is_said_to_be_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("asyncpg")
    store = Store(f"postgresql+asyncpg://u:hunter2@/none?host={tmp_path}")
    assert not await store.open()
    with pytest.raises(StoreUnavailable) as caught:
        await store.calls()
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StoreUnavailable):
        await store.open_existing()
    await store.close()


# --- the shipper ------------------------------------------------------------------------


def record_calls(journal: Journal, *calls: str, end: bool = True) -> None:
    for call in calls:
        journal.append(call, "call.offered", {"carrier": "twilio", "from": "+1", "to": "+2"})
        journal.append(call, "call.answered", {"format": "pcmu/8000"}, sync=True)
        if end:
            journal.append(call, "call.ended", ENDED, sync=True)


async def run_once(directory: Path, url: str, *calls: str, end: bool = True, node: str = "n1") -> list[str]:
    """A process of its own life: start, reap, take calls, ship, stop. Gives the calls that were reaped."""
    journal, store = Journal(directory), Store(url)
    await store.open()
    shipper = Shipper(journal, store, node=node)
    reaped = await shipper.reap()
    shipper.start()
    record_calls(journal, *calls, end=end)
    await shipper.close()
    journal.close()
    await store.close()
    return reaped


async def test_entries_reach_the_store_while_calls_go_on(tmp_path: Path, store: Store) -> None:
    journal = Journal(tmp_path / "journal")
    shipper = Shipper(journal, store, node="n1")
    assert await shipper.reap() == []
    shipper.start()
    record_calls(journal, "a", end=False)
    deadline = time.monotonic() + 5
    while not await store.calls(status="live"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    journal.append("a", "call.ended", ENDED, sync=True)
    await shipper.close()
    (record,) = await store.calls()
    assert (record.status, record.node) == ("completed", "n1")
    assert shipper.shipped == 3
    assert shipper.lag == 0.0
    journal.close()


async def test_segments_that_are_shipped_are_removed_and_numbers_still_go_on(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 2000)
    journal = Journal(tmp_path)
    shipper = Shipper(journal, store, node="n1")
    for n in range(60):
        record_calls(journal, f"c{n}")
        if n % 10 == 9:
            await journal.flush()
    assert len(segments(tmp_path)) > 3
    shipper.start()
    await shipper.close()
    journal.close()
    assert len(segments(tmp_path)) == 1
    assert len(await store.calls(limit=100, status="completed")) == 60
    again = Journal(tmp_path)
    assert again.append("x", "note") == 181
    again.close()


async def test_orphans_are_closed_exactly_once(tmp_path: Path, url: str) -> None:
    assert await run_once(tmp_path / "j", url, "done") == []
    assert await run_once(tmp_path / "j", url, "open-1", "open-2", end=False) == []
    assert sorted(await run_once(tmp_path / "j", url, "next")) == ["open-1", "open-2"]
    for _ in range(2):
        assert await run_once(tmp_path / "j", url) == []
    store = Store(url)
    await store.open()
    for call in ("open-1", "open-2"):
        (record,) = await store.find(call)
        assert (record.status, record.reason, record.ended_by) == ("lost", "gateway_died", "gateway")
        ends = [entry for entry in await store.events(call) if entry.event == "call.ended"]
        assert len(ends) == 1
    assert [r.status for r in await store.find("next") + await store.find("done")] == ["completed"] * 2
    await store.close()


async def test_calls_of_another_node_are_left_alone(tmp_path: Path, url: str) -> None:
    await run_once(tmp_path / "a", url, "theirs", end=False, node="n1")
    assert await run_once(tmp_path / "b", url, "ours", end=False, node="n2") == []
    store = Store(url)
    await store.open()
    assert {record.status for record in await store.calls()} == {"live"}
    await store.close()


async def test_a_crash_between_reaping_and_shipping_closes_once(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_once(tmp_path / "j", url, "open", end=False)
    journal, store = Journal(tmp_path / "j"), Store(url)
    await store.open()
    assert await Shipper(journal, store, node="n1").reap() == ["open"]
    await journal.flush()
    journal.close()  # and nothing was shipped
    await store.close()
    assert await run_once(tmp_path / "j", url) == []
    store = Store(url)
    await store.open()
    (record,) = await store.calls()
    assert (record.status, record.events) == ("lost", 3)
    await store.close()


WRITER = """
import asyncio, sys, time
from pathlib import Path
from offhook.codecs.audio import PCMU
from offhook.gateway.journal import Journal
from offhook.gateway.recording import Recorder
from offhook.gateway.store import Shipper, Store

async def main():
    home = Path(sys.argv[1])
    journal, store, recorder = Journal(home / "journal"), Store(sys.argv[2]), Recorder(home / "wav", keep_free=0)
    await store.open()
    shipper = Shipper(journal, store, node="n1")
    await shipper.reap()
    shipper.start()
    recordings = []
    for call in ("early", "late", "over"):
        if call == "late":  # the store knows the early one, the journal alone knows the others
            while not await store.calls():
                await asyncio.sleep(0.01)
            await shipper.close()
        recording = recorder.open(call, PCMU)
        journal.append(call, "call.offered", {"carrier": "twilio", "from": "+1", "to": "+2"})
        journal.append(call, "call.answered", {"format": "pcmu/8000"}, sync=True)
        journal.append(call, "recording.started", {"path": str(recording.path)}, sync=True)
        start = time.monotonic() - 5
        for n in range(250):
            recording.caller(b"\\x10" * 160, start + n * 0.02)
        recordings.append(recording)
    journal.append("over", "call.ended", {"status": "completed", "reason": "caller_hangup", "ended_by": "caller"})
    await journal.flush()
    while not all(recording.path.exists() for recording in recordings):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    journal.append("early", "note", {}, sync=True)
    await journal.flush()
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_after_a_kill_every_call_is_closed_and_every_recording_can_be_heard(tmp_path: Path, url: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), url], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert b"ready\n" in iter(child.stdout.readline, b"")  # after its log lines
        os.kill(child.pid, signal.SIGKILL)
    killed_at = time.time()
    assert sorted(await run_once(tmp_path / "journal", url)) == ["early", "late"]
    assert await run_once(tmp_path / "journal", url) == []
    store = Store(url)
    await store.open()
    records = {record.id: record for record in await store.calls()}
    assert {id: record.status for id, record in records.items()} == {
        "early": "lost",
        "late": "lost",
        "over": "completed",
    }
    early = records["early"]
    assert early.ended_at is not None
    assert early.talk_seconds is not None
    assert early.answered_at is not None
    assert early.ended_at.timestamp() <= killed_at
    assert early.talk_seconds == pytest.approx((early.ended_at - early.answered_at).total_seconds(), abs=0.05)
    for record in records.values():
        assert record.recording_status == "gateway_died"
        assert record.recording_seconds is not None
        assert record.recording_seconds > 2
        assert read_wav(record.recording_path)[1] == 2
        stops = [entry for entry in await store.events(record.id) if entry.event == "recording.stopped"]
        assert len(stops) == 1
    await store.close()


async def test_a_recording_that_is_gone_is_said_to_be_missing(tmp_path: Path, url: str) -> None:
    journal, store = Journal(tmp_path / "j"), Store(url)
    await store.open()
    record_calls(journal, "a", end=False)
    journal.append("a", "recording.started", {"path": str(tmp_path / "gone.wav")})
    await Shipper(journal, store, node="n1").close()
    journal.close()
    assert await run_once(tmp_path / "j", url) == ["a"]
    (record,) = await store.calls()
    assert (record.recording_status, record.recording_path) == ("missing", str(tmp_path / "gone.wav"))
    await store.close()


async def test_a_torn_segment_is_shipped_as_far_as_it_goes(tmp_path: Path, store: Store) -> None:
    journal = Journal(tmp_path)
    record_calls(journal, "a", "b")
    journal.close()
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    again = Journal(tmp_path)
    shipper = Shipper(again, store, node="n1")
    assert await shipper.reap() == ["b"]
    shipper.start()
    await shipper.close()
    again.close()
    assert {r.id: r.status for r in await store.calls()} == {"a": "completed", "b": "lost"}
    assert not path.exists()


# --- a database that is away ------------------------------------------------------------


async def test_calls_arrive_once_the_database_is_there(
    tmp_path: Path, own_postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away at the start, away in between: nothing is lost, nothing is twice, orphans of before are closed."""
    monkeypatch.setattr(module, "RETRY", (0.05,))
    cluster = own_postgres
    url = cluster.database()
    await run_once(tmp_path / "j", url, "orphan", end=False)
    cluster.stop()
    journal, store = Journal(tmp_path / "j"), Store(url)
    assert not await store.open()
    shipper = Shipper(journal, store, node="n1")
    assert await shipper.reap() == []
    shipper.start()
    record_calls(journal, *(f"first-{n}" for n in range(20)))
    await journal.flush()
    await asyncio.sleep(0.2)
    assert shipper.lag > 0
    await asyncio.to_thread(cluster.start)
    await _shipped(shipper, store, 20)
    await asyncio.to_thread(cluster.stop)
    record_calls(journal, *(f"second-{n}" for n in range(20)))
    await journal.flush()
    await asyncio.sleep(0.2)
    await asyncio.to_thread(cluster.start)
    await _shipped(shipper, store, 40)
    await shipper.close()
    journal.close()
    records = await store.calls(limit=100)
    assert len(records) == 41
    assert {r.status for r in records if r.id != "orphan"} == {"completed"}
    assert [r.status for r in records if r.id == "orphan"] == ["lost"]
    assert all([len(await store.events(r.id)) == 3 for r in records])
    assert shipper.lag == 0.0
    await store.close()


async def _shipped(shipper: Shipper, store: Store, completed: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if len(await store.calls(status="completed", limit=100)) == completed:
                return
        except StoreUnavailable:
            pass
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_closing_while_the_database_is_away_keeps_everything_in_the_journal(tmp_path: Path) -> None:
    pytest.importorskip("asyncpg")
    journal = Journal(tmp_path / "j")
    store = Store(f"postgresql+asyncpg://u@/none?host={tmp_path}")
    shipper = Shipper(journal, store, node="n1")
    assert await shipper.reap() == []
    shipper.start()
    record_calls(journal, "a")
    began = time.monotonic()
    await shipper.close(budget=0.3)
    assert time.monotonic() - began < 2
    journal.close()
    await store.close()
    assert sum(1 for path in segments(tmp_path / "j") for _ in read_segment(path)) == 3


async def test_a_mistake_in_shipping_is_outlived(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", (0.01,))
    monkeypatch.setattr(module, "SHIP_INTERVAL", 0.01)
    calls = 0
    write = Store.write

    async def flaky(self: Store, entries: Any, *, node: str) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a bug")
        return await write(self, entries, node=node)

    monkeypatch.setattr(Store, "write", flaky)
    journal = Journal(tmp_path / "j")
    shipper = Shipper(journal, store, node="n1")
    shipper.start()
    record_calls(journal, "a")
    await journal.flush()
    await shipper.close()
    assert [r.status for r in await store.calls()] == ["completed"]
    journal.close()


# --- what it costs ----------------------------------------------------------------------


@pytest.mark.timing
async def test_shipping_costs_a_call_little(tmp_path: Path) -> None:
    store = Store(f"sqlite+aiosqlite:///{tmp_path}/calls.db")
    await store.open()
    entries = [entry for n in range(250) for entry in whole_call(f"c{n}", n * 4 + 1)]
    best = 1.0
    for at in range(0, 1000, 100):
        started = time.process_time()
        await store.write(entries[at : at + 100], node="n")
        best = min(best, (time.process_time() - started) / 100)
    assert best < 300e-6
    await store.close()
