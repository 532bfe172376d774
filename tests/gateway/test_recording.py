"""Recordings: what is on disk, at the end and at any moment before; what a call pays for one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from offhook.codecs.audio import L16_8K, PCMU
from offhook.codecs.wav import WavError, read_wav
from offhook.gateway import recording as module
from offhook.gateway.recording import MAX_QUEUED, Recorder, Recording, RecordingResult, recover

TONE = (np.sin(np.arange(160) * 2 * np.pi * 1000 / 8000) * 10_000).astype("<i2").tobytes()


def channels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    format, count, data = read_wav(path)
    assert (format, count) == (L16_8K, 2)
    samples = np.frombuffer(data, "<i2").reshape(-1, 2)
    return samples[:, 0], samples[:, 1]


def feed(recording: Recording, seconds: float, start: float) -> None:
    """A caller that is loud and an agent that is loud from the second half on."""
    frames = int(seconds * 50)
    for n in range(frames):
        recording.caller(TONE, start + n * 0.02)
        if n >= frames // 2:
            recording.agent(TONE, start + n * 0.02)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at recordings more often, so that nobody waits."""
    monkeypatch.setattr(module, "INTERVAL", 0.02)


@pytest.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[Recorder]:
    recorder = Recorder(tmp_path / "wav", keep_free=0)
    yield recorder
    await recorder.close()


async def test_a_recording_is_whole_private_and_described(recorder: Recorder) -> None:
    recording = recorder.open("call-1", L16_8K)
    feed(recording, 4.0, time.monotonic() - 4.0)
    result = await recording.close()
    assert result.reason == "complete"
    assert result.path == recording.path
    assert result.seconds == pytest.approx(4.0, abs=0.01)
    assert result.bytes == recording.path.stat().st_size
    assert result.sha256 == hashlib.sha256(recording.path.read_bytes()).hexdigest()
    left, right = channels(recording.path)
    assert np.abs(left[:32_000]).max() > 9000
    assert not right[:16_000].any()
    assert np.abs(right[16_000:32_000]).max() > 9000
    assert recording.path.stat().st_mode & 0o777 == 0o600
    assert recorder.directory.stat().st_mode & 0o777 == 0o700
    assert await recording.close() == result
    assert recorder.bytes_written == result.bytes - 44
    assert recorder.live == 0


async def test_the_file_grows_while_the_call_goes_on(recorder: Recorder) -> None:
    recording = recorder.open("call-1", L16_8K)
    feed(recording, 3.0, time.monotonic() - 3.0)
    deadline = time.monotonic() + 5
    while not recording.path.exists() or recording.path.stat().st_size < 64_000:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    left, _ = channels(recording.path)
    assert left.size >= 15_000
    await recording.close()


async def test_a_call_without_audio_has_an_empty_recording(recorder: Recorder) -> None:
    result = await recorder.open("call-1", PCMU).close()
    assert (result.seconds, result.bytes, result.reason) == (0.0, 44, "complete")
    assert channels(result.path)[0].size == 0


async def test_many_recordings_share_the_thread(recorder: Recorder) -> None:
    recordings = [recorder.open(f"call-{n}", L16_8K) for n in range(50)]
    for recording in recordings:
        feed(recording, 1.0, time.monotonic() - 1.0)
    assert recorder.live == 50
    results = await asyncio.gather(*(recording.close() for recording in recordings))
    assert {result.reason for result in results} == {"complete"}
    assert len({result.path for result in results}) == 50


async def test_closing_the_recorder_finishes_what_is_open(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, keep_free=0)
    recording = recorder.open("call-1", L16_8K)
    feed(recording, 1.0, time.monotonic() - 1.0)
    await recorder.close()
    assert (await recording.close()).seconds == pytest.approx(1.0, abs=0.05)
    await recorder.close()
    again = recorder.open("call-2", L16_8K)
    assert (await again.close()).reason == "complete"
    await recorder.close()


@pytest.mark.parametrize("call_id", ["", "../etc", "a/b", "a.b", "x" * 101, "a\n"])
async def test_an_id_never_leaves_the_directory(recorder: Recorder, call_id: str) -> None:
    with pytest.raises(ValueError, match="is not fit for a file name"):
        recorder.open(call_id, PCMU)


async def test_a_recording_never_overwrites_another(recorder: Recorder) -> None:
    first = recorder.open("call-1", L16_8K)
    feed(first, 1.0, time.monotonic() - 1.0)
    kept = (await first.close()).sha256
    stopped: list[RecordingResult] = []
    second = recorder.open("call-1", L16_8K, on_stopped=stopped.append)
    feed(second, 1.0, time.monotonic() - 1.0)
    result = await second.close()
    assert result.reason == "write_failed"
    assert hashlib.sha256(first.path.read_bytes()).hexdigest() == kept


