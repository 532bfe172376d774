"""Both sides of a call on one clock: what the caller said as it came, what the agent said as it was heard.

Theory of operation
-------------------
Everything is placed in samples of 8 kHz from the first caller payload. Caller audio is a stream: payloads follow
each other without a seam, however their arrival jitters. A payload that comes late and is followed by others as late
for HOLD seconds means that audio is missing, and silence of that length goes before it; when the others catch up, it
was only delayed. `base`, the moment of sample 0, follows the earliest arrivals, so that neither a late first payload
nor a carrier's clock that runs a little off moves the two sides apart.

Agent audio lies where the caller hears it. It is held back HOLD seconds, for until then a `cut` may take it back.
`take` gives what can no longer change. No I/O, no clock: `now` is an argument, monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from offhook.codecs.audio import L16_8K, AudioFormat
from offhook.codecs.convert import Converter

HOLD: Final = 0.5
"""Seconds audio is held back. Playout is at most 0.2 s ahead of real time, so nothing older can be cut."""
GAP: Final = 0.060
"""Lateness in seconds that is more than jitter."""
SNAP: Final = 0.030
"""Agent audio that lies this close to the end of what came before it belongs to it without a seam."""
STALL: Final = 3.0
"""Seconds without any caller audio after which its channel goes on as silence."""
DRIFT: Final = 0.001
"""Seconds a second by which `base` follows a slow carrier clock; crystals differ by a tenth of this."""

RATE: Final = 8000

_CUT: Final = b""
"""Stands in the agent's queue, with the moment of the cut, for the audio before it."""


