"""Keeping what a model thinks aloud from being spoken.

Open models put their reasoning into the text, between tags: `<think>` (DeepSeek, Qwen, and most that learnt from
them), `[THINK]` (Mistral). A tag may be cut anywhere by the pieces it comes in.
"""

from __future__ import annotations

from typing import Final

TAGS: Final = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "[THINK]": "[/THINK]",
}
"""How reasoning begins, and how it ends."""

_MARKS: Final = (*TAGS, *TAGS.values())


class SpokenText:
    """What of a reply is meant for the caller.

    Args:
        thinking: the reply begins within reasoning. Some chat templates write the opening tag themselves, so that
            only the closing one is seen.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self._held = ""
        self._until = "</think>" if thinking else ""
        self._trim = thinking

    def feed(self, piece: str) -> str:
        """Take the next piece of the reply and give what may be spoken by now. An end without a beginning is dropped
        too."""
        self._held += piece
        spoken = []
        while True:
            marks = (self._until,) if self._until else _MARKS
            at, mark = min(((self._held.find(mark), mark) for mark in marks if mark in self._held), default=(-1, ""))
            if at < 0:
                break
            if not self._until:
                spoken.append(self._trimmed(self._held[:at]))
            self._held = self._held[at + len(mark) :]
            self._until = TAGS.get(mark, "") if not self._until else ""
            self._trim = True
        begun = _begun(self._held, marks)
        if not self._until:
            spoken.append(self._trimmed(self._held[: len(self._held) - begun]))
        self._held = self._held[len(self._held) - begun :]
        return "".join(spoken)

    def end(self) -> str:
        """Give what was held back because it might have become a tag."""
        rest = "" if self._until else self._trimmed(self._held)
        self._held = ""
        return rest

    def _trimmed(self, text: str) -> str:
        """Without the empty lines that follow reasoning."""
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text


def _begun(text: str, marks: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a mark."""
    longest = min(len(text), max(map(len, marks)) - 1)
    for size in range(longest, 0, -1):
        tail = text[-size:]
        if any(mark.startswith(tail) for mark in marks):
            return size
    return 0
