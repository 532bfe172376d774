"""Words of strangers, made harmless to look at: what an agent said or sent may hold anything at all."""

from __future__ import annotations

import math
import re
from typing import Any, Final

MAX_TEXT: Final = 4_000
"""Characters of one text that are shown."""

_HIDDEN: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Controls (ECMA-48, so colours of terminals too), marks that turn or hide text (Unicode 9.9, 23.2), and what neither
XML 1.0 (2.2) nor UTF-8 can hold."""


def shown(text: str, limit: int = MAX_TEXT) -> str:
    r"""The text with everything visible: a control becomes its escape, such as `\x1b`; lines end with `\n`.

    What is beyond `limit` characters is left out, and said to be.
    """
    kept = text[: limit + limit // 2].replace("\r\n", "\n")
    kept = _HIDDEN.sub(_escape, kept)
    if len(kept) <= limit and len(text) <= limit + limit // 2:
        return kept
    return f"{kept[:limit]}… ({len(text)} characters)"


def line(text: str, limit: int = MAX_TEXT) -> str:
    """As `shown`, on one line."""
    return " ".join(shown(text, limit).split())


def finite(value: Any) -> Any:
    """Plain data for JSON that any parser takes: what is no finite number becomes None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None, unit: str = "") -> str:
    """A measured value, as precise as it is of use: `698 ms`, `2.88 s`, `4.39`; `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    text = f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    text = re.sub(r"\.0+$", "", text)
    sign = {"pct": "%", "MOS": ""}.get(unit, unit)
    return f"{text} {sign}" if sign else text


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
