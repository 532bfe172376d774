"""Where the time of a reply went: the marks of one turn, split into stages that sum to voice-to-voice.

Theory of operation
-------------------
Voice-to-voice runs from the end of the caller's voice, as it arrived here, to the first voiced frame of the reply, as
it was sent. The agent gives the marks up to the first audio of its synthesiser (`link.Turn`), playout those after
it. `hearing` comes on top: until the caller hears that frame, which is the silence the synthesiser began with and
whatever the carrier still had to play. Both ends of the sum are seen from here, each a trip on the network later than
the carrier sees them, so the sum with `hearing` is what is measured on the carrier's wire.

A stage is the time that was really waited for it, so marks may be missing, early or out of order:

* Nothing may be said before the turn is decided, so all time up to the decision is `endpointing`, whatever was
  prepared meanwhile (eager generation).
* From the reply's audio backwards each mark was waited for only when it came before the next one: a final transcript
  that comes after the first token held nothing up.
* The time of a stage that did not happen belongs to the next one that did.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from msgspec import structs

from offhook.agents.link import Turn
from offhook.codecs.audio import AudioFormat
from offhook.codecs.convert import Converter
from offhook.codecs.pcm import dbfs

STAGES: Final = ("endpointing", "understanding", "thinking", "phrasing", "synthesis", "playout")
"""In the order they happen: caller silent → turn decided → transcript → first token → first sentence → first audio of
it → first voiced frame sent."""

HEARING: Final = "hearing"
"""The stage after them: first voiced frame sent → heard."""

STAGE_HEADS: Final = {
    "endpointing": "turn",
    "understanding": "words",
    "thinking": "token",
    "phrasing": "reply",
    "synthesis": "voice",
    "playout": "play",
    HEARING: "hear",
}
"""What each ends with, in one short word for the head of a column."""

VOICED_DBFS: Final = -45.0
"""A stretch from this level on is voice. Voices peak at -10 to -20, their weakest consonants reach -45; the
silence that synthesisers begin with and the idle noise of μ-law lie below."""

WINDOW: Final = 0.010
"""Seconds of audio whose level is taken at once."""

MAX_TOTAL: Final = 60.0
"""Seconds. What comes later is no reply, or the marks are of another machine's clock."""

MAX_OPEN: Final = 16
"""Utterances whose marks are kept: more are never under way, and an agent that reports late reports at once."""


KEPT_FRAMES: Final = 125
"""Caller frames kept: 2.5 s, 30 kB a call. A reply that is slower is timed from where the detector heard the end."""

MAX_TAIL: Final = 0.5
"""Seconds by which a detector may be late in hearing the end. Where nothing is voiced for longer, the caller speaks
below VOICED_DBFS."""


@dataclass(slots=True)
class Sent:
    """What playout knows of one utterance. Monotonic seconds; 0: it did not come to that."""

    first: float = 0.0
    "First frame sent."
    voiced: float = 0.0
    "First voiced frame sent."
    heard: float = 0.0
    "That frame heard."


@dataclass(frozen=True, slots=True)
class Split:
    """One reply."""

    total_ms: float
    "Voice to voice; 0: a reply to nothing, such as a greeting."
    stages_ms: dict[str, float] = field(default_factory=dict)
    "By stage; those that did not happen are left out. They sum to the total."
    hearing_ms: float | None = None
    "Until it was heard; None: it never was."

    @property
    def heard_ms(self) -> float | None:
        """From the caller's last voiced frame until the reply is heard."""
        return None if self.hearing_ms is None else round(self.total_ms + self.hearing_ms, 1)


def split(turn: Turn, sent: Sent) -> Split:
    """Split one reply. Never negative, and the stages always sum to the total, whatever the marks."""
    start, end = turn.caller_stopped, sent.voiced or sent.first
    if not start or not start < end <= start + MAX_TOTAL:
        return Split(0.0)
    marks: dict[str, float] = {}
    until = end
    for stage, mark in (
        ("synthesis", turn.reply_audio),
        ("phrasing", turn.reply_text),
        ("thinking", turn.first_token),
        ("understanding", turn.understood),
    ):
        if 0 < mark <= until:
            marks[stage] = until = mark
    if 0 < turn.turn_ended <= end:
        marks["endpointing"] = turn.turn_ended
    marks["playout"] = end
    at = start
    stages: dict[str, float] = {}
    for stage in STAGES:
        if stage in marks:
            mark = max(at, marks[stage])
            stages[stage] = round((mark - at) * 1000, 1)
            at = mark
    hearing = round((sent.heard - end) * 1000, 1) if 0 < end <= sent.heard else None
    return Split(round((end - start) * 1000, 1), stages, hearing)


