"""Stands in for the journal on disk, which has tests of its own."""

from __future__ import annotations

from typing import Any


class Journal:
    """Keeps what calls wrote."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, dict[str, Any]]] = []

    def append(self, call_id: str, event: str, data: dict[str, Any], *, sync: bool = False) -> None:
        self.entries.append((call_id, event, data))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for _, name, data in self.entries if name == event]
