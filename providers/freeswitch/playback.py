"""How the agent's voice reaches FreeSWITCH: four ways, for the modules differ.

* `StreamedPlayback`: linear PCM in binary messages, with marks and a clear. jambonz's `listen` with
  `bidirectionalAudio.streaming`, and its mod_audio_fork by itself.
* `BinaryPlayback`: the same without marks or clear. mod_audio_stream from 1.0.3, the commercial build.
* `ClipPlayback`: base64 clips in JSON that report when they were played. jambonz without streaming.
* `FilePlayback`: base64 clips that the module writes to files, for the dialplan to play. mod_audio_stream's
  community build.

What StreamedPlayback makes up for
----------------------------------
The module collects audio in a pre-buffer and moves it to the play-out buffer only in lots of 1280 samples at
first, of 640 later. Whatever is less stays unheard. A mark is put before the *next* audio, as a sample of the
value 0xFFFF, which play-out takes for the oldest mark while any is pending. `killAudio` empties the play-out
buffer, not the pre-buffer, and reports every pending mark as cleared, but goes on counting the samples of those
it threw away: as many later marks would be swallowed. So here

* no sample of ours is 0xFFFF (-1 becomes -2) but those meant as marks;
* when nothing has been said for `QUIET`, `PAD` of silence follows in one message: it pushes the tail out, and the
  last mark with it;
* a clear pushes the tail out first, so that `killAudio` finds all of it;
* when the marks have come back cleared, as many bare 0xFFFF samples follow, which the count swallows instead. A
  module without that fault plays them: a few samples of -1, inaudible;
* no more than `MAX_MARKS` are pending, for the module drops the rest; ours wait.
"""

from __future__ import annotations

from abc import abstractmethod
from binascii import b2a_base64
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from offhook.providers.base import Binary, MarkReached, MessagesDue, ProtocolFault, StreamEvent
from offhook.providers.freeswitch.wire import FreeswitchStream, Message

Playback = Literal["stream", "binary", "clips", "files"]
"""The four ways, as settings name them."""

MARKER: Final = b"\xff\xff"
"""The sample that stands for a mark inside the module."""

MAX_MARKS: Final = 30
"""Marks the module keeps; it drops what comes above."""

MAX_WAITING: Final = 1000
"""Marks or clips that may wait here; playout sends in real time and keeps well below."""

PAD: Final = 0.160
"""Seconds of silence that push out whatever the module holds back: its first threshold at 8 kHz."""

QUIET: Final = 0.100
"""Seconds without audio of ours after which an utterance has ended, or at least run dry. Playout is 0.2 s ahead, so
the silence is there before the caller notices."""

CLEAR_PATIENCE: Final = 0.5
"""Seconds after which marks that a clear took count as cleared, confirmed or not."""

CLIP: Final = 0.5
"""Seconds of one clip. Playout paces what it sends, so a longer clip only comes later."""

MAX_CLIPS: Final = 11
"""Clips jambonz takes: ten queued behind the one that plays."""

_encode = msgspec.json.Encoder().encode
_KILL: Final = b'{"type":"killAudio"}'


def without_markers(pcm: bytes) -> bytes:
    r"""The same samples, -1 replaced by -2.

    >>> without_markers(b"\x01\x00\xff\xff\x02\x00")
    b'\x01\x00\xfe\xff\x02\x00'
    """
    if MARKER not in pcm:
        return pcm
    samples = np.frombuffer(pcm, "<i2")
    return np.where(samples == -1, np.int16(-2), samples).astype("<i2").tobytes()


class BinaryPlayback(FreeswitchStream):
    """Bare PCM; the module plays it and says nothing."""

    def media(self, payload: bytes) -> bytes:
        return Binary(payload)

    def mark(self, name: str) -> None:
        """None: the module has no marks."""

    def clear(self, now: float) -> Sequence[bytes]:
        return ()

    def _message(self, message: Message, now: float) -> Sequence[StreamEvent] | None:
        return None


