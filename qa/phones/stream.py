"""What the ways of calling over a media stream have in common: the ladder, and the log of a line."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from offhook.qa.line import Arrival, Line
from offhook.qa.measure import FRAME_S
from offhook.qa.phones.base import CallLog, Rung
from offhook.qa.web import Reply, Requests

MAX_TEXT: Final = 20_000
"""Characters of one message that the ladder keeps."""

MAX_RUNGS: Final = 2_000
"""Messages that the ladder keeps; a bot that clears 50 times a second has been described well enough by then."""

_HIDDEN: Final = "(left out)"

_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "set-cookie", "x-twilio-signature"})


class Notes:
    """The ladder while it grows. Times are monotonic until it is over, for the track begins with the answer.

    Args:
        keep: False: take no notes.
        secret: is taken out of every text.
    """

    def __init__(self, keep: bool = True, secret: str = "") -> None:
        self._keep, self._secret = keep, secret
        self._rungs: list[tuple[float, bool, str, str]] = []

    def note(self, out: bool, title: str, text: str = "") -> None:
        """Add a step; `out`: from the caller."""
        if self._keep and len(self._rungs) < MAX_RUNGS:
            text = text[:MAX_TEXT]
            self._rungs.append(
                (time.monotonic(), out, title, text.replace(self._secret, _HIDDEN) if self._secret else text)
            )

    def sent(self, message: bytes) -> None:
        """Add a message of the stream that is no audio, named by its `event` or `type`."""
        if self._keep:
            fields = json.loads(message)
            self.note(True, str(fields.get("event") or fields.get("type")), message.decode())

    def arrived(self, arrival: Arrival) -> None:
        """Add a message of the bot."""
        if arrival.kind != "media":
            self.note(False, arrival.kind, arrival.detail)

    def ladder(self, started: float) -> list[Rung]:
        """All of it, on a track clock that started then."""
        return [Rung(at - started, out, title, text) for at, out, title, text in self._rungs]


class NotedWeb:
    """Sends requests, and puts them and their answers into the ladder."""

    def __init__(self, web: Requests, notes: Notes) -> None:
        self._web, self._notes = web, notes

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """One request. Raises `qa.web.Unreachable`."""
        path = urlsplit(url).path or "/"
        self._notes.note(True, f"{method} {path}", _whole(f"{method} {url}", headers, body))
        reply = await self._web.request(method, url, headers, body)
        self._notes.note(False, str(reply.status), _whole(f"HTTP {reply.status}", reply.headers, reply.body))
        return reply


def _whole(first: str, headers: Mapping[str, str], body: bytes) -> str:
    lines = [first]
    for name, value in headers.items():
        secret = name.lower() in _SECRET_HEADERS or name.lower().startswith("x-plivo-signature")
        lines.append(f"{name}: {_HIDDEN if secret else value}")
    return "\n".join([*lines, "", body[:MAX_TEXT].decode("utf-8", "replace")])


def write_log(log: CallLog, line: Line, ended: float) -> None:
    """Put what was on a line into the log of its call; `ended`: monotonic seconds at which the call was over."""
    caller, agent = line.caller, line.agent
    if len(agent) < len(caller):
        agent = np.concatenate([agent, np.zeros(len(caller) - len(agent), np.int16)])
    log.caller, log.agent = caller, agent[: len(caller)]
    log.seconds = line.seconds
    log.left_at, log.lateness = line.left_at, line.lateness
    log.due = max(len(line.left_at), int((ended - line.started) / FRAME_S)) if line.opened else 0
    log.clears = [arrival.at for arrival in line.arrivals if arrival.kind == "clear"]
    log.dry, log.stalls = line.dry, line.stalls
    log.pressed = line.pressed
    log.lost_frames = line.lost_frames