async def test_a_directory_that_cannot_be_made_stops_the_recording_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file" / "wav", keep_free=0)
    told: asyncio.Future[RecordingResult] = asyncio.get_running_loop().create_future()
    recording = recorder.open("call-1", L16_8K, on_stopped=told.set_result)
    feed(recording, 2.0, time.monotonic() - 2.0)
    result = await asyncio.wait_for(told, 5)
    assert (result.reason, result.bytes, result.sha256) == ("write_failed", 0, "")
    recording.caller(TONE, time.monotonic())
    recording.agent(TONE, time.monotonic())
    recording.cut(time.monotonic())
    assert await recording.close() == result
    await recorder.close()
    assert recorder.stopped_early == 1


# --- a full disk ------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; skipped where it may not be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here; the limit on file sizes tests the same path")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def _until_stopped(recorder: Recorder) -> RecordingResult:
    told: asyncio.Future[RecordingResult] = asyncio.get_running_loop().create_future()
    recording = recorder.open("call-1", L16_8K, on_stopped=told.set_result)
    start = time.monotonic() - 60
    feed(recording, 60.0, start)
    result = await asyncio.wait_for(told, 10)
    feed(recording, 1.0, start + 60)  # the call goes on
    assert await recording.close() == result
    return result


async def test_a_full_disk_stops_the_recording_and_what_is_there_can_be_heard(small_disk: Path) -> None:
    recorder = Recorder(small_disk / "wav", keep_free=0)
    (small_disk / "ballast").write_bytes(bytes(400_000))
    first = recorder.open("call-0", L16_8K)
    feed(first, 5.0, time.monotonic() - 5.0)
    assert (await first.close()).reason == "complete"
    result = await _until_stopped(recorder)
    assert result.reason == "disk_full"
    assert result.seconds == pytest.approx((result.path.stat().st_size - 44) / 32_000, abs=0.01)
    channels(result.path)
    (small_disk / "ballast").unlink()
    later = recorder.open("call-2", L16_8K)
    feed(later, 5.0, time.monotonic() - 5.0)
    assert (await later.close()).reason == "complete"
    await recorder.close()


async def test_space_is_left_for_the_journal(small_disk: Path) -> None:
    recorder = Recorder(small_disk / "wav", keep_free=2_000_000)
    result = await _until_stopped(recorder)
    assert (result.reason, result.detail) == ("disk_full", "No space left on device")
    assert result.seconds == 0.0
    await recorder.close()


async def test_a_limit_on_file_sizes_is_a_full_disk(recorder: Recorder) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        result = await _until_stopped(recorder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.reason == "disk_full"
    channels(result.path)


async def test_a_disk_that_hangs_costs_the_recording_not_the_memory(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 100)
    monkeypatch.setattr(module, "INTERVAL", 3600.0)
    recording = recorder.open("call-1", L16_8K)
    start = time.monotonic()
    for n in range(1000):
        recording.caller(TONE, start + n * 0.02)
    assert len(recording._tape.timeline.caller_queue) == 100
    assert (await recording.close()).reason == "too_slow"
    assert MAX_QUEUED == 6000


# --- a process that dies ----------------------------------------------------------------

WRITER = """
import asyncio, sys, time
from pathlib import Path
from offhook.codecs.audio import PCMU
from offhook.gateway.recording import Recorder

async def main():
    recorder = Recorder(Path(sys.argv[1]), keep_free=0)
    recordings = [recorder.open(f"call-{n}", PCMU) for n in range(4)]
    start = time.monotonic() - 5
    for n in range(250):
        for recording in recordings:
            recording.caller(b"\\x10" * 160, start + n * 0.02)
    print("fed", flush=True)
    while True:
        for recording in recordings:
            recording.caller(b"\\x10" * 160, time.monotonic())
        await asyncio.sleep(0.02)

asyncio.run(main())
"""


def test_recordings_of_a_killed_process_are_valid_and_recovered(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"fed\n"
        deadline = time.monotonic() + 10
        while len(files := list(tmp_path.rglob("*.wav"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(child.pid, signal.SIGKILL)
    assert len(files) == 4
    for file in files:
        left, right = channels(file)
        assert left.size > 8000
        assert left.all()
        assert not right.any()
        with file.open("ab") as torn:
            torn.write(b"\x01\x02\x03")
        result = recover(file)
        assert result.reason == "gateway_died"
        assert result.seconds == pytest.approx(left.size / 8000, abs=0.001)
        assert result.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert recover(file) == result


def test_recovering_something_else_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        recover(tmp_path / "none.wav")
    other = tmp_path / "other.wav"
    other.write_bytes(b"RIFF, but not ours")
    with pytest.raises(WavError):
        recover(other)
    assert other.read_bytes() == b"RIFF, but not ours"


# --- what it costs ----------------------------------------------------------------------


@pytest.mark.timing
async def test_a_frame_costs_the_event_loop_next_to_nothing(recorder: Recorder) -> None:
    recordings = [recorder.open(f"call-{n}", PCMU) for n in range(20)]
    best = 1.0
    for _ in range(20):
        now = time.monotonic()
        started = time.thread_time()
        for recording in recordings:
            recording.caller(PCMU.silence, now)
            recording.agent(PCMU.silence, now)
        best = min(best, (time.thread_time() - started) / (2 * len(recordings)))
    assert best < 2e-6
    await asyncio.gather(*(recording.close() for recording in recordings))
