"""Whether the caller is to be believed: it sent what it should, when it should. Otherwise a call is `invalid`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from offhook.qa.activity import RATE, Samples
from offhook.qa.caller.record import CallerRecord, StepRecord
from offhook.qa.measuring.packets import percentile
from offhook.qa.phones.base import CallLog
from offhook.qa.result import TRUSTED_LATE_MS

LOST_SHARE: Final = 0.01
"""Share of the frames that may be missing, and five at least: those before a hang-up, and a short stall in silence.
What is missing of speech is told by its sound."""

LEAST_FRAMES: Final = 50
"""In a call shorter than a second, such as one that is refused, one frame is a large share and times nothing."""

SEARCH: Final = RATE // 10
"""Samples around its recorded place in which an utterance is looked for: 100 ms."""

BLOCK: Final = RATE // 10
"""Samples in which the strength of an utterance is compared: 100 ms."""

TOLERANCE: Final = 0.3
"""Strength may differ from the script's by this: 3 dB, or noise of 10 dB below."""

LOUD_DB: Final = 12.0
"""Blocks within this of the loudest are compared: below, noise behind the caller counts for more than the voice."""

PLACE_S: Final = 0.020
"""By how much the recorded and the real place may differ: a frame."""


def doubts(log: CallLog, record: CallerRecord, sounds: Mapping[str, Samples]) -> list[str]:
    """Why nothing can be said about the target, each a sentence; [] when the caller is to be believed.

    Args:
        log: what was on the wire.
        record: what the caller did.
        sounds: what each `StepRecord.source` sounds like, from its first voiced sample on.
    """
    reasons = []
    late = percentile([seconds * 1000 for seconds in log.lateness], 99)
    if late is not None and late > TRUSTED_LATE_MS and log.due >= LEAST_FRAMES:
        reasons.append(
            f"the caller's frames left up to {late:.0f} ms late (99th percentile; {TRUSTED_LATE_MS:g} ms are allowed):"
            " this machine is too busy; make fewer calls at once"
        )
    allowed = max(5, LOST_SHARE * log.due)
    missing = max(log.lost_frames, log.due - len(log.left_at) if log.left_at else 0)
    if missing > allowed and log.due >= LEAST_FRAMES:
        reasons.append(f"{missing} of the caller's {log.due} frames never left")
    for step in record.steps:
        if step.spoken is not None and step.source in sounds:
            reason = _unlike(log, step, sounds[step.source])
            if reason:
                reasons.append(f"what the caller said in step {step.index + 1} did not leave as scripted: {reason}")
    return reasons


def _unlike(log: CallLog, step: StepRecord, sound: Samples) -> str:
    """How the caller's track differs from the script; empty: it does not."""
    if step.spoken is None:
        return ""
    nominal = round(step.spoken.start * RATE)
    begin = max(0, nominal - SEARCH)
    there = log.caller[begin : nominal + len(sound) + SEARCH].astype(np.float64)
    # The call may have ended, or the caller been told to stop, in the midst of it: only what was spoken is compared.
    spoken = round(step.spoken.seconds * RATE)
    wanted = sound[: max(0, min(len(sound), spoken, len(log.caller) - nominal))].astype(np.float64)
    if len(wanted) < BLOCK or len(there) < len(wanted):
        return ""
    size = 1 << (len(there) + len(wanted)).bit_length()
    fits = np.fft.irfft(np.fft.rfft(there, size) * np.conj(np.fft.rfft(wanted, size)), size)
    shift = int(np.argmax(fits[: len(there) - len(wanted) + 1]))
    late = (begin + shift - nominal) / RATE
    if abs(late) > PLACE_S:
        return f"it lies {late * 1000:+.0f} ms from where it was noted"
    count = len(wanted) // BLOCK
    one = wanted[: count * BLOCK].reshape(count, BLOCK)
    other = there[shift : shift + count * BLOCK].reshape(count, BLOCK)
    energy = np.square(one).sum(axis=1)
    strength = (one * other).sum(axis=1) / np.maximum(energy, 1.0)
    loud = energy > energy.max() / 10 ** (LOUD_DB / 10)
    wrong = np.flatnonzero(loud & (np.abs(strength - 1) > TOLERANCE))
    if not len(wrong):
        return ""
    at = step.spoken.start + float(wrong[0]) * BLOCK / RATE
    return f"{len(wrong)} of {int(loud.sum())} stretches of 100 ms differ, the first at {at:.1f} s"
