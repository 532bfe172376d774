"""What a service is to the conversation: three small contracts, one each for hearing, thinking and speaking.

A service object holds what calls may share (credentials, an HTTP pool, a loaded model) and is made once a host for
each set of settings. What belongs to one call hangs on a session of it: `Transcription` and `Voice` are opened while
the phone rings, so that their connections are warm when the caller speaks. A language model keeps nothing of a
call; the whole conversation goes in with each reply.

Audio formats are chosen once: a service lists in `formats` what it takes or gives, best first; the conversation
picks what the carrier speaks if it is among them, so that G.711 passes untouched, and converts otherwise.

Third parties add a service with one class and one entry point, in the group `offhook.stt`, `offhook.llm` or
`offhook.tts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from typing import Final as Constant

from pydantic import BaseModel, ConfigDict, Field

from offhook.agents.services.access import without_secrets
from offhook.codecs.audio import AudioFormat

Message = dict[str, Any]
"""One message in the shape of OpenAI's chat completions: role, content, tool_calls, tool_call_id."""

FaultKind = Literal["timeout", "unavailable", "rate_limited", "rejected", "bad_reply"]
"""No answer in time; refused or broke the connection, or 5xx; 429; wrong key or request (4xx); not understood."""

MAX_DETAIL: Constant = 300
"""Characters of an error's text: some services send a page of HTML."""


class ServiceError(Exception):
    """A service did not do its work. `rejected` is not tried again: the same request would be refused again.

    Args:
        detail: whatever there is to say, the service's own words included. It is put on one line and cut, and keys in
            it are hidden.
    """

    def __init__(self, service: str, kind: FaultKind, detail: object, *, retry_after: float = 0.0) -> None:
        detail = without_secrets(" ".join(str(detail).split()))[:MAX_DETAIL]
        super().__init__(f"{service}: {kind.replace('_', ' ')}: {detail}")
        self.service, self.kind, self.detail = service, kind, detail
        self.retry_after = retry_after
        "Seconds the service asked us to wait; 0 when it did not say."


class ServiceSettings(BaseModel):
    """Settings that every service has; subclasses add their own. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    service: str
    "Name of the entry point."
    timeout: float = Field(default=5.0, gt=0, le=120)
    "Until the first result."
    stall: float = Field(default=5.0, gt=0, le=120)
    "Between two results."
    retries: int = Field(default=1, ge=0, le=5)
    "Tries after the first, as long as nothing of the answer has come."


class Service:
    """What the three kinds have in common. Made from its own Settings, without touching the network."""

    Settings: ClassVar[type[ServiceSettings]] = ServiceSettings

    def __init__(self, settings: Any) -> None:
        """Take an instance of the class's own Settings. Raises SettingsError when what they name is missing here."""
        self.name: str = settings.service
        "As it appears in records, metrics and errors."
        self.limits: ServiceSettings = settings
        "Its `timeout`, `stall` and `retries`, as `resilience` keeps them."

    async def warm(self) -> None:
        """Load models and open pools once a host, before its first call. Blocking work goes to a thread."""

    async def close(self) -> None:
        """Let go of everything. The host is going down."""


# --- hearing ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """One word and when it is said, in milliseconds from the start of its audio."""

    text: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Partial:
    """What the caller seems to be saying since the last Final; the next one replaces it."""

    text: str


@dataclass(frozen=True, slots=True)
class Final:
    """A stretch of text that will not change any more; several in a row belong together."""

    text: str
    confidence: float = 1.0
    "0 to 1; 1 where the service does not say."
    answers_finalize: bool = False
    "True when this is what `finalize` asked for: nothing before that moment is still to come. The text may be empty."


@dataclass(frozen=True, slots=True)
class SpeechHeard:
    """The service has noticed that the caller began to speak."""


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """The service's own decision: the caller has finished."""

    text: str = ""
    "The whole turn where the service gives it; it replaces what came before."


@dataclass(frozen=True, slots=True)
class EagerEndOfTurn:
    """The caller has probably finished; a reply may be prepared."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class TurnResumed:
    """He had not: what was prepared is void."""


@dataclass(frozen=True, slots=True)
class HearingLost:
    """The stream broke and will give nothing any more."""

    error: ServiceError


Heard = Partial | Final | SpeechHeard | EndOfTurn | EagerEndOfTurn | TurnResumed | HearingLost


class Transcription(ABC):
    """One call's stream of audio into text. Methods but `close` return at once."""

    @abstractmethod
    def push(self, audio: bytes) -> None:
        """Take the next 20 ms or so, in the format it was opened with. Dropped when the service does not keep up."""

    @abstractmethod
    def finalize(self) -> None:
        """The caller has paused: give what is still to come now, marked `answers_finalize`."""

    @abstractmethod
    async def close(self) -> None:
        """End the stream. Nothing is reported any more."""


class SpeechToText(Service, ABC):
    """A service that turns audio into text."""

    formats: tuple[AudioFormat, ...]
    "What it takes, best first."
    ends_turns: bool = False
    "It decides by itself when the caller has finished (EndOfTurn)."
    gives_partials: bool = True
    "It tells what it hears while the caller speaks; False: only when asked, after a pause."

    @abstractmethod
    async def open(self, format: AudioFormat, hear: Callable[[Heard], None]) -> Transcription:
        """Start a stream; `hear` is called on the event loop with what comes of it.

        Raises:
            ServiceError: the service cannot be reached, or refused.
        """


# --- thinking --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the reply's text."""

    text: str


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The model wants a function called."""

    id: str
    name: str
    arguments: str
    "JSON text of an object, as the model wrote it; may be invalid."


@dataclass(frozen=True, slots=True)
class Usage:
    """What the reply cost, where the service says so; the last thing of a reply."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


Delta = TextDelta | FunctionCall | Usage


@dataclass(frozen=True, slots=True)
class FunctionSchema:
    """A function as a model is told of it."""

    name: str
    description: str
    parameters: dict[str, Any]
    "JSON Schema of an object."


class LanguageModel(Service, ABC):
    """A service that continues a conversation."""

    @abstractmethod
    def reply(
        self, messages: Sequence[Message], functions: Sequence[FunctionSchema] = ()
    ) -> AsyncGenerator[Delta, None]:
        """Give the reply piece by piece; closing the iterator cancels it at the service.

        Raises, while iterated:
            ServiceError: no first piece in time, a stall, or the service refused or broke off.
        """


# --- speaking --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Audio:
    """The next piece of speech, in the format the voice was opened with."""

    data: bytes


Spoken = Audio | Word


class Voice(ABC):
    """One call's voice."""

    @property
    def first_choice(self) -> bool:
        """False while another service stands in for the one that was chosen: that is not kept for other calls."""
        return True

    @abstractmethod
    def synthesize(self, text: str, *, previous: str = "") -> AsyncGenerator[Spoken, None]:
        """Speak one sentence; closing the iterator cancels it. One sentence at a time.

        Args:
            text: what to say.
            previous: what was said just before, for services that carry the melody on.

        Raises, while iterated:
            ServiceError: no audio in time, a stall, or the service refused or broke off.
        """

    @abstractmethod
    async def close(self) -> None:
        """The call is over."""


class TextToSpeech(Service, ABC):
    """A service that turns text into speech."""

    formats: tuple[AudioFormat, ...]
    "What it gives, best first."

    @abstractmethod
    async def open(self, format: AudioFormat) -> Voice:
        """A voice for one call, its connection warm.

        Raises:
            ServiceError: the service cannot be reached, or refused.
        """
