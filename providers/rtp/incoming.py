"""The peer's side of the audio: from packets to what the call hears.

Theory of operation
-------------------
Packets go through the jitter buffer and come out in order, as what the call's format wants; losses are concealed.
Telephone-events and comfort noise hold their place in the sequence, so that they are no loss. A stream with another
SSRC takes over with its second packet in a row: a stray one changes nothing. Another payload type among the agreed
ones is decoded by its own decoder, after what is left of the former has been played.

A peer that sends nothing while nobody speaks would leave the call without any time going by, and its turn-taking
waiting for a silence that it never hears. So the gap is filled, at once with comfort noise where the peer has asked
for it, else after `GAP` with silence, and for so long only that a dead line still shows. A peer whose reports go on
arriving is alive, however long it says nothing, and were it from the very beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from offhook.codecs.audio import AudioFormat
from offhook.codecs.comfort import ComfortNoise
from offhook.codecs.conceal import Concealer
from offhook.codecs.dtmf import DtmfDetector
from offhook.codecs.jitter import JitterBuffer, Played
from offhook.providers.base import DtmfReceived, MediaReceived, StreamEvent
from offhook.providers.rtp.coding import BadPayload, Decoder
from offhook.providers.rtp.dtmf import KeyReceiver
from offhook.providers.rtp.media import COMFORT_NOISE, Codec, MediaPlan
from offhook.providers.rtp.reports import Reception

OLD_COMFORT_NOISE: Final = 19
"""Reserved by RFC 3551 because older peers use it for comfort noise."""

GAP: Final = 0.2
"""Seconds without audio after which silence is heard instead: more than the jitter buffer ever waits."""

MAX_FILL: Final = 5.0
"""Seconds without any packet during which gaps are filled; from then on the line may be dead."""

MAX_COMFORT: Final = 60.0
"""The same where the peer announced its silence by comfort noise, and need not say more until it speaks."""

MAX_LOST: Final = 1.0
"""Seconds of loss that are concealed in one piece; a longer hole is not worth its length in silence."""

MAX_REPORTED: Final = 16.0
"""The same after RTCP: two reports, which come every 5 s or 7.5 at most, may be lost."""

ECHO: Final = 0.5
"""Seconds for which tones of ours may come back from the far end, and are no keys of the peer's."""

FRAME: Final = 0.020

_NONE: Final[list[StreamEvent]] = []