class CallerVoice:
    """The caller's latest frames, to find where his voice really ended.

    Detectors hear voice for a while after it has gone, 50 to 90 ms with Silero; believing them would make every reply
    that much faster than the caller felt it. Frames are kept as they came and looked at once a turn.
    """

    def __init__(self) -> None:
        self.frames: deque[tuple[float, bytes]] = deque(maxlen=KEPT_FRAMES)
        "(arrival, payload) of the latest ones; the media path appends here."

    def refine(self, turn: Turn, format: AudioFormat) -> Turn:
        """The same turn with `caller_stopped` at the last sound before it; unchanged where none is found."""
        latest = turn.caller_stopped
        for at, payload in reversed(self.frames):
            if at > latest:
                continue
            if latest - at > MAX_TAIL:
                break
            if (end := voice_end(payload, format)) is not None:
                return structs.replace(turn, caller_stopped=at - (format.duration(len(payload)) - end))
        return turn


class Turns:
    """Brings the two halves of every turn together: the agent's marks and playout's, in whatever order they come.

    A turn is reported once; marks that come for it later are too late.

    Args:
        report: called once for each turn of which something was sent, when it was heard, or its utterance has ended.
    """

    def __init__(self, report: Callable[[Turn, Sent], None]) -> None:
        self._report = report
        self._sent: OrderedDict[int, Sent] = OrderedDict()
        self._turns: OrderedDict[int, Turn] = OrderedDict()
        self._over: set[int] = set()

    def turn(self, turn: Turn) -> None:
        """The agent's marks; of two for the same utterance the later one counts."""
        self._turns[turn.utterance] = turn
        if len(self._turns) > MAX_OPEN:
            self._turns.popitem(last=False)
        self._look(turn.utterance)

    def started(self, utterance: int, at: float) -> None:
        """The first frame of an utterance was sent."""
        self._sent[utterance] = Sent(at)
        self._over.discard(utterance)
        if len(self._sent) > MAX_OPEN:
            self._over.discard(self._sent.popitem(last=False)[0])

    def voiced(self, utterance: int, at: float) -> None:
        """Its first voiced frame was sent."""
        if (sent := self._sent.get(utterance)) is not None:
            sent.voiced = at

    def heard(self, utterance: int, at: float) -> None:
        """That frame was heard."""
        if (sent := self._sent.get(utterance)) is not None:
            sent.heard = at
            self._look(utterance)

    def ended(self, utterance: int) -> None:
        """The utterance is over."""
        if utterance in self._sent:
            self._over.add(utterance)
            self._look(utterance)
        else:
            self._turns.pop(utterance, None)  # nothing of it was sent

    def forget(self) -> None:
        """Everything so far was another agent's, whose ids may come again."""
        self._sent.clear()
        self._turns.clear()
        self._over.clear()

    def close(self) -> None:
        """The call is over: nothing is reported any more, and whoever was told is let go of."""
        self.forget()
        self._report = _nobody

    def _look(self, utterance: int) -> None:
        turn, sent = self._turns.get(utterance), self._sent.get(utterance)
        if turn is None or sent is None or not (sent.heard or utterance in self._over):
            return
        del self._turns[utterance], self._sent[utterance]
        self._over.discard(utterance)
        self._report(turn, sent)


def _nobody(turn: Turn, sent: Sent) -> None:
    """Is told of turns after the end."""


def voice_onset(frame: bytes, format: AudioFormat) -> float | None:
    """Seconds into the frame at which voice begins, in steps of WINDOW; None: there is none."""
    return next((at for at, _ in _voiced(frame, format)), None)


def voice_end(frame: bytes, format: AudioFormat) -> float | None:
    """Seconds into the frame at which voice ends, in steps of WINDOW; None: there is none."""
    return max((end for _, end in _voiced(frame, format)), default=None)


def _voiced(frame: bytes, format: AudioFormat) -> Iterator[tuple[float, float]]:
    """Start and end of every voiced window, in seconds."""
    linear = AudioFormat("l16", format.rate)
    pcm = Converter(format, linear).convert(frame)
    size = linear.size(WINDOW)
    for at in range(0, len(pcm), size):
        if dbfs(piece := pcm[at : at + size]) >= VOICED_DBFS:
            yield linear.duration(at), linear.duration(at + len(piece))
