"""Who answers: the Agent API, the agent link, the agent host, and the agents that come with offhook."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from offhook.agents.api import Agent, AgentCall, Refused, SettingsError, Utterance
from offhook.agents.link import CallInfo, UtteranceEnded

if TYPE_CHECKING:
    from offhook.agents.conversation.assistant import Assistant
    from offhook.agents.functions.base import CallControl, FunctionFailed
    from offhook.agents.functions.python import tool

__all__ = [
    "Agent",
    "AgentCall",
    "Assistant",
    "CallControl",
    "CallInfo",
    "FunctionFailed",
    "Refused",
    "SettingsError",
    "Utterance",
    "UtteranceEnded",
    "tool",
]

_LATER = {
    "Assistant": "offhook.agents.conversation.assistant",
    "CallControl": "offhook.agents.functions.base",
    "FunctionFailed": "offhook.agents.functions.base",
    "tool": "offhook.agents.functions.python",
}
"""Imported when they are asked for: an agent without a conversation need not pay for one."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
