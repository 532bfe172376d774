"""The journal: order, durability, torn tails, broken bytes, full disks, killed processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from offhook.gateway import journal as module
from offhook.gateway.journal import MAGIC, MAX_ENTRY, Entry, Journal, JournalBusy, read_segment, segments


def entries(directory: Path) -> list[Entry]:
    return [entry for path in segments(directory) for entry, _ in read_segment(path)]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


def fill(directory: Path, count: int) -> Path:
    """A journal of one segment with so many entries, closed."""
    journal = Journal(directory)
    for n in range(count):
        journal.append(f"call-{n % 3}", "note", {"n": n})
    journal.close()
    return segments(directory)[-1]


# --- what goes in comes out -------------------------------------------------------------


async def test_entries_come_back_in_order_with_their_stamps(tmp_path: Path) -> None:
    journal = Journal(tmp_path, wall=lambda: 1_700_000_000.5, monotonic=lambda: time.monotonic() * 0 + 7.25)
    assert journal.append("a", "call.offered", {"to": "+1", "nested": {"x": [1, None, 0.5, "ü"]}}) == 1
    assert journal.append("b", "dtmf", sync=True) == 2
    await journal.flush()
    assert entries(tmp_path) == [
        Entry("a", 1, "call.offered", 1_700_000_000.5, 7.25, {"to": "+1", "nested": {"x": [1, None, 0.5, "ü"]}}),
        Entry("b", 2, "dtmf", 1_700_000_000.5, 7.25, {}),
    ]
    journal.close()


async def test_data_may_change_after_it_was_appended(journal: Journal) -> None:
    data = {"n": 1}
    journal.append("a", "note", data)
    data["n"] = 2
    await journal.flush()
    assert entries(journal.directory)[0].data == {"n": 1}


async def test_plain_entries_are_written_soon_without_being_asked(journal: Journal) -> None:
    journal.append("a", "note")
    deadline = time.monotonic() + 2
    while not entries(journal.directory):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert journal.stats.waiting_bytes == 0


async def test_what_cannot_be_encoded_leaves_a_note_and_the_call_alone(journal: Journal) -> None:
    deep: dict[str, object] = {}
    deep["deep"] = deep
    for data in (
        {"path": Path("/x")},
        {"bad": "\ud800"},
        deep,
        {"large": "x" * (MAX_ENTRY + 1)},
        {"nan": float("nan")},
    ):
        journal.append("a", "note", data)  # type: ignore[arg-type]
    journal.append("\ud800", "note", {})
    await journal.flush()
    path, bad, circle, large, nan, call = entries(journal.directory)
    assert path.data == {"path": "/x"}
    assert "could not be encoded" in bad.data["not_journaled"]
    assert "could not be encoded" in circle.data["not_journaled"]
    assert "limit 1048576" in large.data["not_journaled"]
    assert nan.data == {"nan": None}
    assert call.call == "?"
    assert journal.stats.replaced == 4


async def test_the_files_are_their_owners_alone(journal: Journal) -> None:
    assert journal.directory.stat().st_mode & 0o777 == 0o700
    assert segments(journal.directory)[0].stat().st_mode & 0o777 == 0o600


async def test_flush_waits_for_everything_before_it(journal: Journal) -> None:
    for n in range(1000):
        journal.append("a", "note", {"n": n})
    flushes = [asyncio.create_task(journal.flush()) for _ in range(5)]
    await asyncio.gather(*flushes)
    assert len(entries(journal.directory)) == 1000
    syncs = journal.stats.syncs
    await journal.flush()
    assert journal.stats.syncs == syncs


async def test_an_answer_is_synced_at_once_and_plain_entries_within_a_second(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[float] = []
    fsync = os.fsync

    def counting(file: int) -> None:
        if threading.current_thread().name == "journal":
            synced.append(time.monotonic())
        fsync(file)

    monkeypatch.setattr(module.os, "fsync", counting)
    began = time.monotonic()
    journal.append("a", "call.answered", sync=True)
    while not synced:
        await asyncio.sleep(0.001)
        assert time.monotonic() - began < 1
    assert synced[0] - began < 0.09  # it did not wait for FLUSH_INTERVAL
    journal.append("a", "note")
    while len(synced) < 2:
        await asyncio.sleep(0.01)
        assert time.monotonic() - began < 3


async def test_a_large_journal_has_several_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 2000)
    journal = Journal(tmp_path)
    for n in range(200):
        journal.append("a", "note", {"n": n, "text": "x" * 50})
        if n % 10 == 9:
            await journal.flush()
    journal.close()
    found = segments(tmp_path)
    assert len(found) > 5
    assert [entry.data["n"] for entry in entries(tmp_path)] == list(range(200))
    for path in found:
        first = next(read_segment(path))[0]
        assert path.stem == f"{first.seq:020d}"
        assert path.stat().st_size < 4000


# --- one process after the other --------------------------------------------------------


async def test_numbers_go_on_where_the_last_process_stopped(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    assert [first.append("a", "note") for _ in range(3)] == [1, 2, 3]
    first.close()
    second = Journal(tmp_path)
    assert second.append("a", "note") == 4
    assert [path.name for path in second.left_over] == ["00000000000000000001.journal"]
    second.close()
    third = Journal(tmp_path)
    assert third.append("a", "note") == 5
    assert len(third.left_over) == 2
    third.close()
    assert [entry.seq for entry in entries(tmp_path)] == [1, 2, 3, 4, 5]


async def test_a_process_that_wrote_nothing_leaves_nothing_over(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    second = Journal(tmp_path)
    assert second.left_over == ()
    assert second.append("a", "note") == 1
    second.close()


async def test_two_processes_never_write_one_journal(journal: Journal) -> None:
    with pytest.raises(JournalBusy, match="stop it, or give this one a data_dir of its own"):
        Journal(journal.directory)


async def test_a_journal_remembers_who_writes_it(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    name = first.node
    first.close()
    second = Journal(tmp_path)
    assert second.node == name
    assert name
    second.close()


# --- broken bytes -----------------------------------------------------------------------


def test_every_torn_tail_gives_the_entries_before_it(tmp_path: Path) -> None:
    path = fill(tmp_path, 4)
    data = path.read_bytes()
    ends = [0, *(end for _, end in read_segment(path))]
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = sum(0 < end <= size for end in ends)
        assert len(list(read_segment(path))) == whole


def test_reading_goes_on_from_where_it_stopped(tmp_path: Path) -> None:
    path = fill(tmp_path, 5)
    seen = list(read_segment(path))
    for index, (_, offset) in enumerate(seen):
        assert list(read_segment(path, offset)) == seen[index + 1 :]


def test_a_broken_entry_is_stepped_over(tmp_path: Path) -> None:
    path = fill(tmp_path, 5)
    ends = [end for _, end in read_segment(path)]
    data = bytearray(path.read_bytes())
    data[ends[1] + 20] ^= 0xFF  # within the body of the third
    path.write_bytes(data)
    assert [entry.data["n"] for entry, _ in read_segment(path)] == [0, 1, 3, 4]


@pytest.mark.parametrize("length", [0, MAX_ENTRY * 2, 0xFFFFFFFF])
def test_a_length_that_cannot_be_ends_the_segment(tmp_path: Path, length: int) -> None:
    path = fill(tmp_path, 3)
    ends = [end for _, end in read_segment(path)]
    data = bytearray(path.read_bytes())
    data[ends[0] : ends[0] + 4] = length.to_bytes(4, "big")
    path.write_bytes(data)
    assert [entry.data["n"] for entry, _ in read_segment(path)] == [0]


def test_an_entry_of_another_shape_is_stepped_over(tmp_path: Path) -> None:
    path = fill(tmp_path, 1)
    body = b'{"call": 5}'
    with path.open("ab") as file:
        file.write(len(body).to_bytes(4, "big") + module.zlib.crc32(body).to_bytes(4, "big") + body)
    assert len(list(read_segment(path))) == 1


@pytest.mark.parametrize("data", [b"", b"offhook journal 2\n", MAGIC[:-1], os.urandom(300)])
def test_what_is_no_journal_has_no_entries(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "00000000000000000001.journal"
    path.write_bytes(data)
    assert list(read_segment(path)) == []


async def test_after_a_torn_tail_a_new_segment_is_begun(tmp_path: Path) -> None:
    path = fill(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:-5])
    journal = Journal(tmp_path)
    assert journal.append("a", "note", {"n": 99}) == 3
    journal.close()
    assert [entry.data["n"] for entry in entries(tmp_path)] == [0, 1, 99]


# --- a killed process -------------------------------------------------------------------

WRITER = """
import asyncio, sys
from pathlib import Path
from offhook.gateway.journal import Journal