class Incoming:
    """One incoming stream.

    Raises:
        RuntimeError: the codec's library is not installed.
    """

    __slots__ = (
        "_agreed",
        "_alive_until",
        "_buffer",
        "_comfort",
        "_concealer",
        "_decoder",
        "_decoders",
        "_detector",
        "_event_types",
        "_expected",
        "_filled",
        "_filled_at",
        "_format",
        "_heard",
        "_keys",
        "_last_audio",
        "_noise",
        "_received",
        "_size",
        "_size_ticks",
        "_stranger",
        "_types",
        "concealed",
        "deaf_until",
        "faults",
        "listening",
        "octets",
        "payload_type",
        "reception",
    )

    def __init__(self, plan: MediaPlan, format: AudioFormat, *, detect_tones: bool = False) -> None:
        self._format = format
        self.concealed = 0
        "Packets that were concealed."
        self.octets = 0
        self.faults: list[tuple[str, str]] = []
        "Kind and detail of what was refused; whoever calls empties it."
        self.reception: Reception | None = None
        "None until the first packet."
        self._detector = DtmfDetector(format) if detect_tones else None
        self._concealer = Concealer(format)
        self._noise = ComfortNoise(format)
        self._keys = KeyReceiver()
        self._comfort: float | None = None
        self._last_audio: float | None = None
        self._filled, self._filled_at = 0.0, -1.0
        "Seconds of the present gap that were filled, and `_last_audio` of then."
        self._heard = self._alive_until = 0.0
        self.deaf_until = 0.0
        "Until when tones in the audio may be our own."
        self._stranger = (-1, 0)
        self._received = self._expected = 0  # in receptions that are over
        self._agreed: Mapping[int, Codec] = {}
        self._types: Mapping[int, Codec] = {}
        self._renew(plan.codec.clock)
        self._set(plan)

    def update(self, plan: MediaPlan, *, detect_tones: bool = False) -> None:
        """A new agreement: payload types, direction. The stream goes on where nothing else has changed."""
        if detect_tones and self._detector is None:
            self._detector = DtmfDetector(self._format)
        elif not detect_tones:
            self._detector = None
        self._set(plan)

    def _set(self, plan: MediaPlan) -> None:
        if plan.receive_types != self._agreed:
            # What is on its way, the peer has sent by the agreement before.
            self._types = {**self._agreed, **plan.receive_types}
            self._agreed = dict(plan.receive_types)
            self._decoders: dict[int, Decoder] = {}
            self._decoder: Decoder | None = None
            self.payload_type = -1
            self._renew(plan.codec.clock, self._buffer)
            for number, codec in self._agreed.items():
                if codec == plan.codec:
                    self._decoders[number] = Decoder(codec, self._format)
                    self._use(number)
                    break
        self._event_types = plan.dtmf_receive_types
        self.listening = plan.direction == "sendrecv"

    def _renew(self, clock: int, before: JitterBuffer | None = None) -> None:
        """An empty buffer that goes on counting; reports begin anew where their unit is another."""
        self._buffer: JitterBuffer = JitterBuffer(clock)
        if before is not None:
            self._buffer.stats = before.stats
            if before.rate != clock:
                self._end_reception()

    def _end_reception(self) -> None:
        """Another stream follows: what is counted for the call stays."""
        if self.reception is not None:
            self._received += self.reception.received
            self._expected += self.reception.expected
            self.reception = None

    def _use(self, number: int) -> None:
        decoder = self._decoders[number]
        if decoder.codec.clock != self._buffer.rate:
            self._renew(decoder.codec.clock, self._buffer)
        self._decoder, self.payload_type = decoder, number
        self._size, self._size_ticks = -1, 0

    def audio(self, sequence: int, timestamp: int, payload: bytes, now: float) -> list[StreamEvent]:
        """Take a packet of the present SSRC and payload type: the short way of what `take` does."""
        decoder, reception = self._decoder, self.reception
        assert decoder is not None
        assert reception is not None
        size = len(payload)
        if size != self._size:
            try:
                self._size_ticks = int(size * decoder.ticks_a_byte) or decoder.ticks(payload)
            except BadPayload as error:
                self.faults.append(("bad-payload", str(error)))
                return _NONE
            self._size = size if decoder.ticks_a_byte else -1
        self._heard = now
        if sequence - reception.top & 0xFFFF == 1:
            reception.top += 1
            reception.received += 1
        else:
            reception.count(sequence)
        self._comfort = None
        self.octets += size
        buffer = self._buffer
        if buffer.pass_on(sequence, timestamp, self._size_ticks, now):
            if decoder.plain and self._detector is None:
                self._last_audio = now
                payload = self._concealer.good(payload)
                return [MediaReceived(payload)] if payload and self.listening else _NONE
            return self._play([Played(payload, self._size_ticks)], now)
        buffer.push(sequence, timestamp, payload, self._size_ticks, now)
        played = buffer.pop(now)
        if not played:
            return _NONE
        if len(played) == 1 and decoder.plain and self._detector is None:
            audio = played[0].payload
            if audio:
                self._last_audio = now
                audio = self._concealer.good(audio)
                return [MediaReceived(audio)] if self.listening else _NONE
        return self._play(played, now)

    def take(
        self, number: int, marker: bool, sequence: int, timestamp: int, ssrc: int, payload: bytes, now: float
    ) -> list[StreamEvent]:
        """Take one packet that was found to be the peer's; `number` is its payload type."""
        self._heard = now
        if number != self.payload_type:
            if number in self._event_types:
                return self._key(ssrc, sequence, timestamp, marker, payload, now)
            if number in (COMFORT_NOISE, OLD_COMFORT_NOISE) and number not in self._types:
                return self._silence(ssrc, sequence, timestamp, payload, now)
            if number not in self._types:
                self.faults.append(("unknown-payload", f"payload type {number} was not agreed on"))
                return _NONE
        reception = self.reception
        if reception is not None and ssrc == reception.ssrc and number == self.payload_type:
            return self.audio(sequence, timestamp, payload, now)
        events = self._change(number, sequence, ssrc, now)
        if events is None:
            return _NONE
        return events + self.audio(sequence, timestamp, payload, now)

    def _change(self, number: int, sequence: int, ssrc: int, now: float) -> list[StreamEvent] | None:
        """Another stream, or another payload type: what is left to play before it, or None while it is on trial."""
        if number not in self._decoders:
            try:
                self._decoders[number] = Decoder(self._types[number], self._format)
            except (RuntimeError, ValueError) as error:
                self.faults.append(("unknown-payload", str(error)))
                return None
        reception = self.reception
        if reception is not None and ssrc != reception.ssrc:
            if self._stranger != (ssrc, sequence - 1 & 0xFFFF):
                self._stranger = (ssrc, sequence)
                return None
            self._end_reception()
            self._buffer.reset()
        events: list[StreamEvent] = []
        if number != self.payload_type:
            self._buffer.reset()
            events = self._play(self._buffer.pop(now), now)
            self._use(number)
        if self.reception is None:
            self.reception = Reception(ssrc, self._buffer.rate)
        return events

    def _key(
        self, ssrc: int, sequence: int, timestamp: int, marker: bool, payload: bytes, now: float
    ) -> list[StreamEvent]:
        try:
            digit = self._keys.receive(ssrc, sequence, timestamp, marker, payload, now)
        except ValueError as error:
            self.faults.append(("bad-dtmf", str(error)))
            return _NONE
        self._hold_place(ssrc, sequence, timestamp, now)
        return [DtmfReceived(digit=digit)] if digit else _NONE

    def _silence(self, ssrc: int, sequence: int, timestamp: int, payload: bytes, now: float) -> list[StreamEvent]:
        """RFC 3389: the first byte is the level in -dBov, the rest a spectrum, which we leave white."""
        self._comfort = -float(payload[0] & 0x7F) if payload else -70.0
        self._hold_place(ssrc, sequence, timestamp, now)
        return _NONE

    def _hold_place(self, ssrc: int, sequence: int, timestamp: int, now: float) -> None:
        """A packet without audio: its number must not be taken for a loss."""
        reception = self.reception
        if reception is not None and reception.ssrc == ssrc:
            reception.count(sequence)
            self._buffer.push(sequence, timestamp, b"", 0, now)

    def alive(self, now: float) -> None:
        """The peer has said by RTCP that it is there."""
        self._alive_until = now + MAX_REPORTED
        if self._last_audio is None:
            self._last_audio = now

    @property
    def buffer(self) -> JitterBuffer:
        """Where packets wait; for its figures."""
        return self._buffer

    @property
    def packets(self) -> int:
        """Packets received in the whole call."""
        return self._received + (self.reception.received if self.reception else 0)

    @property
    def loss(self) -> float:
        """Share of the packets of the whole call that did not arrive, 0 to 1."""
        expected = self._expected + (self.reception.expected if self.reception else 0)
        return max(0.0, 1 - self.packets / expected) if expected > 0 else 0.0

    def poll(self, now: float) -> list[StreamEvent]:
        """What time alone has made due; to be called every 20 ms."""
        if self._buffer.depth:
            played = self._buffer.pop(now)
            if played:
                return self._play(played, now)
        last = self._last_audio
        if last is None or not self.listening:
            return _NONE
        comfort = self._comfort
        if now - last < (1.5 * FRAME if comfort is not None else GAP):
            return _NONE
        if now - self._heard > (MAX_FILL if comfort is None else MAX_COMFORT) and now > self._alive_until:
            return _NONE
        self._filled = FRAME + (self._filled if last == self._filled_at else 0.0)
        self._last_audio = self._filled_at = now - (FRAME if comfort is not None else GAP)
        if comfort is None:
            audio = self._format.silence
        else:
            audio = self._noise.frame(comfort, self._format.frame_bytes)
        return self._hear(self._concealer.good(audio), [], now)

    def _play(self, played: list[Played], now: float) -> list[StreamEvent]:
        decoder = self._decoder
        if decoder is None:
            return _NONE
        filled = self._filled if self._last_audio == self._filled_at else 0.0
        self._last_audio = now
        events: list[StreamEvent] = []
        for number, (payload, ticks) in enumerate(played):
            if payload is None:
                self.concealed += 1
                if filled > 0:  # its time has gone by in silence already
                    filled -= ticks / decoder.codec.clock
                    continue
                audio = self._concealed(decoder, ticks, played[number + 1 :])
            elif decoder.plain:
                audio = self._concealer.good(payload)
            else:
                try:
                    audio = self._concealer.good(decoder.decode(payload))
                except ValueError as error:
                    self.faults.append(("bad-payload", str(error)))
                    audio = self._concealed(decoder, ticks, [])
            if self.listening and audio:
                self._hear(audio, events, now)
        return events

    def _hear(self, audio: bytes, events: list[StreamEvent], now: float) -> list[StreamEvent]:
        events.append(MediaReceived(audio))
        if self._detector is not None:
            digits = self._detector.feed(audio)
            if now >= self.deaf_until:
                events.extend(DtmfReceived(digit=digit) for digit in digits)
        return events

    def _concealed(self, decoder: Decoder, ticks: int, after: list[Played]) -> bytes:
        seconds = min(MAX_LOST, ticks / decoder.codec.clock)
        audio = decoder.conceal(ticks, after[0].payload if after else self._buffer.peek())
        if audio is None:
            audio = self._concealer.lost(self._format.size(seconds))
        return audio
