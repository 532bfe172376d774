"""What a model sent along with a call of a function and wants to see again, such as its signed reasoning.

Messages in OpenAI's shape have no place for it, and it may be of kilobytes; so it stays in the host's memory, found
by the id of the call. A call that goes on in another host has lost it; the services say how they do without.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MOST: Final = 2000
"""How many a service keeps; the oldest go first. A conversation needs those of its last few turns."""


class Keepsakes(Generic[T]):
    """Keeps one thing for each id of a call."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, T] = OrderedDict()

    def keep(self, id: str, thing: T) -> None:
        self._kept[id] = thing
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def get(self, id: str) -> T | None:
        return self._kept.get(id)
