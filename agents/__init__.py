"""Who answers: the Agent API, the agent link, the agent host, and the agents that come with offhook."""

from offhook.agents.api import Agent, AgentCall, Refused, SettingsError, Utterance
from offhook.agents.link import CallInfo, UtteranceEnded

__all__ = ["Agent", "AgentCall", "CallInfo", "Refused", "SettingsError", "Utterance", "UtteranceEnded"]
