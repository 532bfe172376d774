"""The text messages of Asterisk's chan_websocket, in both of its spellings, read and written from both sides.

Plain text is `NAME key:value key:value` for events and `NAME` or `NAME id` for commands; JSON is one flat object with
`event` or `command`. Which of the two a channel speaks its MEDIA_START shows, and it then speaks it both ways.

Source: Asterisk's documentation of chan_websocket, and its source, which wins where the two differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

MAX_TEXT: Final = 128
"""Bytes of a text message to Asterisk; a longer one it ignores with a line in its log."""

MAX_BINARY: Final = 65_500
"""Bytes of a binary message to Asterisk; a longer one closes the socket and hangs up."""

MAX_EVENT: Final = 32 * 1024
"""Bytes of an event. MEDIA_START carries the channel's variables, and a dialplan may set hundreds."""

Command = Literal[
    "ANSWER",
    "HANGUP",
    "START_MEDIA_BUFFERING",
    "STOP_MEDIA_BUFFERING",
    "MARK_MEDIA",
    "FLUSH_MEDIA",
    "PAUSE_MEDIA",
    "CONTINUE_MEDIA",
    "GET_STATUS",
    "REPORT_QUEUE_DRAINED",
]
"""What an application may ask of the channel."""

EVENTS: Final = frozenset(
    {
        "MEDIA_START",
        "DTMF_END",
        "MEDIA_XOFF",
        "MEDIA_XON",
        "QUEUE_DRAINED",
        "MEDIA_BUFFERING_COMPLETED",
        "MEDIA_MARK_PROCESSED",
        "STATUS",
        "ERROR",
    }
)
"""What the channel tells."""

WITH_ID: Final = frozenset({"MARK_MEDIA", "STOP_MEDIA_BUFFERING", "MEDIA_MARK_PROCESSED", "MEDIA_BUFFERING_COMPLETED"})
"""Messages that may carry a correlation id; in plain text it is all that follows the name."""


class BadText(ValueError):
    """A text message that is none of chan_websocket's. `unknown`: well formed, with a name that we do not know."""

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


@dataclass(frozen=True, slots=True)
class MediaEvent:
    """One event of the channel. Fields are text whatever the spelling; `id` is the correlation id."""

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    "The channel's variables; in the JSON spelling of MEDIA_START only."
    json: bool = False
    "How it was spelt."


_decoder = msgspec.json.Decoder(dict[str, Any])


def parse_event(data: bytes | str) -> MediaEvent:
    """Read an event.

    Raises:
        BadText: too long, not UTF-8, not JSON where it begins like it, or no event that we know.
    """
    if len(data) > MAX_EVENT:
        raise BadText(f"message of {len(data)} bytes, limit {MAX_EVENT}")
    try:
        text = (data.decode() if isinstance(data, bytes) else data).strip()
    except UnicodeDecodeError as error:
        raise BadText(f"not UTF-8: {error.reason}") from error
    return _json_event(text) if text.startswith("{") else _plain_event(text)


def _json_event(text: str) -> MediaEvent:
    try:
        found = _decoder.decode(text)
    # ValueError: lone surrogates. RecursionError: nested without end.
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadText(f"not JSON: {type(error).__name__}") from error
    name = _known(found.pop("event", None))
    variables = found.pop("channel_variables", None)
    return MediaEvent(
        name=name,
        fields={key: str(value) for key, value in found.items() if isinstance(value, str | int | float)},
        id=str(found.get("correlation_id") or ""),
        variables=(
            {key: value for key, value in variables.items() if isinstance(value, str)}
            if isinstance(variables, dict)
            else {}
        ),
        json=True,
    )


def _plain_event(text: str) -> MediaEvent:
    head, _, rest = text.partition(" ")
    name = _known(head.removesuffix(":") if head.startswith("ERROR") else head)
    if name in WITH_ID:
        return MediaEvent(name, id=rest)
    if name == "ERROR":
        # Newer releases write `ERROR: text`, older ones `ERROR channel_id:… error_text:text`.
        return MediaEvent(name, {"error_text": rest.partition("error_text:")[2] or rest})
    pairs = (word.partition(":") for word in rest.split())
    return MediaEvent(name, {key: value for key, colon, value in pairs if colon})


def _known(name: object) -> str:
    if not isinstance(name, str) or name not in EVENTS:
        raise BadText(f"event {str(name)[:40]!a} is none of chan_websocket's", unknown=True)
    return name


def build_command(command: Command, id: str = "", *, json: bool) -> bytes:
    """Write a command.

    Raises:
        ValueError: `id` has a space or a character outside ASCII, or makes the message longer than Asterisk reads.
    """
    if id and (not id.isascii() or not id.isprintable() or " " in id):
        raise ValueError(f"id {id[:40]!a}: use printable ASCII without spaces")
    if json:
        message = msgspec.json.encode({"command": command} | ({"correlation_id": id} if id else {}))
    else:
        message = f"{command} {id}".rstrip().encode()
    if len(message) > MAX_TEXT:
        raise ValueError(f"id of {len(id)} characters: Asterisk ignores text messages over {MAX_TEXT} bytes")
    return message


def build_event(event: MediaEvent) -> bytes:
    """Write an event, as Asterisk does."""
    if event.json:
        found: dict[str, Any] = {"event": event.name, **event.fields}
        if event.name == "MEDIA_START":
            found["channel_variables"] = dict(event.variables)
        if event.id:
            found["correlation_id"] = event.id
        for number in ("optimal_frame_size", "ptime"):
            if number in found:
                found[number] = int(found[number])
        return msgspec.json.encode(found)
    if event.name in WITH_ID:
        return f"{event.name} {event.id}".rstrip().encode()
    if event.name == "ERROR":
        return f"ERROR: {event.fields.get('error_text', '')}".encode()
    return " ".join([event.name, *(f"{key}:{value}" for key, value in event.fields.items())]).encode()


def parse_command(data: bytes | str) -> tuple[str, str]:
    """Read a command as Asterisk does: its name and its correlation id.

    Raises:
        BadText: too long, or no JSON object with a `command` where it begins like one.
    """
    text = data.decode() if isinstance(data, bytes) else data
    if len(text.encode()) > MAX_TEXT:
        raise BadText(f"command of {len(text)} characters, limit {MAX_TEXT}")
    if not text.startswith("{"):
        name, _, id = text.partition(" ")
        return name, id
    try:
        found = _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise BadText(f"not JSON: {error}") from error
    return str(found.get("command", "")), str(found.get("correlation_id", ""))
