"""What the first text message of a socket says about its call.

mod_audio_fork and mod_audio_stream send whatever the dialplan gave them, word for word: JSON as a rule, any text
at all, or nothing. jambonz sends its own JSON, into which the application's metadata is merged last, so that any
key may have been written by somebody else. Nothing here is proof of anything: who may open a socket is settled
before, by the upgrade.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

MAX_KEYS: Final = 200
"""Keys of one object that are read. jambonz sends about twenty."""

MAX_ID: Final = 128
"""Characters of a call's id. A UUID has 36."""

ID_KEYS: Final = ("uuid", "callSid", "call_sid", "Unique-ID")
FROM_KEYS: Final = ("from", "caller_id_number", "Caller-Caller-ID-Number")
TO_KEYS: Final = ("to", "destination_number", "Caller-Destination-Number")
RATE_KEYS: Final = ("sampleRate", "sample_rate", "rate")
MIX_KEYS: Final = ("mixType", "mix_type", "mix")
"""Where each fact is looked for, first found first taken."""

CHANNELS: Final = {"mono": 1, "mixed": 1, "stereo": 2}
"""Channels of each mix type."""

TEXT_KEY: Final = "metadata"
"""Where text that is no JSON object is kept."""

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a call before it is answered."""

    values: Mapping[str, str]
    "Strings as they are, everything else as JSON text."

    def first(self, keys: tuple[str, ...]) -> str:
        """The first of these keys that is there and not empty; empty when none is."""
        for key in keys:
            if value := self.values.get(key, ""):
                return value
        return ""

    @property
    def call_id(self) -> str:
        """The call's id; empty when there is none that could be one."""
        found = self.first(ID_KEYS)
        return found if len(found) <= MAX_ID and found.isascii() and found.isprintable() and " " not in found else ""

    def rate(self, default: int) -> int:
        """Samples a second; 0 for a value that is no number. `8k` is 8000."""
        text = self.first(RATE_KEYS)
        if not text:
            return default
        digits = text.removesuffix("k")
        if not digits.isascii() or not digits.isdigit() or len(digits) > 6:
            return 0
        return int(digits) * (1000 if text.endswith("k") else 1)

    def channels(self, default: str) -> int:
        """1 or 2; 0 for a mix type that does not exist."""
        return CHANNELS.get(self.first(MIX_KEYS) or default, 0)


def read(text: bytes | str, beneath: Mapping[str, str] | None = None) -> Metadata:
    """Read the first text message; never fails.

    Args:
        text: as it came; what is no JSON object is kept under TEXT_KEY.
        beneath: what holds where the text says nothing.
    """
    values = dict(beneath or {})
    try:
        found = _decode(text)
    # ValueError: not UTF-8, or lone surrogates. RecursionError: nested without end.
    except (msgspec.DecodeError, ValueError, RecursionError):
        values[TEXT_KEY] = text if isinstance(text, str) else text.decode("utf-8", "replace")
        return Metadata(values)
    for key in list(found)[:MAX_KEYS]:
        values[key] = plain(found[key])
    return Metadata(values)


def plain(raw: msgspec.Raw) -> str:
    """A JSON value as text: strings as they are, null as nothing, everything else as JSON."""
    value = bytes(raw)
    if value == b"null":
        return ""
    if value.startswith(b'"'):
        try:
            return _decode_text(value)
        except (msgspec.DecodeError, ValueError):
            pass
    return value.decode("utf-8", "replace")


def unescaped(text: str) -> str:
    r"""Undo the escaping that jambonz does once too often with the strings of an application.

    >>> unescaped('say \\"hello\\"'), unescaped('C:\\plain')
    ('say "hello"', 'C:\\plain')
    """
    if "\\" not in text:
        return text
    try:
        return _decode_text(b'"' + text.encode("utf-8", "replace") + b'"')
    except (msgspec.DecodeError, ValueError):
        return text