class Timeline:
    """Aligns one call. One thread feeds it (`caller`, `agent`, `cut`), one takes; they may differ.

    Args:
        format: of every payload of both sides.
    """

    def __init__(self, format: AudioFormat) -> None:
        self._seconds_a_byte = 1 / (format.rate * format.sample_bytes)
        self._sample_bytes = format.sample_bytes
        self._decode_caller = Converter(format, L16_8K).convert
        self._decode_agent = Converter(format, L16_8K).convert
        self.caller_queue: deque[tuple[bytes, float, int]] = deque()
        "What `caller` was given and is not placed yet; whoever is in a hurry appends here."
        self.agent_queue: deque[tuple[bytes, float]] = deque()
        "The same of `agent`."
        self._cuts: deque[float] = deque()
        self._caller_pcm, self._agent_pcm = bytearray(), bytearray()
        self._taken = 0
        "Samples given out."
        self._base: float | None = None
        self._position = 0.0
        "Seconds of caller audio placed so far."
        self._followed_at = 0.0

    def caller(self, payload: bytes, at: float, lost_ms: int = 0) -> None:
        """Take a payload of the caller that arrived at `at`, `lost_ms` of audio missing before it."""
        self.caller_queue.append((payload, at, lost_ms))

    def agent(self, payload: bytes, play_at: float) -> None:
        """Take a payload of the agent whose first sample the caller hears at `play_at`."""
        self.agent_queue.append((payload, play_at))

    def cut(self, at: float) -> None:
        """Forget agent audio fed before this and heard at `at` or later."""
        self.agent_queue.append((_CUT, at))
        self._cuts.append(at)

    def take(self, now: float, *, last: bool = False) -> tuple[bytes, bytes]:
        """Give what is settled by `now`: caller and agent, int16 at 8 kHz, equally long.

        With `last` the call is over: everything comes out, but nothing the agent would have said after `now`.
        """
        if self._base is None and not self._begin(now, last):
            return b"", b""
        assert self._base is not None
        horizon = now if last else now - HOLD
        if last:
            self.cut(now)
        if self._cuts:
            self._apply_cuts()
        self._place_caller(horizon, last)
        self._place_agent(horizon, last)
        if last:
            longer = max(len(self._caller_pcm), len(self._agent_pcm))
            self._caller_pcm.extend(bytes(longer - len(self._caller_pcm)))
            self._agent_pcm.extend(bytes(longer - len(self._agent_pcm)))
        size = min(len(self._caller_pcm), len(self._agent_pcm))
        left, right = bytes(self._caller_pcm[:size]), bytes(self._agent_pcm[:size])
        del self._caller_pcm[:size], self._agent_pcm[:size]
        self._taken += size // 2
        return left, right

    def _begin(self, now: float, last: bool) -> bool:
        """Find the moment of sample 0."""
        if self.caller_queue:
            self._base = self.caller_queue[0][1]
        elif self.agent_queue and (last or now - self.agent_queue[0][1] > STALL):
            self._base = self.agent_queue[0][1]
        else:
            return False
        self._followed_at = self._base
        return True

    def _apply_cuts(self) -> None:
        self._cuts.clear()
        kept: deque[tuple[bytes, float]] = deque()
        for _ in range(len(self.agent_queue)):
            payload, at = self.agent_queue.popleft()
            if payload is not _CUT:
                kept.append((payload, at))
                continue
            while kept and kept[-1][1] >= at:
                kept.pop()
            if kept:
                heard, play_at = kept.pop()
                samples = round((at - play_at) / self._seconds_a_byte) // self._sample_bytes
                kept.append((heard[: samples * self._sample_bytes], play_at))
        self.agent_queue.extendleft(reversed(kept))

    def _place_caller(self, horizon: float, last: bool) -> None:
        assert self._base is not None
        base, position, pending, seconds_a_byte = self._base, self._position, self.caller_queue, self._seconds_a_byte
        parts: list[bytes] = []
        earliest = STALL
        while pending and (last or base + position <= horizon):
            payload, at, lost_ms = pending[0]
            late = at - base - position
            if lost_ms or not 0 <= late <= GAP:
                followed = pending[-1][1] - at >= HOLD
                if late > GAP and not followed and not last:
                    break  # what follows will tell a gap from a delay
                # Of a loss no more than the clock has room for.
                missing = max(0.0, min(lost_ms / 1000, late))
                late -= missing
                least = GAP if followed else HOLD
                if late > least and (common := self._common_lateness(base, position + missing)) > least:
                    missing += common
                    late -= common
                elif late < 0:
                    base += late
                    late = 0.0
                self._decode_into_caller(parts)
                self._caller_pcm.extend(bytes(2 * (round((position + missing) * RATE) - round(position * RATE))))
                position += missing
            if late < earliest:
                earliest = late
            pending.popleft()
            parts.append(payload)
            position += len(payload) * seconds_a_byte
        self._decode_into_caller(parts)
        if earliest < GAP:
            base += min(earliest, max(0.0, horizon - self._followed_at) * DRIFT)
        self._followed_at = horizon
        if not pending and not last and horizon - base - position > STALL:
            samples = round((horizon - base - position) * RATE)
            self._caller_pcm.extend(bytes(2 * samples))
            position += samples / RATE
        self._base, self._position = base, position

    def _common_lateness(self, base: float, position: float) -> float:
        """By how much every payload that waits is late, at the least."""
        common = 1e9
        for payload, at, lost_ms in tuple(self.caller_queue):  # a copy: the other thread may append
            common = min(common, at - base - position)
            position += len(payload) * self._seconds_a_byte + lost_ms / 1000
        return common

    def _decode_into_caller(self, parts: list[bytes]) -> None:
        if parts:
            self._caller_pcm.extend(self._decode_caller(b"".join(parts)))
            parts.clear()

    def _place_agent(self, horizon: float, last: bool) -> None:
        assert self._base is not None
        base, pending, seconds_a_byte = self._base, self.agent_queue, self._seconds_a_byte
        parts: list[bytes] = []
        end = base + self._taken / RATE + len(self._agent_pcm) / (2 * RATE)
        while pending:
            payload, play_at = pending[0]
            seconds = len(payload) * seconds_a_byte
            if play_at + seconds > horizon and not last:
                break
            pending.popleft()
            if play_at - end > SNAP:
                self._decode_into_agent(parts)
                self._silence_until(play_at - base)
                end = play_at
            parts.append(payload)
            end += seconds
        self._decode_into_agent(parts)
        if last or (pending and pending[0][1] - end <= SNAP):
            return  # what comes next follows at once: padding would tear it off
        self._silence_until((min(horizon, pending[0][1]) if pending else horizon) - base)

    def _decode_into_agent(self, parts: list[bytes]) -> None:
        if parts:
            self._agent_pcm.extend(self._decode_agent(b"".join(parts)))
            parts.clear()

    def _silence_until(self, seconds: float) -> None:
        samples = round(seconds * RATE) - self._taken - len(self._agent_pcm) // 2
        if samples > 0:
            self._agent_pcm.extend(bytes(2 * samples))
