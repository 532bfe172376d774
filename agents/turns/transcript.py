"""The text of the turn that is being heard, out of finals and partials, each word once.

Theory of operation
-------------------
A speech-to-text service gives text in stretches: partials that replace each other, then a final. A turn may be over
in the middle of a stretch, before its final has come. The words taken with it (`take`) are remembered, and are cut
off what comes later for the same stretch. A final may spell them differently, so they are aligned, not compared: what
stands at the place of a taken word is that word, what comes after it is new.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

from offhook.agents.turns.backchannel import words_of

__all__ = ["LATE", "Transcript"]

LATE: Final = 3.0
"""Seconds after which a service will no longer revise a stretch. Later the same words are said again."""

_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")


class Transcript:
    """Text of one turn at a time. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.kept = ""
        "Words that belong to the turn, but were said before what is being judged now."
        self.changed_at = 0.0
        "When its words last changed."
        self.interim = False
        "Whether the service has ever given a partial."
        self.unasked = False
        "Whether it has ever given anything that was not asked for."
        self._finals: list[str] = []
        self._partial = ""
        self._raw = ""
        "The partial with the words taken already."
        self._raw_at = 0.0
        self._taken: list[str] = []
        "Words of the current stretch that are taken."
        self._taken_turn: list[str] = []
        "All words taken last, for a service that repeats a whole turn."
        self._taken_at = 0.0

    @property
    def fresh(self) -> str:
        """What is being judged."""
        return " ".join([*self._finals, self._partial] if self._partial else self._finals)

    @property
    def text(self) -> str:
        """The turn so far."""
        return f"{self.kept} {self.fresh}".strip()

    @property
    def open(self) -> bool:
        """Whether a stretch is unfinished: its final is still to come."""
        return bool(self._partial)

    def partial(self, text: str, now: float) -> bool:
        """Take a partial; True when it changed the words."""
        self._forget(now)
        text = text.strip()
        self.interim = self.interim or bool(text)
        self.unasked = self.unasked or self.interim
        self._raw, self._raw_at = text, now
        return self._change(self._finals, _after(text, self._taken), now)

    def final(self, text: str, now: float, *, last: bool = False) -> bool:
        """Take a final, the `last` of its stretch or not; True when it changed the words."""
        self._forget(now)
        text = text.strip()
        self.unasked = self.unasked or (bool(text) and not last)
        new = _after(text, self._taken)
        # A stretch may become several finals: what they have not covered yet is still to be cut off.
        self._taken = [] if last else self._taken[len(words_of(text)) :]
        self._raw = ""
        return self._change([*self._finals, new] if new else self._finals, "", now)

    def replace(self, text: str, now: float) -> bool:
        """Take the whole turn anew; True when it changed the words."""
        self._forget(now)
        new = _after(text.strip(), self._taken_turn)
        self._taken, self._taken_turn, self._raw = [], [], ""
        return self._change([new] if new else [], "", now)

    def keep(self) -> None:
        """Put what was heard aside for the turn to come."""
        self.kept = self.text
        self._forget_fresh()

    def take(self, now: float, *, closed: bool = False) -> str:
        """Give the turn and begin the next one; `closed` when the service itself has ended it and adds nothing."""
        text = self.text
        self._forget_fresh()
        self.kept = ""
        self._taken_at = now
        self._taken_turn = [] if closed else words_of(text)
        if closed:
            self._taken, self._raw = [], ""
        return text

    def _forget_fresh(self) -> None:
        if self._raw:
            self._taken = words_of(self._raw)
        self._finals, self._partial = [], ""

    def _forget(self, now: float) -> None:
        if now - max(self._taken_at, self._raw_at) > LATE:
            self._taken, self._taken_turn = [], []

    def _change(self, finals: list[str], partial: str, now: float) -> bool:
        before = words_of(self.fresh)
        self._finals, self._partial = finals, partial
        if changed := words_of(self.fresh) != before:
            self.changed_at = now
        return changed


def _after(text: str, taken: list[str]) -> str:
    """What of `text` comes after the words `taken`."""
    if not taken:
        return text
    spans = [match.start() for match in _WORD.finditer(text)]
    words = words_of(text)
    blocks = difflib.SequenceMatcher(None, taken, words, autojunk=False).get_matching_blocks()
    matched = [block for block in blocks if block.size]
    if matched:
        end = matched[-1]
        skip = end.b + len(taken) - end.a
    else:
        # Not a word in common: heard anew when there is more of it, else the same words spelt differently.
        skip = 0 if len(words) > len(taken) else len(words)
    return text[spans[skip] :] if skip < len(spans) else ""
