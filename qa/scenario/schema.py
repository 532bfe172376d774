"""JSON Schema of scenarios, for editors: completion, and faults while typing."""

from __future__ import annotations

from typing import Any, Final

from offhook.qa.scenario.model import Scenario

URL: Final = "https://json-schema.org/draft/2020-12/schema"

_UNITS: Final = {"800ms": "s", "-22dBov": "dB"}
"""First example of a quantity → unit of its default."""


def json_schema() -> dict[str, Any]:
    """The schema of a scenario file.

    It allows what the loader allows, shorthands and variables included. The loader knows more: faults between the
    parts, and whether the files are there.
    """
    found = Scenario.model_json_schema(by_alias=True)
    definitions = found["$defs"]
    step = definitions["Step"]["properties"]
    for verb in ("say", "barge_in", "backchannel", "wait"):
        _also(step[verb], {"type": ["string", "number"]})
    _also(step["dtmf"], {"type": ["string", "integer"]})
    expect = definitions["Expect"]["properties"]
    for field in ("heard", "not_heard", "transfer"):
        _also(expect[field], {"type": "string"})
    for field in ("must_hear", "never_hear"):
        items = definitions["SpeechAssertions"]["properties"][field]
        items["items"] = {"anyOf": [items["items"], {"type": "string"}]}
    loose = {key: _loose(value) for key, value in found.items()}
    return {"$schema": URL} | loose | {"title": "offhook scenario"}


def _also(field: dict[str, Any], shape: dict[str, Any]) -> None:
    """Let a field have one more shape."""
    field["anyOf"] = [*field["anyOf"], shape]


def _loose(node: Any) -> Any:
    """As the loader takes it: numbers where text is wanted, `${name}` where anything else is, and nothing empty."""
    if isinstance(node, list):
        return [_loose(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("default", "") is None:
        del node["default"]
    if "anyOf" in node:
        node["anyOf"] = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    unit = _UNITS.get(str(node.get("examples", [""])[0]))
    if unit and isinstance(node.get("default"), float):
        node["default"] = f"{node['default']:g}{unit}"
    node = {key: _loose(value) for key, value in node.items()}
    kind = node.get("type")
    if kind == "string" and "pattern" not in node and "enum" not in node and "const" not in node:
        node["type"] = ["string", "number"]
    elif kind in ("integer", "number", "boolean") or "enum" in node or "const" in node:
        outer = {key: node.pop(key) for key in ("title", "description", "default") if key in node}
        return outer | {"anyOf": [node, {"type": "string", "pattern": r"\$\{"}]}
    return node
