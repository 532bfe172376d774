"""jambonz's application WebSocket: calls offered and answered over one socket instead of webhooks.

Source: https://docs.jambonz.org/reference/websocket-api. jambonz is the client, subprotocol `ws.jambonz.org`; one
socket a call. It sends `session:new`, and `verb:hook` when a verb has ended, each with a `msgid` that the `ack` must
repeat, with the verbs to go on with. Sans-I/O, like every protocol here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from offhook.providers import numbers
from offhook.providers.base import CarrierProtocolError, IncomingCall
from offhook.providers.freeswitch.metadata import MAX_KEYS, plain

SUBPROTOCOL: Final = "ws.jambonz.org"

MAX_REPLY: Final = 24 * 1024
"""Bytes of a message that jambonz takes; it closes the socket for a longer one."""

MAX_RECEIVED: Final = 64 * 1024
"""Bytes of one of its messages; session:new is about 4 KiB."""

ASKS: Final = frozenset({"session:new", "session:reconnect", "session:redirect", "session:adulting", "verb:hook"})
"""Messages that wait for an ack with verbs; the others (`call:status`, `jambonz:error`) only tell."""


class _Message(msgspec.Struct):
    type: str
    msgid: str = ""
    call_sid: str = ""
    hook: str = ""
    data: dict[str, msgspec.Raw] = {}


_decode = msgspec.json.Decoder(_Message).decode


@dataclass(frozen=True, slots=True)
class Asked:
    """A message of jambonz's."""

    type: str
    msgid: str
    call_sid: str
    fields: dict[str, str]
    "Its data; strings as they are, the rest as JSON text."

    @property
    def waits(self) -> bool:
        """Whether jambonz waits for an ack with verbs."""
        return self.type in ASKS

    @property
    def incoming(self) -> IncomingCall:
        """The call that a session:new offers. Raises CarrierProtocolError naming the missing field."""
        return call_of(self.fields | {"call_sid": self.call_sid or self.fields.get("call_sid", "")})


def read(data: bytes | str) -> Asked:
    """Read one text message. Raises CarrierProtocolError, nothing else."""
    if len(data) > MAX_RECEIVED:
        raise CarrierProtocolError(f"message of {len(data)} bytes, limit {MAX_RECEIVED}")
    try:
        message = _decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CarrierProtocolError(f"message: {error}"[:200]) from error
    return Asked(message.type, message.msgid, message.call_sid, fields_of(message.data))


def ack(asked: Asked, verbs: Sequence[dict[str, Any]]) -> bytes:
    """The one reply to a message that waits.

    Raises:
        ValueError: longer than jambonz takes; shorten what is said or the parameters.
    """
    message = msgspec.json.encode({"type": "ack", "msgid": asked.msgid, "data": list(verbs)})
    if len(message) > MAX_REPLY:
        raise ValueError(f"ack: {len(message)} bytes, jambonz takes {MAX_REPLY}: shorten the texts or the parameters")
    return message


def fields_of(data: dict[str, msgspec.Raw]) -> dict[str, str]:
    """An object's fields as text."""
    return {name: plain(data[name]) for name in list(data)[:MAX_KEYS]}


def call_of(fields: dict[str, str]) -> IncomingCall:
    """The call that jambonz's fields describe, of a webhook or a session:new.

    Raises:
        CarrierProtocolError: `call_sid` or `to` is missing.
    """
    for name in ("call_sid", "to"):
        if not fields.get(name):
            raise CarrierProtocolError(f"{name}: the field is missing")
    return IncomingCall(
        carrier_call_id=fields["call_sid"],
        from_number=numbers.normalise(fields.get("from", "")),
        to_number=numbers.normalise(fields["to"]),
        direction="outbound" if fields.get("direction") == "outbound" else "inbound",
        fields=fields,
    )
