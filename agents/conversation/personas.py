"""Who of several agents is talking, and what each may do: their prompts, models, voices and functions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from offhook.agents.conversation.ears import best_format
from offhook.agents.conversation.mind import Mind, Persona
from offhook.agents.conversation.settings import PersonaSettings, ServiceSection
from offhook.agents.conversation.speaker import CallVoice
from offhook.agents.functions.base import CallControl, Function, FunctionFailed
from offhook.agents.functions.call_tools import call_tools
from offhook.agents.functions.http import http_function
from offhook.agents.functions.python import functions_of
from offhook.agents.functions.runner import FunctionRunner
from offhook.agents.functions.toolbox import combined, connect, mcp_servers, release
from offhook.agents.services.base import FunctionSchema, Message, ServiceError
from offhook.agents.services.resilience import ResilientModel, ResilientTextToSpeech
from offhook.agents.services.shared import services_of

if TYPE_CHECKING:
    from offhook.agents.conversation.assistant import Assistant

MAIN: Final = "main"
"""The assistant itself, among its agents."""

HAND_OFF: Final = "hand_off_to_"
"""Begins the names of the functions by which one agent hands the caller to another."""

HANDED_OVER: Final = "The caller is yours now."
"""Their result."""

MCP_TIME: Final = 1.5
"""Seconds of ringing that MCP servers get to connect; what is not there by then joins the call when it is."""


class Cast:
    """The agents of one call. The main one speaks first; each may hand the caller to another."""

    def __init__(self, assistant: Assistant, control: CallControl) -> None:
        self._assistant, self._control = assistant, control
        self._options = options = assistant.options
        self._mind: Mind = assistant.mind
        self._call = assistant.call
        self._voices: dict[str, CallVoice] = {}
        self._closed = False
        self._tools = [
            *functions_of(assistant),
            *(http_function(tool) for tool in options.tools),
            *call_tools(options.call_tools, transfer_to=options.transfer_to),
        ]
        self._servers = mcp_servers(options.mcp)
        for server in self._servers:
            server.on_change.add(self._offer)
        self.personas: dict[str, Persona] = {}
        self._sections = {MAIN: options.tts}
        self.personas[MAIN] = self._persona(MAIN, options.prompt, options.llm)
        for name, persona in options.agents.items():
            self._sections[name] = persona.tts or options.tts
            self.personas[name] = self._persona(name, persona.prompt, persona.llm or options.llm)
        self._offer()
        self._mind.persona = self.personas[self._last_in(self._call.history)]

    def _offer(self) -> None:
        """Give everybody the functions there are at the moment."""
        for name, persona in self.personas.items():
            own = self._options.agents.get(name)
            if own is None or own.tools is None:
                tools = combined([*self._tools, *self._hand_offs(name)], self._servers)
            else:
                tools = [*(http_function(tool) for tool in own.tools), *self._hand_offs(name)]
            persona.runner.replace(tools)

    def _persona(self, name: str, prompt: str, llm: list[ServiceSection]) -> Persona:
        runner = FunctionRunner(
            [],
            self._control,
            slow_after=self._options.filler_after,
            on_slow=self._mind.slow,
            on_background=self._mind.background_result,
        )
        text = f"{self._filled_in(prompt)}\n\n{self._options.manner}".strip()
        model = ResilientModel(services_of("llm", llm), self._call.service)
        return Persona(name, text, model, runner)

    def _filled_in(self, prompt: str) -> str:
        info = self._call.info
        values = {
            **info.parameters,
            "from": info.from_number,
            "to": info.to_number,
            "now": datetime.now().astimezone().strftime("%A, %d %B %Y, %H:%M"),
        }
        for name, value in values.items():
            prompt = prompt.replace("{{" + name + "}}", value)
        return prompt

    # --- voices

    async def open(self) -> None:
        """Connect the voice of who speaks first, and the tools, while the phone rings. Raises ServiceError."""
        async with asyncio.TaskGroup() as group:
            group.create_task(connect(self._servers, MCP_TIME, self._control))
            group.create_task(self._mind.persona.model.warm())
            group.create_task(self._give_voice(self._mind.persona))
        self._offer()

    async def _give_voice(self, persona: Persona) -> None:
        section = self._sections[persona.name]
        key = repr(section)
        if key not in self._voices:
            tts = ResilientTextToSpeech(services_of("tts", section), self._call.service)
            await tts.warm()
            # The format is the carrier's as it was offered; should it turn out otherwise, lines are converted.
            format = best_format(tts.formats, self._call.format)
            voice = await tts.open(format)
            if self._closed or self._voices.setdefault(key, CallVoice(key, voice, format)).voice is not voice:
                await voice.close()  # too late, or two hand-overs at once
        persona.voice = self._voices[key]

    async def close(self) -> None:
        """The call is over. Functions that are to be kept get their time."""
        self._closed = True
        for server in self._servers:
            server.on_change.discard(self._offer)
        voices = [voice.voice.close() for voice in self._voices.values()]
        await asyncio.gather(*(self._end_functions(), *voices), return_exceptions=True)

    async def _end_functions(self) -> None:
        await asyncio.gather(*(persona.runner.close() for persona in self.personas.values()))
        await release(self._servers)

    # --- handing over

    def _hand_offs(self, name: str) -> list[Function]:
        described = {
            MAIN: PersonaSettings(prompt="", description="The agent who took the call."),
            **self._options.agents,
        }
        mine = self._options.agents.get(name)
        allowed = mine.hands_off_to if mine is not None else None
        return [
            Function(
                FunctionSchema(
                    f"{HAND_OFF}{other}",
                    f"Hand the caller over to another agent, who hears everything said so far. {persona.description}",
                    {
                        "type": "object",
                        "properties": {"reason": {"type": "string", "description": "Why, in a few words."}},
                    },
                ),
                partial(self._hand_off, other, persona.greeting),
                then="listen" if persona.greeting else "reply",
            )
            for other, persona in described.items()
            if other != name and (allowed is None or other in allowed)
        ]

    async def _hand_off(self, to: str, greeting: str, arguments: dict[str, Any], control: CallControl) -> str:
        persona = self.personas[to]
        try:
            await self._give_voice(persona)
        except ServiceError as error:
            raise FunctionFailed(f"The other agent is not available: {error}") from error
        control.note("hand_off", to=to, reason=str(arguments.get("reason", ""))[:200])
        self._mind.persona = persona
        if greeting:
            self._mind.say(greeting)
        return HANDED_OVER

    def _last_in(self, history: Sequence[Message]) -> str:
        """Who had the caller last, by the functions that were called: whoever takes the call over goes on as that."""
        done = {message["tool_call_id"] for message in history if message.get("content") == HANDED_OVER}
        for message in reversed(history):
            for call in reversed(message.get("tool_calls") or ()):
                name = str(call["function"]["name"]).removeprefix(HAND_OFF)
                if call["id"] in done and name in self.personas:
                    return name
        return MAIN
