"""The agent's RTP packets as the caller hears them: each laid on the track where it could first be heard.

Theory of operation
-------------------
There is no jitter buffer: it would hide what is to be measured. A stretch of speech begins where its first packet
came. From then on timestamps rule, so that ordinary jitter puts no holes into speech; a packet that comes more than
`LATE` after its place leaves a hole behind (it is noted in `dry`), and what follows goes on from there. Quiet packets
are laid where they come: the time between two stretches of speech shrinks and grows with the network, and the error
of one stretch is none of the next. Speech is never laid over speech.

A packet is quiet when it is near digital silence, or far below the loudest of late, which leaves out the background
noise of an agent.
"""

from __future__ import annotations

from typing import Final

from offhook.codecs.audio import L16_8K
from offhook.codecs.pcm import peak
from offhook.providers.rtp.coding import BadPayload, Decoder
from offhook.providers.rtp.dtmf import KeyReceiver
from offhook.providers.rtp.media import COMFORT_NOISE, Codec, MediaPlan
from offhook.providers.rtp.packet import HEADER, HEADER_BYTES, PLAIN, BadPacket, payload_of
from offhook.providers.rtp.reports import Reception
from offhook.qa.activity import RATE, Span
from offhook.qa.network.model import Delays
from offhook.qa.phones.base import Arrivals

LATE: Final = int(0.060 * RATE)
"""Samples after its place up to which a packet counts as in time: the jitter buffers of telephones are as deep."""

EARLY: Final = 10 * RATE
"""Samples before its place from which a timestamp is another count, not audio sent ahead."""

QUIET: Final = 64
"""Peak of a quiet packet: -54 dBFS. The idle noise of μ-law is 8."""

BELOW: Final = 0.04
"""The same in relation to the loudest of late: -28 dB."""

FADE: Final = 0.998
"""What is left of that after a packet: it halves in 7 s."""

MAX_FAULTS: Final = 50

MAX_TRACK: Final = 8 * 3600 * RATE
"""Samples of a track at most, whatever timestamps say."""

_unpack = HEADER.unpack_from


