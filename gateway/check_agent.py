"""Construct one agent as a call would, in a process of its own: `python -m offhook.gateway.check_agent`.

For the doctor (`gateway/check.py`). Standard input is one JSON object, `{"kind", "settings", "path"}`; the last line
of standard output is `{"ok": true, "error": "", "warnings": […]}`, or `ok` is false and `error` says why. An agent that
hangs, exits or crashes does that to this process only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from typing import Any

from offhook.agents.api import AgentCall, SettingsError, SettingsWarning
from offhook.agents.link import CallInfo
from offhook.agents.registry import agent_class
from offhook.codecs.audio import PCMU


def _call() -> AgentCall:
    """A call that nobody made, on which every order goes nowhere."""
    nothing = dict.fromkeys(AgentCall.__abstractmethods__, lambda *_args, **_kwargs: None)
    call: AgentCall = type("NoCall", (AgentCall,), nothing)()
    call.format, call.history = PCMU, []
    call.info = CallInfo(id="check", from_number="+15550101", to_number="+15550100", carrier="check")
    return call


async def _construct(kind: str, settings: dict[str, Any]) -> None:
    agent_class(kind)(_call(), settings)


def examine(kind: str, settings: dict[str, Any]) -> str:
    """What keeps an agent of this kind from taking a call; empty when nothing does."""
    try:
        agent_class(kind).warm(settings)
        asyncio.run(_construct(kind, settings))
    except SettingsError as error:
        return str(error)
    except Exception as error:  # agent code may raise what it likes; this is its task root
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Examine the agent named on standard input."""
    asked = json.load(sys.stdin)
    sys.path += asked["path"]
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always", SettingsWarning)
        error = examine(asked["kind"], asked["settings"])
    told = [str(one.message) for one in given if issubclass(one.category, SettingsWarning)]
    sys.stdout.write("\n" + json.dumps({"ok": not error, "error": error, "warnings": told}) + "\n")


if __name__ == "__main__":
    main()