async def main():
    journal = Journal(Path(sys.argv[1]))
    n = 0
    while True:
        for _ in range(5):
            n += 1
            journal.append("a", "note", {"n": n})
        if n == 500:
            await journal.flush()
            print(n, flush=True)
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


def test_a_killed_process_loses_no_more_than_the_last_tenth_of_a_second(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        flushed = int(child.stdout.readline())
        time.sleep(0.25)
        os.kill(child.pid, signal.SIGKILL)
    found = [entry.data["n"] for entry in entries(tmp_path)]
    assert found == list(range(1, len(found) + 1))
    assert len(found) > flushed
    journal = Journal(tmp_path)  # the lock died with the process
    assert journal.append("a", "note") == len(found) + 1
    journal.close()


# --- a full disk ------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of one megabyte; skipped where it may not be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    monkeypatch.setattr(module, "RESERVE_BYTES", 200_000)
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(module, "FLUSH_INTERVAL", 0.01)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def use_up(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


async def test_a_full_disk_is_outlived(small_disk: Path) -> None:
    journal = Journal(small_disk / "journal")
    journal.append("a", "note", {"n": 0})
    await journal.flush()
    use_up(small_disk)
    n = 0
    while not journal.stats.disk_full:  # the page that is begun still takes some
        n += 1
        journal.append("a", "note", {"n": n, "text": "x" * 500})
        await asyncio.sleep(0.001)
    # The reserve: everything is still written.
    await asyncio.wait_for(journal.flush(), 5)
    assert not (journal.directory / module.RESERVE_NAME).exists()
    assert [entry.data["n"] for entry in entries(journal.directory)] == list(range(n + 1))
    # The reserve is used up too: entries wait, whole.
    for _ in range(600):
        n += 1
        journal.append("a", "note", {"n": n, "text": "x" * 500})
    n += 1
    journal.append("a", "call.ended", {"n": n}, sync=True)
    await asyncio.sleep(0.1)
    assert journal.stats.waiting_bytes > 0
    on_disk = [entry.data["n"] for entry in entries(journal.directory)]
    assert on_disk == list(range(len(on_disk)))
    # Room again: all of them are written, in order, and there is a reserve again.
    (small_disk / "ballast").unlink()
    await asyncio.wait_for(journal.flush(), 5)
    assert [entry.data["n"] for entry in entries(journal.directory)] == list(range(n + 1))
    assert not journal.stats.disk_full
    assert journal.stats.waiting_bytes == journal.stats.dropped == 0
    assert (journal.directory / module.RESERVE_NAME).stat().st_size == 200_000
    journal.close()


async def test_what_memory_cannot_hold_is_dropped_but_never_an_end(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 50_000)
    journal = Journal(small_disk / "journal")
    (journal.directory / module.RESERVE_NAME).unlink()
    use_up(small_disk)
    for n in range(500):
        journal.append("a", "note", {"n": n, "text": "x" * 500})
        if n % 100 == 50:
            journal.append("a", "call.ended", {"n": n}, sync=True)
        if n % 20 == 0:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.05)
    assert journal.stats.dropped > 0
    assert journal.stats.waiting_bytes < 60_000
    (small_disk / "ballast").unlink()
    await asyncio.wait_for(journal.flush(), 5)
    ends = [entry.data["n"] for entry in entries(journal.directory) if entry.event == "call.ended"]
    assert ends == [50, 150, 250, 350, 450]
    assert journal.stats.written + journal.stats.dropped == 505
    journal.close()


async def test_closing_on_a_full_disk_does_not_hang(small_disk: Path) -> None:
    journal = Journal(small_disk / "journal")
    (journal.directory / module.RESERVE_NAME).unlink()
    use_up(small_disk)
    for _ in range(50):
        journal.append("a", "note", {"text": "x" * 500})
    flush = asyncio.create_task(journal.flush())
    await asyncio.sleep(0.05)
    assert not flush.done()
    await asyncio.to_thread(journal.close)
    await asyncio.wait_for(flush, 5)
    assert journal.stats.dropped > 0


# --- what it costs ----------------------------------------------------------------------


@pytest.mark.timing
async def test_an_entry_costs_the_event_loop_microseconds(journal: Journal) -> None:
    data = {"utterance": 5, "voice_to_voice_ms": 640.5, "stages": {"endpointing": 300.0, "thinking": 12.5}}
    best = 1.0
    for _ in range(20):
        started = time.thread_time()
        for _ in range(50):
            journal.append("0123456789abcdef0123456789abcdef", "turn", data)
        best = min(best, (time.thread_time() - started) / 50)
    assert best < 15e-6
    await journal.flush()