class _Timed(FreeswitchStream):
    """What the ways with a tail and a clear share: both are settled by time, as audio of the caller comes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._tail = False
        "Audio was sent that nothing has pushed out yet."
        self._quiet_since: float | None = None
        self._cleared: deque[str] = deque()
        "Marks that a clear took and that have not come back."
        self._expired: deque[str] = deque(maxlen=MAX_MARKS)
        "Marks given up as cleared; the module may still name them."
        self._clear_deadline: float | None = None

    def _said(self) -> None:
        self._tail = self._owing = True
        self._quiet_since = None

    def _take_back(self, names: Sequence[str], now: float) -> None:
        self._cleared.extend(names)
        if self._cleared:
            self._clear_deadline = now + CLEAR_PATIENCE
            self._owing = True

    def _back(self, name: str) -> bool | None:
        """Whether a mark that comes back had been cleared; True, False, or None for one given up before."""
        if name in self._cleared:
            self._cleared.remove(name)
            if not self._cleared:
                self._clear_deadline = None
            return True
        if name in self._expired:
            self._expired.remove(name)
            return None
        return False

    def _due(self, now: float) -> Sequence[StreamEvent]:
        events: list[StreamEvent] = []
        if self._clear_deadline is not None and now >= self._clear_deadline:
            self._clear_deadline = None
            events += [MarkReached(name, True) for name in self._cleared]
            self._expired.extend(self._cleared)
            self._cleared.clear()
        if self._tail:
            if self._quiet_since is None:
                self._quiet_since = now
            elif now - self._quiet_since >= QUIET:
                self._tail = False
                events += self._push_out()
        self._owing = self._tail or self._clear_deadline is not None
        return events

    @abstractmethod
    def _push_out(self) -> Sequence[StreamEvent]:
        """Nothing was said for a while: see to it that all that was said is heard."""


class StreamedPlayback(_Timed):
    """PCM with marks and a clear."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._marks: deque[str] = deque()
        "Sent, not back, not cleared; oldest first."
        self._waiting: deque[str] = deque()
        "Not sent, for too many are pending."
        self._stranded = 0
        "Marks the module counts that no sample stands for any more."

    def media(self, payload: bytes) -> bytes:
        self._said()
        return Binary(without_markers(payload))

    def mark(self, name: str) -> bytes:
        self._said()
        if self._waiting or len(self._marks) >= MAX_MARKS:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(name)
            return b""
        return self._mark(name)

    def clear(self, now: float) -> Sequence[bytes]:
        messages = (self._silence(), _KILL) if self._tail else (_KILL,)
        self._tail = False
        self._take_back([*self._marks, *self._waiting], now)
        self._marks.clear()
        self._waiting.clear()
        return messages

    def _message(self, message: Message, now: float) -> Sequence[StreamEvent] | None:
        if message.type != "mark" or message.data is None:
            return None
        name, event = message.data.name, message.data.event
        if event not in ("playout", "cleared"):
            return None
        cleared = self._back(name)
        if event == "cleared":
            self._stranded += 1
        if cleared is False:
            if name not in self._marks:
                return (ProtocolFault("unknown-mark", f"mark {name[:60]!a} was never sent, or came back before"),)
            self._marks.remove(name)
            cleared = event == "cleared"
        events: list[StreamEvent] = [] if cleared is None else [MarkReached(name, cleared)]
        return [*events, *self._catch_up()]

    def _catch_up(self) -> Sequence[StreamEvent]:
        """What may go now that a mark is back."""
        messages: list[bytes] = []
        if self._stranded and not self._marks and not self._cleared:
            messages.append(Binary(MARKER * self._stranded))
            self._stranded = 0
        while self._waiting and len(self._marks) < MAX_MARKS:
            messages.append(self._mark(self._waiting.popleft()))
            self._said()
        return (MessagesDue(tuple(messages)),) if messages else ()

    def _mark(self, name: str) -> bytes:
        self._marks.append(name)
        return _encode({"type": "mark", "data": {"name": name}})

    def _push_out(self) -> Sequence[StreamEvent]:
        return (MessagesDue((self._silence(),)),)

    def _silence(self) -> Binary:
        return Binary(bytes(self.format.size(PAD)))