class RtpIn:
    """One incoming stream. Times are seconds on the track.

    Raises:
        RuntimeError: the codec's library is not installed.
    """

    def __init__(self, plan: MediaPlan) -> None:
        self.track = bytearray()
        "int16 at 8 kHz from second 0; ends with the last packet."
        self.dry: list[Span] = []
        self.added: Delays | None = None
        "What a network that is not the agent's added to what lies on the track; None: there is no such network."
        self.arrivals = Arrivals()
        self.faults: list[str] = []
        self.jitter = 0.0
        "Seconds, RFC 3550 section 6.4.1."
        self.reception: Reception | None = None
        self._keys = KeyReceiver()
        self._decoders: dict[int, Decoder] = {}
        self._payload_type = -1
        self._ssrc = -1
        self._sequence = 0
        self._timestamp = 0
        "Of the packet laid last, and"
        self._place = 0
        "where it lies, in samples, if it is `_anchored`."
        self._ticks = 160
        "What it lasts."
        self._anchored = False
        self._speech = False
        "The packet laid last was none of the quiet ones."
        self._end = 0
        "Sample up to which something lies."
        self._loudest = 0.0
        self._came: float | None = None
        self._late = 0.0
        "What was added to the packet in hand."
        self._types: dict[int, Codec] = {}
        self.update(plan)

    def update(self, plan: MediaPlan) -> None:
        """A new agreement. What is on its way was sent by the one before. Raises RuntimeError."""
        for number, codec in plan.receive_types.items():
            if codec == plan.codec and self._types.get(number) != codec:
                self._decoders[number] = Decoder(codec, L16_8K)  # what cannot be decoded is to be known now
            elif self._types.get(number) != codec:
                self._decoders.pop(number, None)
        self._types.update(plan.receive_types)
        self._event_types = plan.dtmf_receive_types
        if not self.arrivals.at:
            self.arrivals.clock = plan.codec.clock
            self.arrivals.ticks = plan.codec.clock // 50

    def take(self, data: bytes, at: float, added: float = 0.0) -> str:
        """Take one packet, which came at `at`; gives the key that it begins, or an empty string.

        Args:
            added: seconds of its way that are not the agent's.
        """
        self._late = added
        if len(data) < HEADER_BYTES or data[0] >> 6 != 2:
            return ""  # STUN, ZRTP, and what keeps a NAT open
        first, second, sequence, timestamp, ssrc = _unpack(data)
        if first == PLAIN:
            payload = data[HEADER_BYTES:]
        else:
            try:
                payload = payload_of(data)
            except BadPacket as error:
                return self.fault(str(error))
        arrivals = self.arrivals
        arrivals.at.append(at)
        arrivals.sequence.append(sequence)
        arrivals.timestamp.append(timestamp)
        arrivals.size.append(len(payload))
        arrivals.ssrc.append(ssrc)
        if self.reception is None or ssrc != self.reception.ssrc:
            self.reception = Reception(ssrc, arrivals.clock)
        self.reception.count(sequence)
        number = second & 0x7F
        if number != self._payload_type or ssrc != self._ssrc:
            if number in self._event_types:
                try:
                    return self._keys.receive(ssrc, sequence, timestamp, second > 0x7F, payload, at)
                except ValueError as error:
                    return self.fault(str(error))
            if number == COMFORT_NOISE:
                return ""
            if not self._change(number, ssrc):
                return ""
        self._audio(sequence, timestamp, second > 0x7F, payload, at)
        return ""

    def _change(self, number: int, ssrc: int) -> bool:
        """Another stream or payload type; False when it cannot be heard."""
        codec = self._types.get(number)
        if codec is None:
            self.fault(f"payload type {number} was not agreed on")
            return False
        if number not in self._decoders:
            try:
                self._decoders[number] = Decoder(codec, L16_8K)
            except RuntimeError as error:
                self.fault(str(error))
                return False
        self._payload_type, self._ssrc = number, ssrc
        self._anchored = False
        return True

    def _audio(self, sequence: int, timestamp: int, marker: bool, payload: bytes, at: float) -> None:
        decoder = self._decoders[self._payload_type]
        clock = decoder.codec.clock
        try:
            ticks = decoder.ticks(payload)
            pcm = decoder.decode(payload)
        except (BadPayload, ValueError) as error:
            self.fault(str(error))
            return
        came, samples = max(0, int(at * RATE)), len(pcm) // 2
        loud = peak(pcm)
        self._loudest = max(float(loud), self._loudest * FADE)
        speech = loud > QUIET and loud > self._loudest * BELOW
        since = (timestamp - self._timestamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        place = self._place + since * RATE // clock
        if self._came is None:
            self.arrivals.ticks = ticks
        elif self._anchored:
            self.jitter += (min(1.0, abs(at - self._came - since / clock)) - self.jitter) / 16
        self._came = at
        gap = sequence - self._sequence & 0xFFFF
        if not self._anchored or place - came > EARLY:
            self._begin(came, pcm, samples)  # a stream begins
        elif since <= 0 or gap > 0x7FFF:
            if since < 0 and came - place <= LATE and self.track[2 * place : 2 * (place + samples)] == bytes(len(pcm)):
                self.track[2 * place : 2 * (place + samples)] = pcm  # it was overtaken, and its place is empty
            return
        elif gap == 1 and (marker or since > self._ticks):
            self._begin(came, pcm, samples)  # speech begins after silence that was not sent
        elif came - place > LATE:
            self.dry.append(Span(self._end / RATE, max(came, self._end) / RATE))
            self._begin(came, pcm, samples)
        elif not speech:
            self._hush(came, pcm, samples)
        elif not self._speech:
            self._begin(came, pcm, samples)  # a stretch of speech begins
        else:
            self._lay(place, pcm, samples)
        self._anchored, self._speech = True, speech
        self._sequence, self._timestamp, self._ticks = sequence, timestamp, ticks

    def _begin(self, came: int, pcm: bytes, samples: int) -> None:
        """Lay a packet where it came, behind what lies there; what follows is laid by timestamps from it."""
        start = max(came, self._end)
        self._note(start, start - came)
        self._lay(start, pcm, samples)

    def _note(self, start: int, pushed: int) -> None:
        """Remember how much later than without the network something lies, `pushed` samples included."""
        if self.added is not None:
            self.added.note(start / RATE, self._late + pushed / RATE)

    def _hush(self, came: int, pcm: bytes, samples: int) -> None:
        """Lay a quiet packet where it came, as much of it as lies beyond what is there already."""
        covered = max(0, self._end - came)
        if covered < samples:
            self._note(came + covered, 0)
            self._lay(came + covered, pcm[2 * covered :], samples - covered)
        self._place = came

    def _lay(self, place: int, pcm: bytes, samples: int) -> None:
        self._place = place
        end = place + samples
        if end > MAX_TRACK:
            return
        track = self.track
        missing = 2 * place - len(track)
        if missing == 0:
            track += pcm
        elif missing > 0:
            track += bytes(missing)
            track += pcm
        else:
            track[2 * place : 2 * end] = pcm
        self._end = max(self._end, end)

    def fault(self, text: str) -> str:
        """Note what the agent did wrong, each once; gives an empty string."""
        if len(self.faults) < MAX_FAULTS and text not in self.faults:
            self.faults.append(text)
        return ""
