"""The echo agent: the caller hears himself. For line checks and for measuring."""

from __future__ import annotations

from typing import Any

from offhook.agents.api import Agent, AgentCall, SettingsError
from offhook.codecs.audio import AudioFormat


class Echo(Agent):
    """Send back what was heard, frame by frame.

    Settings: `format`, the audio format to convert to and back (default: none, the payload goes back
    untouched); `vad`, a detector to run on the caller (`silero`, `webrtc` or `none`, the default).
    """

    format = None

    def __init__(self, call: AgentCall, settings: dict[str, Any]) -> None:
        super().__init__(call, settings)
        if wanted := settings.get("format"):
            try:
                self.format = AudioFormat.parse(wanted)
            except ValueError as error:
                raise SettingsError(f"format: {error}") from error
        self.vad = settings.get("vad", "none")
        self.on_audio = call.stream  # type: ignore[method-assign]  # nothing in between
