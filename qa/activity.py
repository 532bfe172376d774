"""Who speaks when: an energy detector on a track, in windows of 10 ms, with debounce and no model.

A track is mono int16 at 8 kHz. Times are seconds from its first sample. A stretch of speech
starts with the first run of voiced windows that lasts `min_speech` (anything shorter is a click), holds on over
pauses up to `min_silence`, and ends with the last voiced window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from offhook.codecs.pcm import whole_rms

Samples = npt.NDArray[np.int16]
"""Mono int16 at 8 kHz."""

RATE: Final = 8000
WINDOW_S: Final = 0.010
WINDOW: Final = int(RATE * WINDOW_S)
WINDOW_BYTES: Final = 2 * WINDOW

QUIET_DBFS: Final = -45.0
"""Below this nothing counts as speech: synthesised and recorded voices peak at -10 to -20, their weakest
consonants reach -45, and the tails of their fades and the idle noise of μ-law lie below."""

FLOOR_MARGIN_DB: Final = 10.0
"""Speech stands this far above the background of a track that is never silent."""

STEADY_DB: Final = 6.0
"""The quietest fifth of a track is background when it varies by less than this; the dips of speech vary more."""

LOUDEST_FLOOR_DBFS: Final = -35.0
"""Steadiness above this is speech that never pauses, not background."""

MIN_SPEECH_S: Final = 0.030
MIN_SILENCE_S: Final = 0.200


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of speech, seconds on the track."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end - self.start


def levels(track: Samples) -> npt.NDArray[np.float64]:
    """The level of every whole 10 ms window, in dB below full scale; digital silence is -120."""
    count = len(track) // WINDOW
    power = np.square(track[: count * WINDOW].reshape(count, WINDOW).astype(np.float64)).mean(axis=1)
    return np.asarray(10.0 * np.log10(np.maximum(power / 32768.0**2, 1e-12)))


def threshold(level: npt.NDArray[np.float64]) -> float:
    """The level above which a window of this track is speech."""
    if not len(level):
        return QUIET_DBFS
    low, high = (float(value) for value in np.percentile(level, [5, 20]))
    steady = high - low < STEADY_DB and high < LOUDEST_FLOOR_DBFS
    return max(QUIET_DBFS, high + FLOOR_MARGIN_DB) if steady else QUIET_DBFS


def speech_spans(
    track: Samples, *, min_speech: float = MIN_SPEECH_S, min_silence: float = MIN_SILENCE_S, above: float | None = None
) -> list[Span]:
    """The stretches of speech on a track.

    Args:
        track: the samples.
        min_speech: seconds of unbroken voice that a stretch begins with.
        min_silence: seconds; a pause up to this long does not end a stretch.
        above: threshold in dBFS instead of the one found from the track.
    """
    level = levels(track)
    voiced = np.flatnonzero(level > (threshold(level) if above is None else above))
    onset_windows = max(1, round(min_speech / WINDOW_S))
    spans: list[Span] = []
    for stretch in split_windows(voiced, round(min_silence / WINDOW_S)):
        onset = next((run[0] for run in split_windows(stretch, 1) if len(run) >= onset_windows), None)
        if onset is not None:
            spans.append(Span(int(onset) * WINDOW_S, int(stretch[-1] + 1) * WINDOW_S))
    return spans


def split_windows(windows: npt.NDArray[np.intp], longest_step: int) -> list[npt.NDArray[np.intp]]:
    """Cut increasing window numbers wherever the next is more than `longest_step` away."""
    if not len(windows):
        return []
    return np.split(windows, np.flatnonzero(np.diff(windows) > longest_step) + 1)


class LiveActivity:
    """The same decision while the call runs: feed what was heard, ask who speaks.

    The threshold is fixed, for a live track's background is not known yet.
    """

    def __init__(self, above: float = QUIET_DBFS) -> None:
        self._least = math.ceil(32768.0 * 10.0 ** (above / 20.0))
        self._rest = b""
        self._windows = 0
        self._run = 0
        self.speaking_since: float | None = None
        "Start of the present stretch of speech; None while silent."
        self.last_voiced: float | None = None
        "End of the last voiced window."
        self.kept: bytearray | None = None
        "Set it to an empty one, and what is fed from then on is kept: a persona or a test listens there."

    def feed(self, heard: bytes) -> None:
        """Take the next samples of the track, int16 little-endian."""
        if self.kept is not None:
            self.kept += heard
        data = self._rest + heard
        whole = len(data) - len(data) % WINDOW_BYTES
        self._rest = data[whole:]
        for at in range(0, whole, WINDOW_BYTES):
            self._windows += 1
            self._window(whole_rms(data[at : at + WINDOW_BYTES]) >= self._least)

    @property
    def _at(self) -> float:
        return self._windows * WINDOW_S

    def _window(self, loud: bool) -> None:
        self._run = self._run + 1 if loud else 0
        if loud and self.speaking_since is not None:
            self.last_voiced = self._at
        elif self._run * WINDOW_S >= MIN_SPEECH_S - 1e-9:
            self.speaking_since = self._at - self._run * WINDOW_S
            self.last_voiced = self._at
        elif self.speaking_since is not None and self.silent_for() > MIN_SILENCE_S + 1e-9:
            self.speaking_since = None

    def silent_for(self) -> float:
        """Seconds since the last voiced window, or since the beginning."""
        return self._at - (self.last_voiced or 0.0)
