"""Our side of the audio: what is queued, packed and sent, at the pace of speech.

Theory of operation
-------------------
One packet is owed for every `ptime` of the clock: a key (telephone-event), else queued audio, else silence. Silence is
sent, not kept: it holds NAT bindings open and tells the peer that the line lives. On hold nothing is sent; the
timestamp goes on all the same, and the first packet afterwards carries the marker. After a short stall of ours what is
queued catches up, one packet more a tick; nothing is made up for with silence, for the audio that was held up by the
same stall would be late by as much ever after. After a long stall the timestamp skips what was missed instead of a
burst. Keys delay the audio, they do not replace it.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from offhook.codecs.audio import AudioFormat
from offhook.codecs.dtmf import tones
from offhook.providers.rtp.coding import Encoder, packet_ms
from offhook.providers.rtp.dtmf import GAP_MS, KEYS, MAX_KEYS, PAUSE, PAUSE_MS, TONE_MS, KeySender, codes
from offhook.providers.rtp.media import MediaPlan
from offhook.providers.rtp.packet import HEADER, MARKER, PLAIN

EARLY: Final = 0.005
"""Seconds by which a packet may leave before its time: ticks come on a grid, a little off it."""

MAX_BEHIND: Final = 0.100
"""Seconds behind the clock from which time is skipped. Less is made up for, one packet more a tick."""

MAX_QUEUED: Final = 5.0
"""Seconds of audio that may wait. Play-out gives 0.2 s at most, and dialling a number takes a few seconds meanwhile."""

_pack = HEADER.pack

_NONE: Final[list[bytes]] = []


class Outgoing:
    """One outgoing stream.

    Raises:
        RuntimeError: the codec's library is not installed.
    """

    __slots__ = (
        "_audio",
        "_burst",
        "_byte",
        "_clock",
        "_due",
        "_encoder",
        "_format",
        "_key_type",
        "_keys",
        "_marker",
        "_need",
        "_ptime",
        "_queue",
        "_queued",
        "_room",
        "_share",
        "_silence",
        "_silent_payload",
        "_simple",
        "_speaking",
        "_ticks",
        "_tones",
        "dropped",
        "octets",
        "packets",
        "sending",
        "sequence",
        "ssrc",
        "timestamp",
    )

    def __init__(
        self, plan: MediaPlan, format: AudioFormat, now: float, *, ssrc: int, sequence: int, timestamp: int
    ) -> None:
        self.ssrc, self.sequence, self.timestamp = ssrc, sequence & 0xFFFF, timestamp & 0xFFFFFFFF
        self.packets = self.octets = self.dropped = 0
        "`dropped` counts bytes of audio, as the codec takes it."
        self.sending = False
        self._format = format
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._tones: deque[bytes] = deque()
        self._keys = KeySender()
        self._due = now
        self._marker = MARKER
        self._speaking = False
        self._encoder = Encoder(plan.codec, format)
        self._set(plan)

    def update(self, plan: MediaPlan, now: float) -> None:
        """A new agreement: codec, numbers, packet length, direction. What is queued stays, in the new codec."""
        if plan.codec != self._encoder.codec:
            old, self._encoder = self._encoder, Encoder(plan.codec, self._format)
            if old.own != self._encoder.own:
                again = Encoder(plan.codec, old.own)
                self._queue = deque(map(again.convert, self._queue))
                self._tones = deque(map(again.convert, self._tones))
                self._queued = sum(map(len, self._queue))
            if plan.codec.clock != self._clock:
                self._marker = MARKER  # another clock: the timestamp goes on from where it is, at another pace
        self._skip(now)
        self._set(plan)

    def _set(self, plan: MediaPlan) -> None:
        encoder, ms = self._encoder, packet_ms(plan.codec, plan.ptime)
        self._audio = plan.send_type
        self._key_type = plan.dtmf_send_type
        self._clock = plan.codec.clock
        self._ptime = ms / 1000
        self._ticks = plan.codec.clock * ms // 1000
        self._need = encoder.own.rate * ms // 1000 * encoder.own.sample_bytes
        self._room = encoder.own.size(MAX_QUEUED)
        self._byte = encoder.own.duration(1)
        self._silence = encoder.own.hush(ms / 1000)
        # Linear silence is silence in any byte order; G.722 and Opus have to encode theirs.
        self._silent_payload = self._silence if plan.codec.name in ("PCMU", "PCMA", "L16") else None
        self._simple = encoder.encode is None
        self._share = max(1, 20 // ms)
        self._burst = self._share + 1
        sending = plan.direction in ("sendrecv", "sendonly")
        if sending and not self.sending:
            self._marker = MARKER
        self.sending = sending

    # --- what is to be sent

    def play(self, audio: bytes) -> None:
        """Queue audio in the format of the call. Beyond `MAX_QUEUED` the oldest is dropped."""
        if not self._encoder.plain:
            audio = self._encoder.convert(audio)
        if audio:
            self._queue.append(audio)
            self._queued += len(audio)
            while self._queued > self._room:
                old = self._queue.popleft()
                self._queued -= len(old)
                self.dropped += len(old)

    def clear(self) -> None:
        """Forget the audio that waits; keys are still sent."""
        self._queue.clear()
        self._queued = 0

    def press(self, digits: str, way: Literal["event", "tone"]) -> None:
        """Send keys, as telephone-events or as tones in the audio.

        Raises:
            ValueError: one of them is no key, or too many would wait.
        """
        if way == "event":
            self._keys.press(digits)
            return
        for code in codes(digits, MAX_KEYS - len(self._tones)):
            own = self._encoder.own
            if code == PAUSE:
                self._tones.append(own.hush(PAUSE_MS / 1000))
            else:
                self._tones.append(tones(KEYS[code], TONE_MS / 1000, own) + own.hush(GAP_MS / 1000))

    def backlog(self) -> float:
        """Seconds of audio that wait."""
        return self._queued * self._byte

    @property
    def dropped_seconds(self) -> float:
        """Seconds of audio that never left."""
        return self._encoder.own.duration(self.dropped)

    # --- sending

    @property
    def toning(self) -> bool:
        """True while keys go out as tones."""
        return bool(self._tones)

    def due(self, now: float) -> list[bytes]:
        """The packets that are owed by now, as a rule one."""
        if not self.packets:
            self._due = now
        behind = now + EARLY - self._due
        if not self.sending or behind < 0:
            return _NONE
        if behind > MAX_BEHIND:
            self._skip(now)
            self._marker = MARKER
        packets = [self._packet()]
        due = self._due + self._ptime
        while due <= now + EARLY and len(packets) < self._burst:
            if len(packets) >= self._share and self._queued < self._need and not self._keys.active:
                break
            packets.append(self._packet())
            due += self._ptime
        self._due = due
        return packets

    def _packet(self) -> bytes:
        second, timestamp = self._audio | self._marker, self.timestamp
        self._marker = 0
        queue = self._queue
        if queue and self._simple and not self._keys.active and not self._tones and len(queue[0]) == self._need:
            # The short way, of nearly all speech: a queued frame is a packet.
            payload = queue.popleft()
            self._queued -= self._need
            self._speaking = True
        elif self._keys.active:
            if self._key_type is None:
                self._keys = KeySender()  # the peer has given up telephone-events
                payload = self._pack(self._silence)
            else:
                event = self._keys.next(timestamp, self._ticks, self._clock)
                if event is None:
                    payload = self._pack(self._silence)
                else:
                    payload, timestamp, first = event
                    second = self._key_type | (MARKER if first else 0)
        elif self._tones:
            payload = self._pack(self._take(self._tones))
        elif self._queued >= self._need or (self._queued and self._speaking):
            payload = self._pack(self._next_audio())
        elif self._queued:
            # A part of a packet at the beginning of speech: the rest is on its way, and has until the next packet.
            self._speaking = True
            payload = self._pack(self._silence)
        else:
            self._speaking = False
            payload = self._silent_payload or self._pack(self._silence)
        data = _pack(PLAIN, second, self.sequence, timestamp, self.ssrc) + payload
        self.sequence = self.sequence + 1 & 0xFFFF
        self.timestamp = self.timestamp + self._ticks & 0xFFFFFFFF
        self.packets += 1
        self.octets += len(payload)
        return data

    def _pack(self, audio: bytes) -> bytes:
        encode = self._encoder.encode
        return audio if encode is None else encode(audio)

    def _next_audio(self) -> bytes:
        self._speaking = True
        queued = self._queued - self._need
        self._queued = queued if queued > 0 else 0
        return self._take(self._queue)

    def _take(self, queue: deque[bytes]) -> bytes:
        """A packet's audio from the head of the queue, filled up with silence."""
        need = self._need
        audio = queue.popleft()
        while len(audio) < need and queue:
            audio += queue.popleft()
        if len(audio) > need:
            queue.appendleft(audio[need:])
            return audio[:need]
        return audio + self._silence[len(audio) :]

    def _skip(self, now: float) -> None:
        """Let the timestamp follow the clock over time in which nothing was sent."""
        missed = int((now + EARLY - self._due) / self._ptime)
        if missed > 0:
            self._due += missed * self._ptime
            self.timestamp = self.timestamp + missed * self._ticks & 0xFFFFFFFF

    def timestamp_at(self, now: float) -> int:
        """Timestamp of our stream at this moment, for a sender report."""
        return self.timestamp + int((now - self._due) * self._clock) & 0xFFFFFFFF
