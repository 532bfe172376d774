"""The bed: sound under everything an agent says, and alone while nobody speaks (`link.Bed`).

An agent sends the loop once a call and names it by a digest of its own afterwards. Many calls have the same one,
so its bytes are kept once, under a digest that is computed here: what a call says of its sound is believed for
that call only. Playout asks for the bed frame by frame; `Bed` remembers how far the loop is.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import Final

from offhook.agents.link import Bed as BedMessage
from offhook.codecs.audio import L16_8K, AudioFormat
from offhook.codecs.g711 import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, ulaw_to_pcm
from offhook.codecs.pcm import lay_under, scale

MAX_CACHED: Final = 32 * 1024 * 1024
"""Bytes of loops kept for calls to come: a hundred of 40 s in G.711. A call keeps its own loops beyond that."""

MAX_SOUNDS: Final = 8
"""Loops one call may switch between; with a ninth the oldest is forgotten, and must be sent again."""

MAX_GAIN: Final = 4.0
"""12 dB. More would be noise, not ambience."""

_DECODE: Final = {"pcmu": ulaw_to_pcm, "pcma": alaw_to_pcm}
_ENCODE: Final = {"pcmu": pcm_to_ulaw, "pcma": pcm_to_alaw}


class Bed:
    """One loop on one call's way out.

    Args:
        loop: the sound, in the format; at least one sample.
        format: of the loop and of everything that is mixed.
        gain: factor, 0 to MAX_GAIN; anything else is brought there.
    """

    def __init__(self, loop: bytes, format: AudioFormat, gain: float = 1.0) -> None:
        self._sample = format.sample_bytes
        self._loop = loop[: len(loop) // self._sample * self._sample]
        if not self._loop:
            raise ValueError("a bed needs at least one sample")
        self._at = 0
        self._gain = min(MAX_GAIN, max(0.0, gain)) if math.isfinite(gain) else 1.0
        self._decode, self._encode = _DECODE.get(format.encoding), _ENCODE.get(format.encoding)

    def alone(self, size: int) -> bytes:
        """The next `size` bytes with nobody speaking."""
        if self._gain == 1.0:
            return self._take(size)
        pcm = self._pcm(size)
        return pcm if self._encode is None else self._encode(pcm)

    def under(self, voice: bytes) -> bytes:
        """A voice with the next of the bed under it. An odd byte of a cut sample passes as it is."""
        whole = len(voice) // self._sample * self._sample
        if not whole:
            return voice
        odd, voice = voice[whole:], voice[:whole]
        pcm = lay_under(voice if self._decode is None else self._decode(voice), self._pcm(whole))
        return (pcm if self._encode is None else self._encode(pcm)) + odd

    def back(self, size: int) -> None:
        """The last `size` bytes were taken back: go on from there."""
        self._at = (self._at - size // self._sample * self._sample) % len(self._loop)

    def _pcm(self, size: int) -> bytes:
        loop = self._take(size)
        pcm = loop if self._decode is None else self._decode(loop)
        return pcm if self._gain == 1.0 else scale(pcm, self._gain)

    def _take(self, size: int) -> bytes:
        piece = self._loop[self._at : self._at + size]
        while len(piece) < size:
            piece += self._loop[: size - len(piece)]
        self._at = (self._at + size) % len(self._loop)
        return piece


class Sounds:
    """The loops of all calls, each once."""

    def __init__(self, limit: int = MAX_CACHED) -> None:
        self._limit = limit
        self._loops: OrderedDict[bytes, bytes] = OrderedDict()
        self.bytes = 0
        "How much is kept."

    def once(self, audio: bytes) -> bytes:
        """The same audio, as the object that other calls hold already."""
        digest = hashlib.sha256(audio).digest()
        if (kept := self._loops.get(digest)) is not None:
            self._loops.move_to_end(digest)
            return kept
        self._loops[digest] = audio
        self.bytes += len(audio)
        while self.bytes > self._limit:
            _, oldest = self._loops.popitem(last=False)
            self.bytes -= len(oldest)
        return audio


class CallBeds:
    """What one call's agent has said of its bed."""

    def __init__(self, sounds: Sounds) -> None:
        self._sounds = sounds
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._laid: BedMessage | None = None
        self._format: AudioFormat = L16_8K

    def receive(self, message: BedMessage, format: AudioFormat) -> bool:
        """Take the agent's order; `format` is that of the link now.

        False: it names a sound that this call has not had, or has had to forget; it is silence then.
        """
        self._laid, self._format = None, format
        if not message.sound:
            return True
        if len(message.audio) >= format.sample_bytes:
            self._known[message.sound] = self._sounds.once(message.audio)
            if len(self._known) > MAX_SOUNDS:
                self._known.popitem(last=False)
        elif message.sound not in self._known:
            return False
        self._known.move_to_end(message.sound)
        self._laid = message
        return True

    def bed(self, format: AudioFormat) -> Bed | None:
        """The bed as ordered last; None for silence, and for a sound sent before the carrier named its format."""
        message = self._laid
        if message is None or format != self._format:
            return None
        return Bed(self._known[message.sound], format, message.gain)
