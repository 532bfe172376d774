"""The caller's frames as RTP packets: one codec, silence that is sent and not kept, keys as telephone-events."""

from __future__ import annotations

from typing import Final

from offhook.codecs.audio import L16_8K
from offhook.providers.rtp.coding import Encoder, packet_ms
from offhook.providers.rtp.dtmf import KEYS, KeySender
from offhook.providers.rtp.media import MediaPlan
from offhook.providers.rtp.packet import HEADER, MARKER, PLAIN

SILENCE: Final = bytes(320)
"""A frame of 20 ms at 8 kHz."""

_pack = HEADER.pack


class RtpOut:
    """One outgoing stream, by frames of 160 samples at 8 kHz.

    A packet longer than a frame leaves with the frame that completes it. While a key sounds its events go out in
    place of the audio, as with most telephones.

    Raises:
        RuntimeError: the codec's library is not installed.
    """

    def __init__(self, plan: MediaPlan, *, ssrc: int, sequence: int, timestamp: int) -> None:
        self.ssrc, self.sequence, self.timestamp = ssrc, sequence & 0xFFFF, timestamp & 0xFFFFFFFF
        self.packets = self.octets = 0
        self.sending = True
        self.pressed = ""
        "Keys that began to sound with the last frame."
        self._keys = KeySender()
        self._marker = MARKER
        self._encoder = Encoder(plan.codec, L16_8K)
        self._waiting = b""
        self._set(plan)

    def update(self, plan: MediaPlan) -> None:
        """A new agreement: codec, numbers, packet length, direction.

        Raises:
            RuntimeError: as the class; the old one holds then.
        """
        if plan.codec != self._encoder.codec:
            self._encoder, self._waiting = Encoder(plan.codec, L16_8K), b""
            self._marker = MARKER
        self._set(plan)

    def _set(self, plan: MediaPlan) -> None:
        encoder, ms = self._encoder, packet_ms(plan.codec, plan.ptime)
        self._type, self._key_type = plan.send_type, plan.dtmf_send_type
        self._clock = plan.codec.clock
        self._ticks = plan.codec.clock * ms // 1000
        self._need = encoder.own.size(ms / 1000)
        # G.722 and Opus have to encode their silence
        self._silence = encoder.own.silence if plan.codec.name in ("PCMU", "PCMA") else None
        self._whole = ms == 20
        sending = plan.direction in ("sendrecv", "sendonly")
        if sending and not self.sending:
            self._marker = MARKER
        self.sending = sending

    @property
    def takes_events(self) -> bool:
        """Whether the agent agreed to telephone-events."""
        return self._key_type is not None

    @property
    def keying(self) -> bool:
        """True while a key sounds or waits."""
        return self._keys.active

    def press(self, digits: str, tone: float, gap: float) -> None:
        """Append keys, telephone-events of `tone` seconds with `gap` seconds between. Raises ValueError."""
        self._keys.press(digits, round(tone * 1000), round(gap * 1000))

    def frame(self, pcm: bytes | None) -> list[bytes]:
        """The packets that leave with a frame of 320 bytes of int16; None: silence."""
        self.pressed = ""
        encoder = self._encoder
        if pcm is None and self._silence is not None:
            audio = self._silence
        else:
            audio = encoder.convert(pcm or SILENCE)
        if self._whole and not self._waiting and len(audio) == self._need:
            return [self._packet(audio)] if self.sending else self._skip(1)
        audio = self._waiting + audio
        need = self._need
        count = len(audio) // need
        self._waiting = audio[count * need :]
        if not self.sending:
            return self._skip(count)
        return [self._packet(audio[at : at + need]) for at in range(0, count * need, need)]

    def _skip(self, packets: int) -> list[bytes]:
        self.timestamp = self.timestamp + packets * self._ticks & 0xFFFFFFFF
        return []

    def _packet(self, audio: bytes) -> bytes:
        encode, second, timestamp = self._encoder.encode, self._type | self._marker, self.timestamp
        payload = audio if encode is None else encode(audio)
        if self._keys.active and self._key_type is not None:
            event = self._keys.next(timestamp, self._ticks, self._clock)
            if event is not None:
                payload, timestamp, first = event
                second = self._key_type | (MARKER if first else 0)
                if first:
                    self.pressed += KEYS[payload[0]]
        self._marker = 0
        data = _pack(PLAIN, second, self.sequence, timestamp, self.ssrc) + payload
        self.sequence = self.sequence + 1 & 0xFFFF
        self.timestamp = self.timestamp + self._ticks & 0xFFFFFFFF
        self.packets += 1
        self.octets += len(payload)
        return data
