"""Functions that act on the call itself. What they may really do the gateway decides, by the route.

    call_tools(["hang_up", "collect_dtmf"], transfer_to={"sales": "+15550123", "the workshop": "+15550124"})

The model names a destination and never a number, unless `transfer_to` is "any"; and then, too, the route's
`allow_transfer` has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from offhook.agents.api import SettingsError
from offhook.agents.functions.base import CallControl, Function, FunctionFailed
from offhook.agents.functions.python import function
from offhook.agents.functions.runner import SILENT
from offhook.agents.services.base import FunctionSchema

MAX_KEYS: Final = 32
"""Keys a caller is asked for at once: more than any card or contract has."""

FIRST_KEY: Final = 10.0
"""Seconds a caller has to find his keypad."""

NEXT_KEY: Final = 4.0
"""Seconds between two keys after which he is done; people read numbers off paper in groups."""

MAX_HOLD: Final = 300.0
"""Seconds on hold at once: after five minutes somebody has to say something."""

PATIENCE: Final = 180.0
"""Seconds that a function of the call may take: the last words, the carrier, the caller's own time."""

Destinations = Mapping[str, str | Mapping[str, str]] | str


def call_tools(names: Collection[str] = ("hang_up",), *, transfer_to: Destinations = "") -> list[Function]:
    """Make the functions that act on the call.

    Args:
        names: of `hang_up`, `send_dtmf`, `collect_dtmf`, `leave_voicemail`, `hold`, `transfer`.
        transfer_to: name → number, or name → `{number: …, when: …}` with when to transfer there; one number, or
            `any`: the model may transfer to whatever number it is told. Not empty: `transfer` is among the tools.

    Raises:
        SettingsError: an unknown name, or destinations that cannot be.
    """
    tools = []
    for name in dict.fromkeys(names):
        if name == "transfer":
            if not transfer_to:
                raise SettingsError("call_tools: transfer needs `transfer_to` with names and their numbers")
        elif name in _TOOLS:
            tools.append(_TOOLS[name]())
        else:
            raise SettingsError(f"call_tools: {name!r} is none of {', '.join(sorted([*_TOOLS, 'transfer']))}")
    if transfer_to:
        tools.append(_transfer(transfer_to))
    return tools


# --- the call's end ---------------------------------------------------------------------


@cache
def _hang_up() -> Function:
    async def hang_up(call: CallControl, reason: Annotated[str, "why, in a few words, for the record"] = "") -> str:
        """End the call, after what has been said is heard. Say goodbye first, in the same reply. Use it when the
        caller says goodbye or wants nothing more, never in the middle of something."""
        await call.hang_up(reason)
        return "The call ends."

    return function(hang_up, then="end", timeout=PATIENCE, filler=SILENT)


@cache
def _leave_voicemail() -> Function:
    async def leave_voicemail(
        message: Annotated[str, Field(min_length=1, max_length=1000, description="what to say after the tone")],
        call: CallControl,
    ) -> str:
        """Leave a message and hang up. Use it only when a mailbox or an answering machine has answered instead of a
        person; it waits for the tone by itself."""
        await call.leave_message(message)
        return "The message was left."

    return function(leave_voicemail, then="end", timeout=PATIENCE, filler=SILENT)


def _transfer(to: Destinations) -> Function:
    """The transfer: to a name, to the only number, or to any."""
    numbers: dict[str, str] = {}
    properties: dict[str, Any] = {}
    whom = "a person"
    if to == "any":
        whom = "another telephone number"
        properties["number"] = {"type": "string", "description": "digits, with + and the country code"}
    elif isinstance(to, str):
        numbers[""] = _number("transfer_to", to)
    else:
        numbers, whom = _destinations(to)
        properties["to"] = {"type": "string", "enum": list(numbers)}

    async def call(arguments: dict[str, Any], control: CallControl) -> str:
        if "number" in properties:
            number = str(arguments.get("number", "")).translate(_SEPARATORS)
            if not re.fullmatch(r"\+?[0-9]{3,15}", number):
                raise FunctionFailed("Wrong arguments: number: is no telephone number. Ask the caller for it again.")
            await control.transfer(number)
        elif "to" in properties:
            name = str(arguments.get("to", "")).strip()
            if name not in numbers:
                raise FunctionFailed(f"Wrong arguments: to: must be one of {', '.join(numbers)}.")
            await control.transfer(numbers[name])
        else:
            await control.transfer(numbers[""])
        return "The caller is connected."

    description = (
        f"Connect the caller to {whom} and leave the call. Tell the caller first, in the same reply. "
        "If it fails the caller is still here: say so and offer something else."
    )
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    schema = FunctionSchema("transfer", description, parameters)
    return Function(schema, call, timeout=PATIENCE, filler=SILENT, then="end")


