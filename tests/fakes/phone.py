"""A caller on the phone with an assistant whose services are scripted, in virtual time.

Tests get `dial` by importing it into their conftest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from fakes.conversation import PlayingGateway, Script, ScriptedTranscription, scripts, services

from offhook.agents import Assistant
from offhook.agents.conversation import assistant, speaker
from offhook.agents.services.base import Message
from offhook.agents.services.shared import close_shared
from offhook.agents.turns.smart_turn import SmartTurn

Dial = Callable[..., Awaitable["Phone"]]


class Phone:
    """A call to an assistant, and its script."""

    def __init__(self, gateway: PlayingGateway, script: Script) -> None:
        self.gateway, self.script = gateway, script

    @property
    def stt(self) -> ScriptedTranscription:
        return self.script.streams[-1]

    async def say(self, text: str, seconds: float = 1.0) -> float:
        """The caller speaks; gives when his last word ended."""
        await self.gateway.speak(text, seconds, stt=self.stt)
        return self.gateway.loop.time() - self.gateway.agent.vad_silence_ms / 1000

    async def quiet(self, seconds: float = 30.0) -> None:
        """Wait until the agent has said what it has to say."""
        agent = self.gateway.agent
        async with asyncio.timeout(seconds):
            while not agent._floor[0]:
                await asyncio.sleep(0.02)
            while agent._floor[0]:
                await asyncio.sleep(0.02)

    @property
    def texts(self) -> list[str]:
        return [said.text for said in self.gateway.said]

    @property
    def last_request(self) -> list[Message]:
        return [message for message in self.script.requests[-1] if message["role"] != "system"]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    phones: list[Phone] = []

    async def dial(
        script: Script | None = None,
        agent: type[Assistant] = Assistant,
        *,
        history: Sequence[Message] = (),
        **settings: Any,
    ) -> Phone:
        script = script or Script()
        base = {"prompt": "You are kind.", "vad": "webrtc", "turns": {"end": "transcript"}}
        settings = {**base, **services(script, f"s{len(phones)}"), **settings}
        agent.warm(settings)
        gateway = PlayingGateway(agent, settings, history)
        assert gateway.agent is not None, gateway.events
        phones.append(Phone(gateway, script))
        await gateway.answer()
        return phones[-1]

    await close_shared()  # tests of settings alone leave services behind
    yield dial
    for phone in phones:
        await phone.gateway.close()
    SmartTurn.close_shared()
    assistant._turn_model.cache_clear()
    await close_shared()
    scripts.clear()
    speaker._kept.clear()
