"""Keys as telephone-events (RFC 4733 section 2): each key of the peer told once, ours sent so that they arrive."""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

KEYS: Final = "0123456789*#ABCD"
"""By event number; 16 and above (flash, tones of modems) are no keys."""

TONE_MS: Final = 120
"""Length of a key of ours; ITU-T Q.24 receivers want 40, and gateways that play the tone anew like 100."""

GAP_MS: Final = 80
"""Silence after it; the two repetitions of the end go in here."""

PAUSE: Final = -2
"""Stands for `w` among the keys to send: silence of `PAUSE_MS`, for a menu that listens only after its sentence."""

PAUSE_MS: Final = 500

REPEATED_ENDS: Final = 2
"""The end is sent three times in all (RFC 4733 section 2.5.1.4)."""

VOLUME: Final = 10
"""-10 dBm0, the usual level of a tone."""

MAX_KEYS: Final = 128
"""Keys that may wait to be sent: more than any card number, extension and menu in one go."""

END: Final = 0x80

REMEMBERED: Final = 16
"""Keys told lately, by which repetitions and late packets are known."""

MERGE_SECONDS: Final = 0.060
"""A new timestamp this soon after the key's last packet, with the sequence going on, is the same key still."""

MERGE_PACKETS: Final = 3
"""How far the sequence may have gone on: two packets may be lost. Between two keys there are three ends and a gap."""

MAX_DURATION: Final = 0xFFFF

ACTIVE_SECONDS: Final = 0.150
"""Without a packet for so long, the key is released though its ends were lost: three intervals of 50 ms."""

_EVENT: Final = struct.Struct("!BBH")


class KeyReceiver:
    """Telephone-events of one call to keys, each told once, with its first packet.

    Theory of operation: packets of one key share the timestamp of its beginning, so (SSRC, timestamp, event) names a
    key. Three kinds of sender need more. Some give every packet a timestamp of its own; a key longer than 65535 ticks
    goes on under a later one; both are known by the sequence numbers, which hardly move. And ends are repeated, more
    often than three times by some, with those timestamps too. The marker bit, where it is set, means a new key.
    """

    __slots__ = ("_event", "_last", "_released", "_sequence", "_ssrc", "_told")

    def __init__(self) -> None:
        self._told: deque[tuple[int, int, int]] = deque(maxlen=REMEMBERED)
        self._ssrc = self._event = -1
        self._sequence = 0
        self._last = float("-inf")
        self._released = True

    def active(self, now: float) -> bool:
        """True while the peer holds a key down: a gap in its audio is no loss."""
        return not self._released and now - self._last < ACTIVE_SECONDS

    def receive(self, ssrc: int, sequence: int, timestamp: int, marker: bool, payload: bytes, now: float) -> str:
        """Take one packet; gives the key that it begins, or an empty string.

        Raises:
            ValueError: the payload is shorter than an event.
        """
        if len(payload) < _EVENT.size:
            raise ValueError(f"a telephone-event has 4 bytes, this one {len(payload)}")
        event, flags, _ = _EVENT.unpack_from(payload)
        if event >= len(KEYS):
            return ""
        name = (ssrc, timestamp, event)
        ended = flags >= END
        known = name in self._told
        if not known and not (self._same(ssrc, sequence, event, ended, now) and not marker):
            self._told.append(name)
            self._note(ssrc, sequence, event, ended, now)
            return KEYS[event]
        if not known:
            self._told.append(name)
        if ssrc == self._ssrc and event == self._event and (sequence - self._sequence & 0xFFFF) < 0x8000:
            self._note(ssrc, sequence, event, ended or self._released, now)
        return ""

    def _same(self, ssrc: int, sequence: int, event: int, ended: bool, now: float) -> bool:
        """Whether a packet with a new timestamp goes on with the key before it."""
        return (
            ssrc == self._ssrc
            and event == self._event
            and (ended or not self._released)
            and now - self._last < MERGE_SECONDS
            and 0 < (sequence - self._sequence & 0xFFFF) <= MERGE_PACKETS
        )

    def _note(self, ssrc: int, sequence: int, event: int, ended: bool, now: float) -> None:
        self._ssrc, self._sequence, self._event, self._released, self._last = ssrc, sequence, event, ended, now


class KeySender:
    """Keys of ours to payloads, one call of `next` for every packet that is due while `active`.

    Theory of operation: a key is a run of packets of growing duration, the last of which is sent three times; the two
    repetitions take place in the gap that follows. What is left of the gap is silence.
    """

    __slots__ = ("_duration", "_ends", "_event", "_gap", "_gap_ms", "_keys", "_start", "_tone_ms", "active")

    def __init__(self) -> None:
        self._keys: deque[tuple[int, int, int]] = deque()  # event, its length, the gap after it
        self._event = self._start = 0
        self._tone_ms, self._gap_ms = TONE_MS, GAP_MS
        self._duration = 0  # ticks that the key sounds already; 0: none does
        self._ends = 0  # repetitions of its end to send
        self._gap = 0  # ticks of the gap that are left
        self.active = False
        "True while there is a key to send, or the gap after one."

    def press(self, digits: str, tone_ms: int = TONE_MS, gap_ms: int = GAP_MS) -> None:
        """Append keys of that length and with that gap after each, both rounded up to whole packets.

        Raises:
            ValueError: one of them is no key, or too many wait; nothing is appended then.
        """
        self._keys.extend((code, tone_ms, gap_ms) for code in codes(digits, MAX_KEYS - len(self._keys)))
        self.active = self.active or bool(self._keys)

    def release(self) -> None:
        """Forget the keys that wait; one that sounds is finished."""
        self._keys.clear()
        self.active = self._duration > 0 or self._gap > 0

    def next(self, timestamp: int, ticks: int, clock: int) -> tuple[bytes, int, bool] | None:
        """The packet that is due at `timestamp`: payload, the event's timestamp, marker. None: send silence.

        `ticks` is what a packet lasts, `clock` the ticks of a second.
        """
        first = False
        if self._ends:
            self._ends -= 1
            self._gap -= ticks
        elif self._gap > 0:
            self._gap -= ticks
            self.active = self._gap > 0 or bool(self._keys)
            return None
        else:
            first = not self._duration
            if first:
                self._event, self._tone_ms, self._gap_ms = self._keys.popleft()
                self._start = timestamp
                if self._event == PAUSE:
                    self._gap = clock * PAUSE_MS // 1000 - ticks
                    return None
            self._duration = min(MAX_DURATION, self._duration + ticks)
            if self._duration * 1000 >= self._tone_ms * clock:
                self._ends, self._gap = REPEATED_ENDS, clock * self._gap_ms // 1000
        ended = self._duration * 1000 >= self._tone_ms * clock
        payload = _EVENT.pack(self._event, (END if ended else 0) | VOLUME, self._duration)
        if ended and not self._ends:
            self._duration = 0
            self.active = self._gap > 0 or bool(self._keys)
        return payload, self._start, first


def codes(digits: str, room: int = MAX_KEYS) -> list[int]:
    """Event numbers of keys, PAUSE for `w`.

    Raises:
        ValueError: one of them is no key, or there are more than `room`.
    """
    found = [PAUSE if digit == "w" else KEYS.find(digit.upper()) for digit in digits]
    if -1 in found:
        raise ValueError(f"{digits[:40]!r} holds more than the keys {KEYS} and w for a pause")
    if len(found) > room:
        raise ValueError(f"more than {MAX_KEYS} keys would wait to be sent: send fewer at once")
    return found
