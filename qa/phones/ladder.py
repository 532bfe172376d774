"""The SIP messages of a call in the order they came: for people, and for the question whether all was said."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from offhook.qa.phones.base import Rung

MAX_RUNGS: Final = 2_000
"""Messages kept of a call; a peer that never stops repeating itself must not fill the memory."""

_SECRETS: Final = re.compile(
    rb"(?im)^((?:Proxy-)?Authorization[ \t]*:.*?\bresponse=\"?)([0-9A-Za-z+/=]{4,256})"
    rb"|^(a=crypto:\d{1,9} \S{1,40} inline:)([0-9A-Za-z+/=]{4,256})"
)
"""Proofs of passwords, and keys of SRTP."""

_CALL_ID: Final = re.compile(rb"(?im)^(?:Call-ID|i)[ \t]*:[ \t]*(\S{1,256})")
_CSEQ: Final = re.compile(r"(?im)^CSeq[ \t]*:[ \t]*(\d{1,10})[ \t]+(\w{1,32})")
_BRANCH: Final = re.compile(r"(?im)^(?:Via|v)[ \t]*:[^\r\n]{0,300}?;branch=([^;,\s]{1,200})")


def call_id_of(message: bytes) -> str:
    """Call-ID of a message as it is on the wire; empty when it has none."""
    found = _CALL_ID.search(message[:8192])
    return found[1].decode("ascii", "replace") if found else ""


def redacted(message: bytes) -> bytes:
    """The message, just as long, with `x` in place of every secret."""
    return _SECRETS.sub(_hidden, message)


def _hidden(found: re.Match[bytes]) -> bytes:
    kept, secret = (found[1], found[2]) if found[1] is not None else (found[3], found[4])
    return kept + b"x" * len(secret)


def title_of(text: str) -> str:
    """`INVITE`, `200 OK`: what a message is about."""
    line = text.partition("\r\n")[0]
    return line.partition(" ")[2] if line.startswith("SIP/2.0 ") else line.partition(" ")[0]


class Ladder:
    """Takes a call's messages.

    Args:
        since: gives the present second of the track.
    """

    def __init__(self, since: Callable[[], float]) -> None:
        self.rungs: list[Rung] = []
        self._since = since
        self._seen: set[tuple[bool, str, str, str]] = set()

    def add(self, message: bytes, *, out: bool) -> None:
        """Take a message whose secrets were taken out."""
        if len(self.rungs) >= MAX_RUNGS:
            return
        text = message.decode("utf-8", "replace")
        title = title_of(text)
        cseq, branch = _CSEQ.search(text), _BRANCH.search(text)
        number = f"{cseq[1]} {cseq[2]}" if cseq else ""
        key = (out, title, number, branch[1] if branch else "")
        again = key in self._seen
        self._seen.add(key)
        if cseq and title[:1].isdigit() and cseq[2] != "INVITE":
            title = f"{title} ({cseq[2]})"
        self.rungs.append(Rung(self._since(), out, title, text, again))


def as_text(rungs: Sequence[Rung], us: str = "caller", them: str = "agent") -> str:
    """The ladder in letters, one message a line, seconds on the left."""
    width = max([len(rung.title) + (8 if rung.again else 0) for rung in rungs] + [10]) + 4
    lines = [f"{'':>10}  {us}{them:>{width + 4 - len(us)}}"]
    for rung in rungs:
        title = rung.title + (" (again)" if rung.again else "")
        arrow = f"|{f' {title} ':-^{width}}>|" if rung.out else f"|<{f' {title} ':-^{width}}|"
        lines.append(f"{rung.at:>10.3f}  {arrow}")
    return "\n".join(lines) + "\n"
