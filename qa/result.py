"""What is left of a simulated call: its audio, its measurements, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from offhook.codecs.wav import StereoWavWriter
from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.line import Arrival
from offhook.qa.measure import Measures, Spread

TRUSTED_LATE_MS: Final = 20.0
"""A simulator whose frames are later than this one time in a hundred measures its own machine, not the bot."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """The bot handed the caller on."""

    to: str
    caller_id: str
    at: float
    "Seconds after the call began to ring."


@dataclass(frozen=True, slots=True)
class Callback:
    """A status callback that the carrier posted."""

    url: str
    fields: dict[str, str]
    status: int
    "HTTP status of the answer; 0: none came."


@dataclass(frozen=True, slots=True)
class CallResult:
    """One call, measured. `caller` and `agent` are equally long tracks on one clock."""

    carrier: str
    call_id: str
    from_number: str
    to_number: str
    status: str
    "completed, busy, failed, no-answer or canceled; in-progress while it lives."
    ended_by: str
    "caller, bot or carrier."
    ended_how: str
    seconds: float
    "From the opening of the media stream to its end."
    webhook_ms: float
    "From posting the incoming-call webhook to its answer."
    measures: Measures
    own_late_ms: Spread
    "How late the simulator sent its own frames."
    lost_frames: int
    "Caller frames that a bot which does not read never got."
    errors: Sequence[str]
    "What the carrier would have logged."
    transfers: Sequence[Transfer]
    carrier_said: Sequence[str]
    "Sentences that the markup had the carrier speak."
    callbacks: Sequence[Callback]
    caller: Samples = field(repr=False)
    agent: Samples = field(repr=False)
    arrivals: Sequence[Arrival] = field(repr=False)
    said: Sequence[Span] = field(repr=False)
    "Where the caller's utterances lie in the track."

    @property
    def trusted(self) -> bool:
        """False when the simulator itself was too late to blame anybody."""
        return self.own_late_ms.p99 is None or self.own_late_ms.p99 <= TRUSTED_LATE_MS

    def save(self, path: Path) -> None:
        """Write what the caller lived through: left what was said, right what was heard; 8 kHz.

        Raises:
            FileExistsError: there is such a file.
            OSError: it cannot be written.
        """
        writer = StereoWavWriter(path, RATE)
        try:
            writer.append(self.caller.astype("<i2").tobytes(), self.agent.astype("<i2").tobytes())
        finally:
            writer.close()

    def as_dict(self) -> dict[str, Any]:
        """Everything but the audio, ready for JSON. Times in seconds on the track, rounded to 0.1 ms."""
        left_out = {"caller", "agent", "arrivals"}
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}
        counts: dict[str, int] = {}
        for arrival in self.arrivals:
            counts[arrival.kind] = counts.get(arrival.kind, 0) + 1
        found = {**plain, "measures": asdict(self.measures), "own_late_ms": asdict(self.own_late_ms)}
        for name in ("transfers", "callbacks", "said"):
            found[name] = [asdict(item) for item in found[name]]
        rounded = _rounded({**found, "trusted": self.trusted, "messages": counts})
        assert isinstance(rounded, dict)
        return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(float(value), 4) if isinstance(value, float | np.floating) else value