def _destinations(to: Mapping[str, str | Mapping[str, str]]) -> tuple[dict[str, str], str]:
    """Names and their numbers, and how the model is told of them."""
    numbers: dict[str, str] = {}
    lines = []
    for name, entry in to.items():
        place = f"transfer_to.{name}"
        if isinstance(entry, Mapping):
            if unknown := sorted(entry.keys() - {"number", "when"}):
                raise SettingsError(f"{place}.{unknown[0]}: is not known; there are number, when")
            numbers[str(name)] = _number(place, entry.get("number"))
            lines.append(f"{name} ({entry['when']})" if entry.get("when") else str(name))
        else:
            numbers[str(name)] = _number(place, entry)
            lines.append(str(name))
    return numbers, f"one of: {'; '.join(lines)};"


def _number(place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(f'{place}: write the number in quotes, such as "+15550100"')
    plain = value.strip()
    if re.match(r"(sips?|client|tel):.", plain, re.IGNORECASE):
        return plain
    plain = plain.translate(_SEPARATORS)
    if not re.fullmatch(r"\+?[0-9]{1,15}", plain):
        raise SettingsError(f"{place}: {value!r} is no phone number; write it as +15550100, sip:… or client:…")
    return plain


_SEPARATORS: Final = str.maketrans("", "", " -.()/")


# --- keys and waiting -------------------------------------------------------------------


@cache
def _send_dtmf() -> Function:
    async def send_dtmf(
        keys: Annotated[
            str,
            Field(pattern=r"^[0-9A-D*#w]{1,32}$", description="0-9, *, #, A-D, and w to wait for half a second"),
        ],
        call: CallControl,
    ) -> str:
        """Press keys, to get through the menu of an automatic system at the other end. Never towards a person."""
        await call.send_dtmf(keys)
        return "The keys were pressed. Listen to what the system says."

    return function(send_dtmf, then="listen", timeout=PATIENCE, filler=SILENT)


@cache
def _collect_dtmf() -> Function:
    async def collect_dtmf(
        call: CallControl,
        max_digits: Annotated[int, Field(ge=1, le=MAX_KEYS, description="how many keys at most")] = MAX_KEYS,
        terminator: Annotated[Literal["#", "*", ""], "the key that ends the input; empty: none"] = "#",
        seconds: Annotated[float, Field(ge=1, le=60, description="to wait for the first key")] = FIRST_KEY,
    ) -> dict[str, str]:
        """Let the caller type something on the telephone's keypad: numbers of accounts, orders or cards, dates, codes.
        Ask for it first, in the same reply, and name the key that ends it."""
        digits = await call.collect_dtmf(
            max_digits=max_digits, terminator=terminator, first_timeout=seconds, next_timeout=NEXT_KEY
        )
        return {"digits": digits} if digits else {"digits": "", "note": "Nothing was typed. Ask once more, or go on."}

    return function(collect_dtmf, timeout=PATIENCE + MAX_KEYS * NEXT_KEY, filler=SILENT)


@cache
def _hold() -> Function:
    async def hold(
        seconds: Annotated[float, Field(ge=1, le=MAX_HOLD, description="how long")],
        call: CallControl,
    ) -> str:
        """Put the caller on hold, with music, when he asks for a moment or has to look for something. Say so first, in
        the same reply, and that any key brings you back."""
        await call.hold(seconds)
        return "The caller is back. Ask whether you can go on."

    return function(hold, timeout=MAX_HOLD + PATIENCE, filler=SILENT)


_TOOLS: Final[dict[str, Callable[[], Function]]] = {
    "collect_dtmf": _collect_dtmf,
    "hang_up": _hang_up,
    "hold": _hold,
    "leave_voicemail": _leave_voicemail,
    "send_dtmf": _send_dtmf,
}
