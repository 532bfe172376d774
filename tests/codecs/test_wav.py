from __future__ import annotations

import errno
import io
import os
import signal
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offhook.codecs import wav
from offhook.codecs.audio import L16_8K, L16_16K, PCMA, PCMU
from offhook.codecs.pcm import tone
from offhook.codecs.wav import StereoWavWriter, WavError, WavFull, parse_wav, read_wav, repair, wav_file

LEFT, RIGHT = tone(440, 0.5, 8000), tone(1000, 0.5, 8000)


def interleaved(left: bytes, right: bytes) -> bytes:
    both: NDArray[np.int16] = np.array([np.frombuffer(left, "<i2"), np.frombuffer(right, "<i2")], "<i2")
    frames: bytes = both.tobytes("F")
    return frames


def heard_by_the_standard_library(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        frames: bytes = file.readframes(file.getnframes())
        return frames


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(body)) + body + b"\0" * (len(body) % 2)


def riff(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


def layout(tag: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16, more: bytes = b"") -> bytes:
    size = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * size, size, bits) + more)


# --- writing ------------------------------------------------------------------------


def test_the_file_is_valid_after_every_append(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    writer = StereoWavWriter(path)
    assert heard_by_the_standard_library(path) == b""
    for count in range(1, 5):
        writer.append(LEFT, RIGHT)
        assert heard_by_the_standard_library(path) == interleaved(LEFT, RIGHT) * count
        assert path.stat().st_size == 44 + writer.data_bytes
        assert writer.seconds == count / 2
    writer.append(b"", b"")
    writer.close()
    writer.close()
    assert read_wav(path) == (L16_8K, 2, interleaved(LEFT, RIGHT) * 4)
    assert [entry.name for entry in tmp_path.iterdir()] == ["call.wav"]


def test_other_rates(tmp_path: Path) -> None:
    writer = StereoWavWriter(tmp_path / "wide.wav", 16000)
    writer.append(LEFT, RIGHT)
    writer.close()
    assert writer.seconds == 0.25
    assert read_wav(tmp_path / "wide.wav") == (L16_16K, 2, interleaved(LEFT, RIGHT))


def test_unequal_or_half_samples_are_refused(tmp_path: Path) -> None:
    writer = StereoWavWriter(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="left has 4 bytes and right 2"):
        writer.append(bytes(4), bytes(2))
    with pytest.raises(ValueError, match="left has 3 bytes and right 3: give as many whole samples"):
        writer.append(bytes(3), bytes(3))
    writer.close()
    assert read_wav(tmp_path / "a.wav")[2] == b""


def test_a_file_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"a\.wav exists already"):
        StereoWavWriter(path)
    assert path.read_bytes() == b"precious"


