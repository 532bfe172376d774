"""WAV files: an incremental stereo writer whose file is whole at every moment, its repair, and reading.

Layout written (Multimedia Programming Interface 1.0, "RIFF WAVE"): one 44-byte header, then the samples until
the end of the file. The writer puts samples down first and the sizes after them, so the header never promises
what is not there; a process that dies in between leaves a valid file that lacks its last append at most, and
`repair` brings that back. (The standard library's `wave` writes the sizes when the file is closed.)
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

import numpy as np

from offhook.codecs.audio import AudioFormat, Encoding

__all__ = ["MAX_DATA", "StereoWavWriter", "WavError", "WavFull", "parse_wav", "read_wav", "repair", "wav_file"]

CHANNELS: Final = 2
FRAME_BYTES: Final = 2 * CHANNELS

_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_SIZES_ONLY: Final = _HEADER.size - 8
"""What the RIFF chunk counts beyond the samples."""

MAX_DATA: Final = (0xFFFFFFFF - _SIZES_ONLY) // FRAME_BYTES * FRAME_BYTES
"""Bytes of samples in one file: RIFF sizes have 32 bits. 37 hours at 8 kHz stereo."""

MAX_RATE: Final = 192_000
"""Samples a second that we believe of a file: more is a broken header, and would overflow its byte rate."""

_ENCODINGS: Final[dict[tuple[int, int], Encoding]] = {(1, 16): "l16", (6, 8): "pcma", (7, 8): "pcmu"}
"""Format tag and bits a sample of what we read (RFC 2361)."""

_EXTENSIBLE: Final = 0xFFFE
"""The true format tag is then the first two bytes of a GUID."""


class WavError(ValueError):
    """The file is no WAV file, or one offhook does not read; the text names the reason."""


class WavFull(WavError):
    """The file has reached the 4 GiB a WAV file can hold; go on in a new one."""


class StereoWavWriter:
    """Writes one stereo int16 WAV file bit by bit; valid on disk after `__init__` and after every `append`.

    Not thread-safe. No fsync: a file survives the death of the process at any moment; after a loss of power
    let `repair` set its sizes.

    Raises:
        FileExistsError: there is a file at `path` already; it is left alone.
    """

    def __init__(self, path: str | os.PathLike[str], rate: int = 8000) -> None:
        self.path = Path(path)
        self.rate = rate
        self.data_bytes = 0
        "Bytes of samples that the header speaks of."
        if self.path.exists():
            raise FileExistsError(f"{self.path} exists already: a recording is never overwritten")
        # Made under another name, so that the name asked for never stands for an empty file.
        unborn = self.path.with_name(self.path.name + ".new")
        self._file = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            _write(self._file, _header(rate, 0), 0)
            unborn.rename(self.path)
        except OSError:
            self.close()
            raise

    @property
    def seconds(self) -> float:
        """How long the file plays."""
        return self.data_bytes / (self.rate * FRAME_BYTES)

    def append(self, left: bytes, right: bytes) -> None:
        """Add int16 little-endian samples of both channels, equal in length.

        Raises:
            ValueError: the lengths differ, or end within a sample.
            WavFull: the file would pass 4 GiB; nothing was added.
            OSError: the disk failed or is full; nothing was added, and the same call may be tried again.
        """
        if len(left) != len(right) or len(left) % 2:
            raise ValueError(f"left has {len(left)} bytes and right {len(right)}: give as many whole samples of each")
        grown = self.data_bytes + 2 * len(left)
        if grown > MAX_DATA:
            raise WavFull(
                f"{self.path} has {self.data_bytes} bytes of audio and WAV ends at {MAX_DATA}: begin a new file"
            )
        samples = np.empty((len(left) // 2, CHANNELS), "<i2")
        samples[:, 0] = np.frombuffer(left, "<i2")
        samples[:, 1] = np.frombuffer(right, "<i2")
        _write(self._file, samples.tobytes(), _HEADER.size + self.data_bytes)
        _write(self._file, _header(self.rate, grown), 0)
        self.data_bytes = grown

    def close(self) -> None:
        """Let go of the file; it is whole already. A second close does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def repair(path: str | os.PathLike[str]) -> float:
    """Make the sizes of a file of `StereoWavWriter`, whose process died, speak of every whole frame in it.

    Half a frame at the end is cut off. A file that is right is not touched.

    Returns:
        Seconds the file plays now.

    Raises:
        WavError: the file does not begin with the header that StereoWavWriter writes.
        OSError: it cannot be read or written.
    """
    with open(path, "r+b") as file:
        head = file.read(_HEADER.size)
        rate = _own_rate(head, path)
        there = file.seek(0, os.SEEK_END) - _HEADER.size
        size = min(there // FRAME_BYTES * FRAME_BYTES, MAX_DATA)
        if head != _header(rate, size):
            file.seek(0)
            file.write(_header(rate, size))
        if there > size:
            file.truncate(_HEADER.size + size)
    return size / (rate * FRAME_BYTES)


def read_wav(path: str | os.PathLike[str]) -> tuple[AudioFormat, int, bytes]:
    """Read a WAV file whole: 16-bit PCM, or G.711 of either law.

    Returns:
        The format of each channel, the number of channels, and the samples, channels interleaved.

    Raises:
        WavError: see `parse_wav`; or the rate is none that offhook carries.
    """
    encoding, rate, channels, data = parse_wav(Path(path).read_bytes(), name=str(path))
    try:
        return AudioFormat(encoding, rate), channels, data
    except ValueError as error:
        raise WavError(f"{path}: {error}") from error


def parse_wav(file: bytes, *, name: str = "WAV data") -> tuple[Encoding, int, int, bytes]:
    """Take a WAV file apart, whatever its rate.

    Sizes beyond the end of the file, as programs leave them that write to a pipe, mean "to the end".

    Returns:
        Encoding, samples a second, number of channels, and the samples, channels interleaved.

    Raises:
        WavError: not a WAV file, or neither 16-bit PCM nor G.711. `name` says in the text which file.
    """
    if file[:4] != b"RIFF" or file[8:12] != b"WAVE":
        raise WavError(f"{name} is not a WAV file: it does not begin with RIFF....WAVE")
    layout: tuple[Encoding, int, int] | None = None
    at = 12
    while at + 8 <= len(file):
        kind, size = struct.unpack_from("<4sI", file, at)
        at += 8
        if kind == b"fmt ":
            layout = _parse_layout(file[at : at + size], name)
        elif kind == b"data":
            if layout is None:
                raise WavError(f"{name}: its fmt chunk is missing before the data")
            encoding, rate, channels = layout
            data = file[at : at + size]
            frame = channels * (2 if encoding == "l16" else 1)
            return encoding, rate, channels, data[: len(data) // frame * frame]
        at += size + size % 2  # chunks begin at even offsets
    raise WavError(f"{name}: it ends before its data chunk")


def _parse_layout(chunk: bytes, name: str) -> tuple[Encoding, int, int]:
    if len(chunk) < 16:
        raise WavError(f"{name}: its fmt chunk has {len(chunk)} bytes, not 16 or more")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack_from("<H", chunk, 24)
    encoding = _ENCODINGS.get((tag, bits))
    if encoding is None or not channels or not rate:
        raise WavError(
            f"{name}: format tag {tag}, {bits} bits, {channels} channels at {rate} Hz is not read here: "
            "convert it to 16-bit PCM, for example with `sox in.wav -b 16 -e signed out.wav`"
        )
    return encoding, rate, channels


def wav_file(pcm: bytes, rate: int) -> bytes:
    """A whole file of int16 little-endian samples of one channel."""
    return _header(rate, len(pcm), channels=1) + pcm


def _header(rate: int, data_bytes: int, channels: int = CHANNELS) -> bytes:
    return _HEADER.pack(
        b"RIFF",
        _SIZES_ONLY + data_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,  # PCM
        channels,
        rate,
        rate * channels * 2,
        channels * 2,
        16,
        b"data",
        data_bytes,
    )


def _own_rate(head: bytes, path: str | os.PathLike[str]) -> int:
    """The rate in a header that `_header` made, whatever its sizes say."""
    if len(head) == _HEADER.size:
        rate: int = _HEADER.unpack(head)[7]
        if 0 < rate <= MAX_RATE:
            own = _header(rate, 0)
            if head[:4] == own[:4] and head[8:-4] == own[8:-4]:
                return rate
    raise WavError(f"{path} does not begin with the header of a stereo recording: it is not ours to repair")


def _write(file: int, data: bytes, at: int) -> None:
    """Write all of `data` at an offset, so that a retry after a full disk lands where the failed try began."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(file, rest, at)
        rest, at = rest[done:], at + done
