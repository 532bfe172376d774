"""Which class answers for a kind: the entry points of group `offhook.agents`, or `module:Class`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from offhook.agents.api import Agent, SettingsError

GROUP: Final = "offhook.agents"

BUILT_IN: Final = frozenset({"assistant", "echo", "flow", "receptionist", "remote"})
"""Kinds that cannot block their host, so that many calls may share one; any other gets a host of its own a call."""


@cache
def _installed() -> tuple[EntryPoint, ...]:
    """Looked up once: it reads a file of every package there is, 7 ms that every call would wait for."""
    return tuple(entry_points(group=GROUP))


def known_kinds() -> list[str]:
    """The installed kinds, by name."""
    return sorted({point.name for point in _installed()})


def agent_class(kind: str) -> type[Agent]:
    """Import the class of a kind.

    Raises:
        SettingsError: no such kind, or the module does not import, or the class is no Agent.
    """
    try:
        if ":" in kind:
            module, _, name = kind.partition(":")
            found = getattr(import_module(module), name)
        else:
            points = [point for point in _installed() if point.name == kind]
            if not points:
                raise SettingsError(
                    f"agent kind {kind!r} is not installed; installed kinds: {', '.join(known_kinds())}; "
                    "a class of your own is written module:Class"
                )
            found = points[0].load()
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"agent kind {kind!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise SettingsError(f"agent kind {kind!r} is {found!r}, which is no subclass of offhook.agents.Agent")
    return found