def test_a_failed_start_leaves_no_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    full = Path("/dev/full")  # a disk without room
    if not full.exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "a.wav.new").symlink_to(full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        StereoWavWriter(tmp_path / "a.wav")
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_after_a_full_disk_the_same_append_can_be_tried_again(tmp_path: Path) -> None:
    # A child under a file-size limit: write() then fails halfway through an append, as on a full disk.
    script = f"""
import resource, signal, sys
from offhook.codecs.wav import StereoWavWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = StereoWavWriter({str(tmp_path / "a.wav")!r})
block = bytes(range(256)) * 8
writer.append(block, block)
resource.setrlimit(resource.RLIMIT_FSIZE, (44 + 4096 + 1001, resource.RLIM_INFINITY))
try:
    writer.append(block, block)
except OSError:
    assert writer.data_bytes == 4096
else:
    sys.exit("the limit did not hold")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.append(block, block)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    block = bytes(range(256)) * 8
    assert read_wav(tmp_path / "a.wav")[2] == interleaved(block, block) * 2
    assert (tmp_path / "a.wav").stat().st_size == 44 + 2 * 4096


def test_more_than_four_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wav.MAX_DATA == 2**32 - 40  # 36 bytes of header are counted too, and frames have 4
    monkeypatch.setattr(wav, "MAX_DATA", 8000)
    writer = StereoWavWriter(tmp_path / "a.wav")
    writer.append(bytes(4000), bytes(4000))
    with pytest.raises(WavFull, match="WAV ends at 8000: begin a new file"):
        writer.append(bytes(2), bytes(2))
    writer.close()
    assert len(read_wav(tmp_path / "a.wav")[2]) == 8000


def test_the_file_is_whole_when_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    script = f"""
import itertools
from offhook.codecs.wav import StereoWavWriter
writer = StereoWavWriter({str(path)!r})
for number in itertools.count():
    block = number.to_bytes(2, "little") * 4000
    writer.append(block, block)
    print(number, flush=True)
"""
    for kill_after in (1, 7, 40):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(kill_after):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
            said = kill_after + len(child.stdout.read().splitlines())
        samples = np.frombuffer(heard_by_the_standard_library(path), "<i2").reshape(-1, 2)
        # Every append that returned is there; after it perhaps one that had no time to say so.
        blocks = len(samples) // 4000
        assert blocks in (said, said + 1)
        assert (samples == np.repeat(np.arange(blocks), 4000)[:, None]).all()
        assert blocks / 2 <= repair(path) <= (blocks + 1) / 2


# --- repair -------------------------------------------------------------------------


def test_repair_brings_back_what_the_header_does_not_speak_of_yet(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    writer = StereoWavWriter(path)
    writer.append(LEFT, RIGHT)
    writer.close()
    with path.open("ab") as file:
        file.write(interleaved(RIGHT, LEFT) + b"xyz")  # died within an append, before the sizes
    assert len(heard_by_the_standard_library(path)) == 16000
    assert repair(path) == 1.0
    assert heard_by_the_standard_library(path) == interleaved(LEFT, RIGHT) + interleaved(RIGHT, LEFT)
    assert path.stat().st_size == 44 + 32000


def test_repair_cuts_a_header_that_promises_too_much(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    writer = StereoWavWriter(path)
    writer.append(LEFT, RIGHT)
    writer.close()
    with path.open("r+b") as file:
        file.truncate(44 + 8001)  # the sizes reached the disk, the samples did not
    assert repair(path) == 0.25
    assert heard_by_the_standard_library(path) == interleaved(LEFT, RIGHT)[:8000]


def test_repair_leaves_a_good_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    writer = StereoWavWriter(path)
    writer.append(LEFT, RIGHT)
    writer.close()
    path.chmod(0o644)
    os.utime(path, (1, 1))
    assert repair(path) == 0.5
    assert path.stat().st_mtime == 1


def test_repair_of_a_file_beyond_four_gigabytes_keeps_what_a_wav_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    StereoWavWriter(path).close()
    with path.open("r+b") as file:
        file.truncate(5 << 30)  # sparse: takes no room
    assert repair(path) == wav.MAX_DATA / 32000
    assert path.stat().st_size == 44 + wav.MAX_DATA
    with path.open("rb") as file:
        assert struct.unpack("<I", file.read(44)[40:]) == (wav.MAX_DATA,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        bytes(100),
        riff(layout(channels=1), chunk(b"data", bytes(100))),
        riff(layout(channels=2, rate=0), chunk(b"data", bytes(100))),
        riff(layout(channels=2, rate=192_001), chunk(b"data", bytes(100))),
        b"RIFX" + riff(layout(channels=2), chunk(b"data", bytes(100)))[4:],
    ],
)
def test_repair_touches_only_its_own_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.wav"
    path.write_bytes(content)
    with pytest.raises(WavError, match="not ours to repair"):
        repair(path)
    assert path.read_bytes() == content


# --- reading ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "format"),
    [
        (riff(layout(), chunk(b"data", b"abcd")), L16_8K),
        (riff(layout(7, bits=8), chunk(b"data", b"abcd")), PCMU),
        (riff(layout(6, bits=8, more=b"\0\0"), chunk(b"fact", b"1234"), chunk(b"data", b"abcd")), PCMA),
        (riff(chunk(b"LIST", b"odd"), layout(), chunk(b"data", b"abcd"), chunk(b"LIST", b"tail")), L16_8K),
        (riff(layout(0xFFFE, more=b"\x16\0\x10\0\4\0\0\0\x01\0" + bytes(14)), chunk(b"data", b"abcd")), L16_8K),
        # Sizes as a program leaves them that writes to a pipe, and half a sample at the end.
        (riff(layout()) + b"data\xff\xff\xff\x7fabcde", L16_8K),
    ],
)
def test_files_of_other_programs(tmp_path: Path, file: bytes, format: object) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(file)
    assert read_wav(path) == (format, 1, b"abcd")


def test_a_file_the_standard_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(LEFT)
    assert read_wav(path) == (L16_16K, 1, LEFT)


def test_a_whole_file_of_one_channel_is_what_the_standard_library_reads() -> None:
    with wave.open(io.BytesIO(wav_file(LEFT, 16000))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        assert file.readframes(len(LEFT)) == LEFT


def test_any_rate_can_be_taken_apart_though_not_carried(tmp_path: Path) -> None:
    file = riff(layout(rate=22050), chunk(b"data", b"abcd"))
    assert parse_wav(file) == ("l16", 22050, 1, b"abcd")
    (tmp_path / "a.wav").write_bytes(file)
    with pytest.raises(WavError, match=r"a\.wav: rate 22050 is not one of 8000"):
        read_wav(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (b"", "not a WAV file"),
        (b"ID3\x04 an MP3 by another name", "not a WAV file"),
        (riff(layout()), "ends before its data chunk"),
        (riff(chunk(b"data", b"abcd")), "fmt chunk is missing"),
        (riff(chunk(b"fmt ", b"short"), chunk(b"data", b"")), "fmt chunk has 5 bytes"),
        (riff(layout(bits=24), chunk(b"data", b"")), "24 bits, .* convert it to 16-bit PCM"),
        (riff(layout(3, bits=32), chunk(b"data", b"")), "format tag 3"),
        (riff(layout(0xFFFE), chunk(b"data", b"")), "format tag 65534"),
        (riff(layout(channels=0), chunk(b"data", b"")), "0 channels"),
        (riff(layout(rate=0), chunk(b"data", b"")), "at 0 Hz"),
    ],
)
def test_what_is_no_wav_file_is_refused_with_its_name(file: bytes, text: str) -> None:
    with pytest.raises(WavError, match=f"^prompt .*{text}|^prompt: .*{text}"):
        parse_wav(file, name="prompt")