class ClipPlayback(_Timed):
    """Base64 clips that say when they were played. A mark ends a clip and is its id."""

    MAX_CLIPS = MAX_CLIPS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pcm = bytearray()
        "Audio of the clip to come."
        self._made = 0
        self._playing: dict[str, list[str]] = {}
        "Clips that were sent and have not come back, oldest first, each with the marks that follow it."
        self._waiting: deque[tuple[str, bytes]] = deque()
        "Clips not sent, for the queue there is full."

    def media(self, payload: bytes) -> bytes:
        self._said()
        self._pcm += payload
        return self._clip() if len(self._pcm) >= self.format.size(CLIP) else b""

    def mark(self, name: str) -> bytes | None:
        if self._pcm:
            return self._clip(name)
        if self._playing:
            self._playing[next(reversed(self._playing))].append(name)
            return b""
        return None  # everything was played: nothing to wait for

    def clear(self, now: float) -> Sequence[bytes]:
        self._pcm.clear()
        self._waiting.clear()
        self._tail = False
        self._expired.extend(clip for clip, names in self._playing.items() if clip not in names)
        self._take_back([name for names in self._playing.values() for name in names], now)
        self._playing.clear()
        return (_KILL,)

    def _message(self, message: Message, now: float) -> Sequence[StreamEvent] | None:
        if message.type != "playDone" or message.data is None:
            return None
        clip = message.data.id
        if clip in self._playing:
            events: list[StreamEvent] = [MarkReached(name, False) for name in self._playing.pop(clip)]
            if self._waiting:
                events.append(MessagesDue((self._sent(*self._waiting.popleft()),)))
            return events
        cleared = self._back(clip)
        if cleared is False:
            return (ProtocolFault("unknown-mark", f"clip {clip[:60]!a} was never sent, or came back before"),)
        return (MarkReached(clip, True),) if cleared else ()

    def _clip(self, name: str = "") -> bytes:
        """What was collected, as a clip; empty when it has to wait."""
        self._made += 1
        clip = name or f"clip-{self._made}"
        self._playing[clip] = [name] if name else []
        pcm = bytes(self._pcm)
        self._pcm.clear()
        self._tail = False
        if self._waiting or len(self._playing) > self.MAX_CLIPS:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append((clip, pcm))
            else:
                del self._playing[clip]
            return b""
        return self._sent(clip, pcm)

    def _sent(self, clip: str, pcm: bytes) -> bytes:
        head = b'{"type":"playAudio","data":{"audioContentType":"raw","sampleRate":%d,"id":%b,"queuePlay":true,'
        head %= self.format.rate, _encode(clip)
        return head + b'"audioContent":"' + b2a_base64(pcm, newline=False) + b'"}}'

    def _push_out(self) -> Sequence[StreamEvent]:
        message = self._clip() if self._pcm else b""
        return (MessagesDue((message,)),) if message else ()


class FilePlayback(ClipPlayback):
    """Base64 clips that the module writes to files and announces as `mod_audio_stream::play`; no binary, no marks."""

    def mark(self, name: str) -> None:
        """None: nobody says when a file was played."""

    def clear(self, now: float) -> Sequence[bytes]:
        self._pcm.clear()
        self._tail = False
        return (_KILL,)  # raised as an event for whoever plays the files

    def _clip(self, name: str = "") -> bytes:
        pcm = bytes(self._pcm)
        self._pcm.clear()
        self._tail = False
        head = b'{"type":"streamAudio","data":{"audioDataType":"raw","sampleRate":%d,"audioData":"' % self.format.rate
        return head + b2a_base64(pcm, newline=False) + b'"}}'

    def _message(self, message: Message, now: float) -> Sequence[StreamEvent] | None:
        return None


PLAYBACKS: Final[dict[Playback, type[FreeswitchStream]]] = {
    "stream": StreamedPlayback,
    "binary": BinaryPlayback,
    "clips": ClipPlayback,
    "files": FilePlayback,
}
"""The class of each way."""
