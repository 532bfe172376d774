"""The assistant's settings: a whole agent without a line of Python."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from offhook.agents.api import SettingsError
from offhook.agents.functions.http import HttpFunctionSettings
from offhook.agents.turns.settings import TurnSettings

ServiceSection = dict[str, Any]
"""The settings of one service: `service` and whatever that service takes."""


def _listed(value: Any) -> Any:
    """One section may stand where a list of them may: the first is used, the others are its fallbacks."""
    return [value] if isinstance(value, dict) else value


ServiceSections = Annotated[list[ServiceSection], BeforeValidator(_listed), Field(min_length=1)]


MANNER: Final = (
    "You are speaking on the telephone. What you write is read out: short sentences, one question at a time, "
    "no lists, no markup, no emoji; numbers and abbreviations as they are spoken."
)


class _Section(BaseModel):
    # Errors do not show what was given: it may be a key in the wrong place.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class IdleSettings(_Section):
    """What happens when nobody says anything."""

    after: float = Field(default=8.0, ge=1, le=300)
    """Seconds of silence on both sides after which the caller is asked whether he is there."""
    prompts: list[str] = ["Are you still there?"]
    """Said one after the other, each after another such silence."""
    goodbye: str = "I can't hear you, so I'll hang up now. Goodbye."
    """Said when the last prompt was not answered; then the call ends. Empty: hang up without a word."""


class ContextSettings(_Section):
    """How much of the conversation the model gets."""

    max_tokens: int = Field(default=6000, ge=500)
    """About how long it may be before the oldest part is summarised."""
    keep: int = Field(default=10, ge=2)
    """Messages that stay word for word."""


class SoundSettings(_Section):
    """What is heard besides voices. Each is a WAV file, or a built-in sound: office, hold, thinking, ringback."""

    ambience: str = ""
    """Under the whole call."""
    ambience_gain: float = Field(default=0.3, ge=0, le=2)
    """Loudness of it; 1 is as loud as a voice."""
    thinking: str = ""
    """While the caller waits for a reply or a function."""
    thinking_after: float = Field(default=1.0, ge=0, le=10)
    """Seconds of waiting after which it begins."""
    hold: str = "hold"
    """While the caller is on hold."""


class ListenerSettings(_Section):
    """A second model that hears both sides and may step in."""

    name: str
    prompt: str
    """What it is to look for, and when to use what it may do."""
    llm: ServiceSections | None = None
    """Default: the assistant's."""
    may: list[Literal["inject", "score", "stop"]] = ["score"]
    """inject: tell the assistant something; score: put a figure into the call record; stop: end the call."""


class PersonaSettings(_Section):
    """One of several agents on the same call. What is left out is as the assistant has it."""

    prompt: str
    description: str
    """For the others: when to hand the caller over to this one."""
    greeting: str = ""
    """Said when this one takes over; empty: the model finds its own words."""
    llm: ServiceSections | None = None
    tts: ServiceSections | None = None
    tools: list[HttpFunctionSettings] | None = None
    hands_off_to: list[str] | None = None
    """Names of those it may hand over to; default: all."""


class AssistantSettings(_Section):
    """Everything about an assistant."""

    prompt: str
    """Who the agent is and what it is to do. `{{from}}`, `{{to}}` and `{{now}}` stand for the numbers and the time."""
    manner: str = MANNER
    """Added to every prompt: how one speaks on the telephone."""
    greeting: str = ""
    """Its first words; empty: it waits for the caller to speak."""
    language: str = "en"
    """Of the conversation, as in `de` or `pt-BR`; chooses the word lists of turn-taking."""

    stt: ServiceSections
    """Speech to text; a list is the service and its fallbacks."""
    llm: ServiceSections
    """Language model."""
    tts: ServiceSections
    """Text to speech."""

    tools: list[HttpFunctionSettings] = []
    """Functions over HTTP, as in the guide; each with `name`, `description`, `url`, `parameters`."""
    mcp: list[dict[str, Any]] = []
    """MCP servers, each with `url` or `command`."""
    transfer_to: dict[str, str | dict[str, str]] | str = {}
    """Whom the model may transfer to: names and their numbers, or `{number: …, when: …}`; or one number; or `any`. The
    route must allow each as well."""
    call_tools: list[str] = ["hang_up"]
    """What else it may do with the call: hang_up, send_dtmf, collect_dtmf, leave_voicemail, hold."""
    agents: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")], PersonaSettings] = {}
    """Further agents that the caller may be handed to, by name; this one is called `main`."""
    listeners: list[ListenerSettings] = []

    turns: TurnSettings = TurnSettings()
    vad: Literal["silero", "webrtc"] = "silero"
    """Detector of the caller's voice; webrtc costs next to nothing and takes noise for speech far more often."""
    noise: str | dict[str, Any] = ""
    """Noise filter before everything that listens, such as `rnnoise`, or `{filter: NAME, …}`; empty: none."""
    interruptible_greeting: bool = True
    """False: the greeting is said to its end whatever the caller says."""
    mute: list[Literal["greeting", "functions", "speaking"]] = []
    """When the caller is not listened to: during the greeting, while functions run, whenever the agent speaks."""
    keys: Literal["turn", "ignore"] = "turn"
    """What keys do that no function waits for: they are told to the model, or nothing."""

    filler: list[str] = ["One moment, please.", "Just a second."]
    """Said when a function takes long; in turn."""
    filler_after: float = Field(default=1.5, ge=0.2, le=20)
    """Seconds a function may take without a word."""
    trouble: str = "Sorry, I didn't get that. Could you say it again?"
    """Said when the model could not be reached; a second time in a row the call goes to the route's fallback."""
    max_minutes: float = Field(default=0, ge=0)
    """After which the call is brought to an end; 0: the gateway's limit alone."""
    time_is_up: str = "I'm afraid our time is up. Goodbye."
    """Said then."""
    idle: IdleSettings = IdleSettings()
    context: ContextSettings = ContextSettings()
    sound: SoundSettings = SoundSettings()
    max_rounds: int = Field(default=8, ge=1, le=50)
    """How often in one reply the model may call functions and go on."""

    @model_validator(mode="after")
    def _names_are_known(self) -> AssistantSettings:
        known = {"main", *self.agents}
        if "main" in self.agents:
            raise ValueError("agents.main: the assistant itself has that name; choose another")
        for name, persona in self.agents.items():
            for to in persona.hands_off_to or ():
                if to not in known:
                    raise ValueError(
                        f"agents.{name}.hands_off_to: no agent {to!r}; there are {', '.join(sorted(known))}"
                    )
        return self


def read_settings(settings: dict[str, Any]) -> AssistantSettings:
    """Check an assistant's section of the configuration.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    try:
        return AssistantSettings.model_validate(settings)
    except ValidationError as error:
        raise SettingsError("; ".join(_explained(settings, problem) for problem in error.errors()[:3])) from error


def _explained(settings: dict[str, Any], problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{place}: missing; an assistant needs prompt, stt, llm and tts"
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
        return f"{place}: no such setting; there are {', '.join(AssistantSettings.model_fields)}"
    return f"{place}: {text}" if place else text
