"""What a dialplan says of the call it hands over, and the ids that AudioSocket calls are announced by.

A dialplan gives the same few fields whatever carries the audio: as URI parameters of the WebSocket, as channel
variables, or in the HTTP request for an AudioSocket id.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

from offhook.providers import numbers
from offhook.providers.base import IncomingCall

FROM, TO, CHANNEL, DIRECTION = "from", "to", "channel", "direction"
"""Fields with a meaning of their own: who calls, the called number, the caller's channel (`${UNIQUEID}`), and
`outbound` for a call that we placed. All others are passed on as they are."""

VARIABLE_PREFIX: Final = "OFFHOOK_"
"""Channel variables that are taken for fields: `OFFHOOK_FROM` is `from`. A dialplan has others that concern nobody."""

MAX_FIELDS: Final = 64
"""Fields of one call."""

MAX_FIELD: Final = 1024
"""Characters of a field; the rest is cut."""

ID_LIFE: Final = 15.0
"""Seconds an AudioSocket id waits for its connection. The dialplan connects at once; Asterisk tries for 2 s."""

MAX_IDS: Final = 5000
"""Ids waiting at once: far more calls than one process takes in ID_LIFE. The oldest goes first."""


def call_fields(parameters: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """The fields of a call: those of the address, and of the channel's variables those meant for us."""
    found = {
        name[len(VARIABLE_PREFIX) :].lower(): value
        for name, value in variables.items()
        if name.startswith(VARIABLE_PREFIX)
    }
    found |= parameters
    return {name: value[:MAX_FIELD] for name, value in list(found.items())[:MAX_FIELDS]}


def incoming_call(carrier_call_id: str, fields: Mapping[str, str], number: str) -> IncomingCall:
    """The call that these fields describe. `number`: the called number of one that names none."""
    outbound = fields.get(DIRECTION) == "outbound"
    return IncomingCall(
        carrier_call_id=carrier_call_id,
        from_number=numbers.normalise(fields.get(FROM, "")),
        to_number=numbers.normalise(fields.get(TO) or number),
        direction="outbound" if outbound else "inbound",
        fields=dict(fields),
        outbound_id=fields.get(CHANNEL, "") if outbound else "",
    )


class AudioSocketIds:
    """Ids that stand for one call each: good once, and for a few seconds.

    AudioSocket has no credentials; knowing an id that we made up is what lets a connection in.
    """

    def __init__(self, new_id: Callable[[], uuid.UUID] = uuid.uuid4) -> None:
        self._new_id = new_id
        self._waiting: OrderedDict[str, tuple[IncomingCall, float]] = OrderedDict()

    def issue(self, from_number: str, to_number: str, fields: Mapping[str, str], now: float) -> str:
        """Announce a call; gives its id, in the form `8-4-4-4-12` that Asterisk reads."""
        id = str(self._new_id())
        call = incoming_call(id, call_fields({**fields, FROM: from_number, TO: to_number}, {}), "")
        self._expire(now)
        if len(self._waiting) >= MAX_IDS:
            self._waiting.popitem(last=False)
        self._waiting[id] = (call, now + ID_LIFE)
        return id

    def redeem(self, id: str, now: float) -> IncomingCall | None:
        """The call an id was issued for; None when it is unknown, used or too old. The id is used up."""
        self._expire(now)
        found = self._waiting.pop(id, None)
        return found[0] if found is not None else None

    def _expire(self, now: float) -> None:
        while self._waiting and next(iter(self._waiting.values()))[1] <= now:
            self._waiting.popitem(last=False)
