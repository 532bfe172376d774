"""A SIP call as its caller sees it: a frame out and a frame in every 20 ms, keys, hold, codec."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from offhook.providers.rtp.dtmf import MAX_KEYS, codes
from offhook.qa.activity import LiveActivity, Span
from offhook.qa.line import FRAME, STALL_S
from offhook.qa.phones.base import (
    Ability,
    CallerLine,
    CallLog,
    LineEvent,
    LineEventKind,
    Mouth,
    Unable,
)
from offhook.qa.phones.pacer import EARLY, PERIOD
from offhook.qa.phones.rtp_out import SILENCE
from offhook.qa.scenario.model import DtmfWay

if TYPE_CHECKING:
    from offhook.qa.phones.rtp_audio import RtpAudio
    from offhook.qa.phones.sip_call import SipCall

FRAME_BYTES: Final = 2 * FRAME


class SipLine(CallerLine):
    """One call's line, from the answer on.

    Args:
        call: where signalling goes.
        started: second 0 of the track, monotonic.
    """

    def __init__(self, call: SipCall, started: float) -> None:
        self.activity = LiveActivity()
        self.mouth = Mouth()
        self.events: deque[LineEvent] = deque()
        self.started = started
        self.over = False
        self.audio: RtpAudio | None = None
        "There from `begin` on."
        self._call = call
        self._frames = 0
        self._said: list[bytes] = []
        self._left_at = array("d")
        self._lateness = array("d")
        self._infos: deque[tuple[int, str, int]] = deque()
        "Frame, key and milliseconds of keys to be told by INFO."
        self.pressed: list[tuple[float, str]] = []

    def begin(self, audio: RtpAudio) -> None:
        """The audio is there."""
        self.audio = audio

    # --- for the operator

    @property
    def seconds(self) -> float:
        """How much the caller has sent: the track clock."""
        return self._frames * PERIOD

    @property
    def abilities(self) -> frozenset[Ability]:  # type: ignore[override]  # follows what was agreed on
        """All that SIP has; telephone-events where they were agreed on."""
        found: set[Ability] = {"hold", "codec", "transfer", "inband", "info"}
        if self.audio is not None and self.audio.out.takes_events:
            found.add("rfc4733")
        return frozenset(found)

    def press(self, digits: str, way: DtmfWay, tone: float, gap: float) -> None:
        """Press keys, one after another. Raises Unable."""
        assert self.audio is not None
        try:
            codes(digits, MAX_KEYS)
            if way == "rfc4733":
                if not self.audio.out.takes_events:
                    raise Unable("the agent takes no telephone-events (RFC 4733); press keys by inband or by info")
                self.audio.out.press(digits, tone, gap)
                return
        except ValueError as error:
            raise Unable(str(error)) from None
        if way != "info":
            raise Unable("keys in the audio are the mouth's to sound")
        every = max(1, round((tone + gap) / PERIOD))
        first = max(self._frames + 1, self._infos[-1][0] + every if self._infos else 0)
        for number, digit in enumerate(digits):
            self._infos.append((first + number * every, digit, round(tone * 1000)))

    def hang_up(self) -> None:
        """End the call."""
        self._call.hang_up()

    def hold(self) -> None:
        """Put the agent on hold, by a re-INVITE."""
        self._call.wish("hold")

    def resume(self) -> None:
        """Come back from hold, by a re-INVITE."""
        self._call.wish("resume")

    def change_codec(self, codec: str) -> None:
        """Offer just this codec, by a re-INVITE. Raises Unable."""
        self._call.wish_codec(codec)

    # --- the clock

    def tick(self, now: float) -> None:
        """Send the frames that are due by `now`."""
        audio = self.audio
        assert audio is not None
        while not self.over:
            due = self.started + (self._frames + 1) * PERIOD
            if due > now + EARLY:
                return
            self._frame(audio, now, due)

    def broken(self, error: Exception) -> None:
        """The operator has raised: the call ends with that."""
        self._call.fail(error)

    def _frame(self, audio: RtpAudio, now: float, due: float) -> None:
        out = audio.out
        spoken = self.mouth.frame()
        pcm = None if spoken is None else spoken.tobytes()
        audio.send(pcm, now - self.started)
        self._left_at.append(now - self.started)
        self._lateness.append(max(0.0, now - due))
        # a key takes the place of what is said
        self._said.append(SILENCE if pcm is None or out.keying else pcm)
        first = self._frames * FRAME_BYTES
        self._frames += 1
        if out.pressed:
            self.pressed += [(due - self.started, key) for key in out.pressed]
        heard = bytes(audio.heard.track[first : first + FRAME_BYTES])
        self.activity.feed(heard if len(heard) == FRAME_BYTES else heard + bytes(FRAME_BYTES - len(heard)))
        while self._infos and self._infos[0][0] <= self._frames:
            _, digit, milliseconds = self._infos.popleft()
            self.pressed.append((self.seconds, digit))
            self._call.send_info(digit, milliseconds)
        self._call.operator.frame(self)

    # --- what happens

    def note(self, at: float, kind: LineEventKind, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Let the operator know, and the log."""
        event = LineEvent(at, kind, detail, headers or {})
        self.events.append(event)
        self._call.log.events.append(event)

    def key_came(self, key: str, at: float) -> None:
        """A key of the agent's."""
        self.note(at, "dtmf", key)

    def finish(self, log: CallLog, now: float) -> None:
        """The line is closed: fill the log with what was on it."""
        self.over = True
        audio = self.audio
        assert audio is not None
        log.seconds = self.seconds
        log.events.sort(key=lambda event: event.at)
        log.due = max(self._frames, int((now - self.started) / PERIOD))
        log.caller = np.frombuffer(b"".join(self._said), np.int16)
        size = len(self._said) * FRAME_BYTES
        heard = bytes(audio.heard.track[:size])
        log.agent = np.frombuffer(heard + bytes(size - len(heard)), np.int16)
        log.left_at, log.lateness = self._left_at, self._lateness
        late = zip(self._left_at, self._lateness, strict=True)
        log.stalls = [Span(left - by, left) for left, by in late if by > STALL_S]
        log.dry = audio.heard.dry
        log.arrivals = audio.heard.arrivals
        log.pressed = self.pressed
        log.faults += audio.heard.faults
        log.network_s = audio.network_s
        log.added_out, log.added_back = audio.added_out, audio.heard.added
        log.lost_frames = audio.unsent
