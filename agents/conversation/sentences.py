"""Cuts a reply, as it comes out of the language model, into pieces that can be spoken.

A sentence is the unit of speech: a voice needs its end for the melody, and the caller waits for its beginning. So the
first piece may be a clause, if it is long enough to keep the voice busy until the next one is there.
"""

from __future__ import annotations

import re
from typing import Final

FIRST_CLAUSE: Final = 30
"""Characters from which the first piece may end at a comma: two seconds of speech."""

LONG: Final = 160
"""Characters from which any piece may end at a comma."""

TOO_LONG: Final = 300
"""Characters at which a piece ends at a space, whatever comes: a model that writes no full stops."""

_END: Final = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』]?(?=.)|\n+", re.DOTALL)
_CLAUSE: Final = re.compile(r"[,;:](?=\s)|\s[–—-](?=\s)|[，、；]")
_ABBREVIATED: Final = re.compile(
    r"(?:^|[\s(\"'])(?:mr|mrs|ms|dr|prof|st|sr|jr|no|vs|approx|etc|e\.g|i\.e|z\.b|d\.h|bzw|ca|nr|inc|ltd|[a-z])\.$",
    re.IGNORECASE,
)
_NUMBERED: Final = re.compile(r"(?:^|\n)\s*\d{1,2}\.$")
_SPEAKABLE: Final = re.compile(r"\w")

_MARKUP: Final = re.compile(r"\*\*|__|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)|`+|^#+\s*|^\s*[-*•]\s+", re.MULTILINE)
_LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_PICTOGRAPHS: Final = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\u200d]")


def plain(text: str) -> str:
    """Text as a voice should get it: no Markdown, no pictographs, one space between words."""
    text = _PICTOGRAPHS.sub("", _LINK.sub(r"\1", _MARKUP.sub("", text)))
    return " ".join(text.split())


class SentenceCutter:
    """One reply's text in, pieces to speak out. How the text is cut on its way in changes nothing."""

    def __init__(self) -> None:
        self._rest = ""
        self._given = 0

    def push(self, text: str) -> list[str]:
        """Take more text; give the pieces that it completes."""
        self._rest += text
        pieces = []
        while (end := self._cut()) is not None:
            piece, self._rest = self._rest[:end], self._rest[end:]
            if spoken := self._spoken(piece):
                pieces.append(spoken)
        return pieces

    def finish(self) -> list[str]:
        """The reply is complete: give what is left."""
        rest, self._rest = self._rest, ""
        return [spoken] if (spoken := self._spoken(rest)) else []

    def _spoken(self, piece: str) -> str:
        text = plain(piece)
        if not _SPEAKABLE.search(text):
            return ""
        self._given += 1
        return text

    def _cut(self) -> int | None:
        """Where the next piece ends: the earliest place there is, so that it does not matter how much is here."""
        rest = self._rest
        ends = [end for end in (self._sentence_end(rest), self._clause_end(rest)) if end is not None]
        if ends and min(ends) <= TOO_LONG:
            return min(ends)
        if len(rest) > TOO_LONG and (space := rest.rfind(" ", 0, TOO_LONG)) > 0:
            return space
        return min(ends, default=None)

    def _sentence_end(self, rest: str) -> int | None:
        for match in _END.finditer(rest):
            before = rest[: match.end()].rstrip("\n")
            if _SPEAKABLE.search(before) and not _ABBREVIATED.search(before) and not _NUMBERED.search(before):
                return match.end()
        return None

    def _clause_end(self, rest: str) -> int | None:
        match = _CLAUSE.search(rest, FIRST_CLAUSE if self._given == 0 else LONG)
        return match.end() if match else None
