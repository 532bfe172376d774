"""The tables of docs/qa-scenarios.md, made of the model, so that they cannot say anything else.

    python -m offhook.qa.scenario.reference docs/qa-scenarios.md

writes them anew, each between its `<!-- table: … -->` and the next `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

from offhook.qa.measuring.metrics import METRICS
from offhook.qa.scenario.model import Scenario

_TABLE: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

_QUANTITIES: Final = {
    "800ms": ("duration", "s"),
    "-22dBov": ("level", "dB"),
    "1%": ("share", ""),
    "<=800": ("limit", ""),
}
"""First example in the schema → what it is called, and the unit of a default."""

_KINDS: Final = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
}


def tables() -> dict[str, str]:
    """Name of a part of the model, or `metrics` → its table in Markdown."""
    schema = Scenario.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = {"Scenario": schema, **schema["$defs"]}
    made = {name: _fields(one, definitions) for name, one in definitions.items()}
    return made | {"metrics": _metrics()}


def filled(page: str) -> str:
    """A page with its tables made anew. Raises KeyError for a table of something that there is not."""
    made = tables()
    return _TABLE.sub(lambda found: found[1] + "\n" + made[found[2]] + "\n" + found[3], page)


def _fields(model: dict[str, Any], definitions: dict[str, Any]) -> str:
    rows = ["| field | what | default | meaning |", "|---|---|---|---|"]
    for name, field in model["properties"].items():
        default = "required" if name in model.get("required", ()) else _default(field)
        inner = re.search(r"#/\$defs/(\w+)", str(field))
        meaning = field.get("description") or (definitions[inner[1]].get("description", "") if inner else "")
        rows.append(f"| `{name}` | {_kind(field)} | {default} | {_cell(meaning)} |")
    return "\n".join(rows) + "\n"


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        kinds = [_kind(choice) for choice in field["anyOf"] if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"] if choice != "")
    if "const" in field:
        return f"`{field['const']}`"
    if quantity := _QUANTITIES.get(str(field.get("examples", [""])[0])):
        return quantity[0]
    if field.get("type") == "array":
        if "prefixItems" in field:
            return "pair of " + " and ".join(_kind(item) for item in field["prefixItems"])
        return f"list of {_kind(field['items'])}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"name → {_kind(field['additionalProperties'])}"
    return _KINDS.get(str(field.get("type")), "anything")


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None or value in ("", [], {}) or isinstance(value, dict):
        return "–"
    quantities = [_QUANTITIES.get(str(one.get("examples", [""])[0])) for one in (field, *field.get("anyOf", ()))]
    unit = next((quantity[1] for quantity in quantities if quantity), "")
    if isinstance(value, float):
        return f"`{value:g}{unit}`"
    return (
        f"`[{', '.join(value)}]`"
        if isinstance(value, list)
        else f"`{str(value).lower() if value is True or value is False else value}`"
    )


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def _metrics() -> str:
    rows = ["| metric | unit | what | good | bad |", "|---|---|---|---|---|"]
    for name, metric in METRICS.items():
        good, bad = ("–" if bound is None else f"{bound:g}" for bound in (metric.good, metric.bad))
        each = " (one a time)" if metric.samples else ""
        rows.append(f"| `{name}` | {metric.unit or '–'} | {_cell(metric.meaning)}{each} | {good} | {bad} |")
    return "\n".join(rows) + "\n"


def main(paths: list[str]) -> None:
    """Make the tables of these pages anew."""
    for path in map(Path, paths):
        path.write_text(filled(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
