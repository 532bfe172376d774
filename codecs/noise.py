"""The slot for a noise filter, before the voice detector and the recogniser; and RNNoise, the open one.

A filter cleans one caller's audio on the event loop, 20 ms at a time as a rule, so it must be quick: a millisecond
at the most. It is a class with the methods of `NoiseFilter`, named by an entry point of the group `offhook.noise`;
docs/noise.md says how one of a vendor is fitted in.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import numpy as np

from offhook.codecs.pcm import WholeSamples
from offhook.codecs.resample import Resampler

__all__ = ["GROUP", "NoiseFilter", "NoiseFilterError", "RnNoise", "known_filters", "noise_filter"]

GROUP: Final = "offhook.noise"
"""Entry points of this group are classes like NoiseFilter."""

RATE: Final = 8000
"""What a filter hears and gives."""


class NoiseFilterError(ValueError):
    """No such filter, or it cannot run with these settings; the text says what to do."""


class NoiseFilter(ABC):
    """One caller's noise filter. Not thread-safe; never shared between calls.

    Made as `Filter(settings)`, with the settings as they stand in the configuration. The constructor raises
    NoiseFilterError for a setting that cannot work or a library or licence that is missing, and returns quickly
    once `warm` has been called in this process.
    """

    delay: float = 0.0
    "Seconds by which the output lags the input, for pieces of 20 ms."

    @classmethod
    def warm(cls, settings: Mapping[str, Any]) -> None:
        """Load libraries and models, once a process. May block. Raises NoiseFilterError."""

    @abstractmethod
    def __init__(self, settings: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def process(self, pcm: bytes) -> bytes:
        """Clean the caller's audio: int16 little-endian mono at 8 kHz, any length; as many bytes out as in.

        Must return within a millisecond for 20 ms of audio, must not wait for anything, and must not raise
        because of what is in the audio.
        """

    def __call__(self, pcm: bytes) -> bytes:
        """The same as `process`, so that a filter is what `Agent.noise_filter` takes."""
        return self.process(pcm)

    def close(self) -> None:
        """Let go of what the filter holds; `process` is not called again. A second close does nothing."""


def known_filters() -> list[str]:
    """The installed filters, by name."""
    return sorted({point.name for point in entry_points(group=GROUP)})


@lru_cache
def filter_class(name: str) -> type[NoiseFilter]:
    """The class of a filter.

    Raises:
        NoiseFilterError: there is none of that name, or its module does not import.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise NoiseFilterError(
            f"noise filter {name!r} is not installed; installed filters: {', '.join(known_filters()) or 'none'}"
        )
    try:
        found = points[0].load()
    except (ImportError, AttributeError) as error:
        raise NoiseFilterError(f"noise filter {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, NoiseFilter)):
        raise NoiseFilterError(f"noise filter {name!r} is {found!r}, which is no subclass of NoiseFilter")
    return found


def noise_filter(name: str, settings: Mapping[str, Any] | None = None) -> NoiseFilter:
    """Make a filter for one call. Raises NoiseFilterError."""
    return filter_class(name)(settings or {})


class RnNoise(NoiseFilter):
    """RNNoise (Valin 2018, arXiv:1709.08243; BSD-3), called through ctypes.

    The network hears 48 kHz in frames of 10 ms, so the audio goes up and down again. ctypes lets go of the GIL
    while a frame is computed. Setting: `library`, the path of a librnnoise; by default that inside the pyrnnoise
    wheel, whose own code stays unused.
    """

    FRAME: Final = 480
    """Samples that the network takes at once: 10 ms at 48 kHz."""

    LAG: Final = 960
    """Samples at 48 kHz by which the network's output lags: a frame of overlap, and one of looking ahead."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        library = _library(_library_path(settings))
        self._process_frame = library.rnnoise_process_frame
        self._state = library.rnnoise_create(None)
        if not self._state:
            raise NoiseFilterError("rnnoise: the library could not make a state: out of memory")
        self._free = weakref.finalize(self, library.rnnoise_destroy, self._state)
        self._up, self._down = Resampler(RATE, 48_000), Resampler(48_000, RATE)
        self._whole = WholeSamples()
        self._in = b""
        self._out = b""
        self._frame = np.zeros(self.FRAME, np.float32)
        self._pointer = self._frame.ctypes.data
        self.delay = self._up.delay + self.LAG / 48_000 + self._down.delay

    @classmethod
    def warm(cls, settings: Mapping[str, Any]) -> None:
        _library(_library_path(settings))

    def process(self, pcm: bytes) -> bytes:
        if not self._free.alive:
            raise RuntimeError("the noise filter is closed")
        data = self._in + self._up.process(self._whole.push(pcm))
        size = 2 * self.FRAME
        end = len(data) // size * size
        self._in = data[end:]
        cleaned = []
        for at in range(0, end, size):
            self._frame[:] = np.frombuffer(data, "<i2", self.FRAME, at)
            self._process_frame(self._state, self._pointer, self._pointer)
            cleaned.append(np.rint(self._frame).clip(-32768, 32767).astype("<i2").tobytes())
        out = self._out + self._down.process(b"".join(cleaned))
        if len(out) < len(pcm):
            # The first piece that is no multiple of 10 ms. As much as a frame may hold back is always there now.
            out = bytes(2 * self.FRAME * RATE // 48_000) + out
            self.delay += self.FRAME / 48_000
        self._out = out[len(pcm) :]
        return out[: len(pcm)]

    def close(self) -> None:
        self._free()


def _library_path(settings: Mapping[str, Any]) -> str:
    unknown = set(settings) - {"library"}
    if unknown:
        raise NoiseFilterError(f"rnnoise: {', '.join(sorted(unknown))}: no such setting; there is library")
    path = settings.get("library", "")
    if not isinstance(path, str):
        raise NoiseFilterError(f"rnnoise: library: {path!r} is no path of a librnnoise")
    return path or _bundled()


@lru_cache(maxsize=1)
def _bundled() -> str:
    """The library inside the wheel; looked for once, since each call asks."""
    spec = importlib.util.find_spec("pyrnnoise")
    if spec is None or spec.origin is None:
        raise NoiseFilterError(
            "rnnoise: the library is missing; `pip install --no-deps pyrnnoise` brings it (without --no-deps come "
            "300 MB that are never used), or give the path of another as `library`"
        )
    name = {"darwin": "librnnoise.dylib"}.get(sys.platform, "librnnoise.so")
    return str(Path(spec.origin).with_name(name))


@lru_cache(maxsize=4)
def _library(path: str) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(path)
        library.rnnoise_create.restype = ctypes.c_void_p
        library.rnnoise_create.argtypes = [ctypes.c_void_p]
        library.rnnoise_destroy.restype = None
        library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
        library.rnnoise_process_frame.restype = ctypes.c_float
        library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        size = library.rnnoise_get_frame_size()
    except (OSError, AttributeError) as error:
        raise NoiseFilterError(f"rnnoise: library {path} is no librnnoise that can be used: {error}") from error
    if size != RnNoise.FRAME:
        raise NoiseFilterError(
            f"rnnoise: library {path} takes frames of {size} samples, not {RnNoise.FRAME}; "
            "give the path of RNNoise 0.1 or 0.2"
        )
    return library
