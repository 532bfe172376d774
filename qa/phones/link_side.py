"""The gateway's side of the agent link, without the gateway: what plays an agent that is served alone.

It is a carrier's side like Twilio's: what the agent sends lies in a play-out buffer that drains in real time, and every
utterance is reported exactly once, with what of it was heard. A bed is not heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from offhook.agents import link
from offhook.codecs.audio import AudioFormat
from offhook.providers.carrier_side import (
    AudioQueued,
    CarrierEvent,
    CarrierSide,
    Cleared,
    DtmfPlayed,
    PlayoutBuffer,
)

MAX_QUEUED_S: Final = 600.0
"""Agents speak faster than real time; ten minutes ahead is one that never stops."""

MAX_LIVE_S: Final = 0.4
"""Live audio that waits longer is dropped: 0.2 s at the gateway and as much at the carrier."""


@dataclass(slots=True)
class _Utterance:
    id: int
    size: int = 0
    "Bytes received."
    closed: bool = False


@dataclass(slots=True)
class _Run:
    """Audio of one utterance, or live audio, that was put into the buffer in one go."""

    utterance: _Utterance | None
    size: int


class LinkSide(CarrierSide):
    """The gateway's side of one call on the link.

    Args:
        call_id: as offered.
        format: what the agent said `ready` with.
        on_told: gets every event of the agent, as it came.
    """

    MAX_QUEUED = MAX_QUEUED_S

    def __init__(self, call_id: str, format: AudioFormat, on_told: Callable[[str], None] | None = None) -> None:
        super().__init__(call_id=call_id, stream_id=call_id, format=format)
        self.leaving: link.HangUp | link.Transfer | None = None
        "How the agent wants to end the call."
        self.over_reason = "caller_hangup"
        "Said in the last message."
        self._on_told = on_told
        self._owed: list[link.ToAgent] = []
        self._utterances: dict[int, _Utterance] = {}
        "Those that are not over, in order."
        self._used: set[int] = set()
        self._open: _Utterance | None = None
        self._runs: list[_Run] = []
        "What was put into the buffer since it was last known to be empty."

    def leaves(self, now: float) -> bool:
        """Whether the agent wants to go, and everything was heard that it wanted to be heard before."""
        return self.leaving is not None and (not self.leaving.after_speech or self.queued(now) <= 0)

    # --- towards the agent ---

    def open(self, now: float) -> list[bytes]:
        self._playout = PlayoutBuffer(self.format, now, self.MAX_QUEUED)
        return [link.encode(link.Answered())]

    def media(self, payload: bytes) -> bytes:
        return payload

    def lose(self, payload: bytes) -> None:
        """The link counts nothing."""

    def dtmf(self, digit: str) -> bytes:
        return link.encode(link.Dtmf(digit))

    def stop(self) -> list[bytes]:
        if self._playout is not None:
            self._cut(self._playout, None)
        owed, self._owed = self._owed, []
        return [link.encode(message) for message in [*owed, link.Over(self.over_reason)]]

    def due(self, now: float) -> list[bytes]:
        if self._playout is not None:
            for name in self._playout.take_reached(now):
                self._reached(name)
        owed, self._owed = self._owed, []
        return [link.encode(message) for message in owed]

    def next_due(self) -> float | None:
        return 0.0 if self._owed else super().next_due()

    def _reached(self, name: str) -> None:
        begins, number = name[0] == "s", int(name[1:])
        if begins:
            self._owed.append(link.UtteranceStarted(number))
        elif (utterance := self._utterances.pop(number, None)) is not None:
            self._report(utterance, "played", utterance.size)
            for place in reversed(range(len(self._runs))):
                if self._runs[place].utterance is utterance:
                    del self._runs[: place + 1]
                    break

    def _report(self, utterance: _Utterance, outcome: Literal["played", "cut", "dropped"], heard: int) -> None:
        heard_ms, length_ms = (round(self.format.duration(size) * 1000) for size in (heard, utterance.size))
        self._owed.append(link.UtteranceEnded(utterance.id, outcome, heard_ms, length_ms))

    def _cut(self, playout: PlayoutBuffer, now: float | None) -> float:
        """Forget what was not heard, and report it; gives the seconds dropped. `now`: None: as far as was played."""
        if now is not None:
            playout.advance(now)
        at = float("-inf") if now is None else now
        unheard = self.format.size(playout.queued(at))
        lost: dict[int, int] = {}
        for run in reversed(self._runs):  # what is left in the buffer is the end of what was put in
            part = min(run.size, unheard)
            unheard -= part
            if run.utterance is not None:
                lost[run.utterance.id] = lost.get(run.utterance.id, 0) + part
        for name in playout.take_reached(at):
            self._reached(name)
        for utterance in self._utterances.values():
            heard = utterance.size - lost.get(utterance.id, 0)
            self._report(utterance, "cut" if heard else "dropped", heard)
        self._utterances.clear()
        self._runs.clear()
        self._open = None
        return playout.clear(at, return_marks=False)

    # --- from the agent ---

    def receive(self, data: bytes | str, now: float) -> list[CarrierEvent]:
        if self._on_told is not None:
            self._on_told(data if isinstance(data, str) else data.decode("utf-8", "replace"))
        try:
            message = link.decode_from_agent(data)
        except link.LinkError as error:
            return [self.fault("bad-message", str(error), now)]
        playout = self._playout
        if playout is None:
            return [self.fault("sent-before-start", type(message).__name__, now)]
        match message:
            case link.Speak(number):
                if number in self._used:
                    return [self.fault("bad-message", f"utterance {number} was opened twice", now)]
                self._used.add(number)
                self._open = self._utterances[number] = _Utterance(number)
            case link.Spoken(number):
                self._open = None
                utterance = self._utterances.get(number)
                if utterance is not None and not utterance.closed:
                    utterance.closed = True
                    playout.push_mark(f"e{number}", now)
            case link.Clear():
                return [Cleared(now, self._cut(playout, now))]
            case link.HangUp() | link.Transfer():
                self.leaving = self.leaving or message
            case link.SendDtmf(digits):
                return [DtmfPlayed(now, digits)]
            case link.Failed(raised):
                self.leaving = link.HangUp("failed", after_speech=False)
                return [self.fault("bad-message", f"the agent failed: {raised}", now)]
            case link.Ready() | link.Refuse() | link.HostReady() | link.Beat():
                return [self.fault("bad-message", f"{type(message).__name__} in the middle of a call", now)]
            case _:
                pass  # told, for the record: a transcript, a turn's times, a note
        return []

    def receive_binary(self, data: bytes, now: float) -> list[CarrierEvent]:
        playout = self._playout
        if playout is None:
            return [self.fault("sent-before-start", f"{len(data)} bytes of audio", now)]
        events: list[CarrierEvent] = []
        if odd := len(data) % self.format.sample_bytes:
            events.append(self.fault("odd-length", f"{len(data)} bytes are no whole samples", now))
            data = data[:-odd]
        if not data:
            return events
        utterance = self._open
        if utterance is None and self.leaving is not None:
            return events  # live audio never ends by itself, and would hold up the agent that wants to go
        if utterance is None and playout.queued(now) > MAX_LIVE_S:
            detail = "live audio came faster than it can be heard, and was dropped; open an utterance with speak"
            return [*events, self.fault("overflow", detail, now)]
        if utterance is not None and not utterance.size:
            playout.push_mark(f"s{utterance.id}", now)
        plays_at = playout.push(data, now)
        if plays_at is None:
            detail = f"more than {self.MAX_QUEUED:g} s queued; the audio is dropped"
            return [*events, self.fault("overflow", detail, now)]
        if utterance is not None:
            utterance.size += len(data)
        if self._runs and self._runs[-1].utterance is utterance:
            self._runs[-1].size += len(data)
        else:
            self._runs.append(_Run(utterance, len(data)))
        return [*events, AudioQueued(now, self.format.duration(len(data)), plays_at)]
