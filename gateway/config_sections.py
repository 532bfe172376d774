"""The sections of the configuration file, each with what may stand in it.

`config` puts them together, reads the file and says where a fault in it is.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from offhook.agents.config_source import typed
from offhook.agents.registry import BUILT_IN
from offhook.gateway.hours import Hours
from offhook.gateway.numbers import NumberPattern, PhoneNumber

DEFAULT_MAX_CALL_SECONDS: Final = 3300
"""So that a drain fits into the hour that managed Kubernetes grants a node."""

AGENT_KINDS: Final = "offhook.agents"
"""The entry-point group in which packages register agent kinds."""


def hint_of(word: str, known: list[str]) -> str:
    """What to say of a word that is not among those known."""
    close = get_close_matches(word, known, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(known)}" if known else "there is none"


class Section(BaseModel):
    """Base of every section: unknown keys are errors, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class Listen(Section):
    """Where the HTTP server listens."""

    host: str = "127.0.0.1"
    "Address to bind. `0.0.0.0` or `::` for every interface; keep a TLS proxy in front."
    port: int = Field(default=8080, ge=0, le=65535)
    "0 takes any free port."
    trusted_proxies: list[str] = ["127.0.0.1", "::1"]
    "Addresses or networks whose X-Forwarded-For is believed (for logs only; URLs are never taken from headers)."


class AgentConfig(BaseModel):
    """One agent. Every other key is a setting of the agent itself."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    kind: str
    "A registered kind (`echo`, `receptionist`, `remote`, …) or `package.module:Class`."
    isolation: Literal["host", "call", "inline"] = "host"
    """host: a shared agent-host process; call: a process of its own, so that no other caller hears it block or die;
    inline: the media process (it cannot be killed). Unset: host for kinds that come with offhook, else call."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if isinstance(data, dict):
            kind = data.get("kind")
            settings = {key: typed(value) for key, value in data.items() if key not in ("kind", "isolation")}
            return {"isolation": "host" if kind in BUILT_IN else "call"} | data | settings
        return data

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if ":" in kind:
            if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", kind):
                raise PydanticCustomError(
                    "agent_kind", "{kind} is not of the form package.module:Class", {"kind": repr(kind)}
                )
            return kind
        known = sorted(point.name for point in entry_points(group=AGENT_KINDS))
        if kind not in known:
            raise PydanticCustomError(
                "agent_kind",
                "no agent kind {kind}; {hint} (a class of your own is written package.module:Class)",
                {"kind": repr(kind), "hint": hint_of(kind, known)},
            )
        return kind

    @property
    def settings(self) -> dict[str, Any]:
        """The agent's own settings: every key but `kind` and `isolation`."""
        return dict(self.model_extra or {})


class Fallback(Section):
    """What happens to a caller whom no agent can serve. With both keys the text is said first."""

    say: str = Field(default="", max_length=1000)
    "A sentence in the carrier's own voice."
    transfer: PhoneNumber | None = None
    "A number to connect the caller to."

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.say and not self.transfer:
            raise PydanticCustomError("fallback", "give `say`, `transfer`, or both")
        return self


class Closed(Section):
    """What answers outside opening hours: another agent, or a sentence and/or a transfer."""

    agent: str = ""
    say: str = Field(default="", max_length=1000)
    transfer: PhoneNumber | None = None

    @model_validator(mode="before")
    @classmethod
    def _agent_alone(cls, data: Any) -> Any:
        return {"agent": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.agent) == bool(self.say or self.transfer):
            raise PydanticCustomError("closed", "give the name of an agent, or `say` and/or `transfer`")
        return self


_KEY_PATTERN: Final = re.compile(r"[0-9A-D*#X]{0,64}\.?")


def _keys_allowed(value: Any) -> Any:
    """`allow_dtmf`: a truth value, or a list of patterns of keys."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    if not isinstance(value, list):
        raise PydanticCustomError("allow_dtmf", 'write true, false, or a list of patterns such as ["1", "9XX#"]')
    for pattern in map(str, value):
        if not pattern or not _KEY_PATTERN.fullmatch(pattern.upper()):
            message = "{value} is no pattern of keys; write 0-9, A-D, *, #, X for any number, and . at the end"
            raise PydanticCustomError("allow_dtmf", message, {"value": repr(pattern)})
    return [str(pattern).upper() for pattern in value]


class Route(Section):
    """Which agent answers a number. The most specific route wins: exact, then the longest prefix, then `*`."""

    number: NumberPattern
    agent: str
    "A name under `agents:`."
    record: bool | None = None
    "Record these calls in stereo; unset: as `recording.default` says."
    hours: Hours | None = None
    "Opening hours; unset: always open."
    closed: Closed | None = None
    "What answers outside `hours`; unset: the call is refused."
    fallback: Fallback | None = None
    "What a caller gets when the agent fails, is not ready in time, or the gateway is full."
    allow_transfer: list[NumberPattern] = []
    "Numbers the agent may transfer to. Empty: none."
    max_transfers: int = Field(default=3, ge=0, le=100)
    "Transfers the agent may try on one call; one that succeeds is the last anyhow."
    allow_dtmf: Annotated[bool | list[str], BeforeValidator(_keys_allowed)] = True
    """Keys the agent may press: true for any, false for none, or patterns such as `["1", "9XX#", "*."]` (`X` is any
    number from 0 to 9, `.` at the end stands for whatever follows)."""
    max_dtmf: int = Field(default=100, ge=0, le=10_000)
    "Keys the agent may press on one call."
    ring_budget: float = Field(default=3.0, gt=0, le=30)
    "Seconds the agent has to become ready while the phone rings."
    max_duration: int | None = Field(default=None, gt=0)
    "Longest call in seconds; unset: `limits.max_call_seconds`."

    @model_validator(mode="after")
    def _hours_for_closed(self) -> Self:
        if self.closed is not None and self.hours is None:
            raise PydanticCustomError("closed", "`closed` needs `hours`, or it never happens")
        return self


class Limits(Section):
    """How much this process takes on."""

    max_calls: int = Field(default=500, gt=0)
    "Calls at once; one more is refused in the carrier's language."
    max_call_seconds: int = Field(default=DEFAULT_MAX_CALL_SECONDS, gt=0)
    "Longest call."
    max_takeovers: int = Field(default=1, ge=0, le=5)
    """How often a call whose agent is lost goes on with a fresh one that knows the conversation. Then, and for agents
    that remember nothing, the caller hears the apology."""


class AgentHosts(Section):
    """The processes agents run in."""

    processes: int = Field(default=1, ge=1, le=64)
    "Shared hosts (isolation: host)."
    memory_mb: int = Field(default=1024, ge=64)
    "Memory of one host; a host over it is ended and its calls fall back."
    hung_after: float = Field(default=6.0, ge=1.0)
    "Seconds without a sign of life after which a host is killed."
    warm: int = Field(default=2, ge=0, le=64)
    "Processes kept ready for agents with isolation: call."


class Drain(Section):
    """What SIGTERM means."""

    deadline: int = Field(default=DEFAULT_MAX_CALL_SECONDS, ge=0)
    "Seconds live calls have to end by themselves. Give the service manager two minutes more."


class Api(Section):
    """The HTTP interface for your own programs, such as those that place calls."""

    token: SecretStr | None = Field(default=None, min_length=16)
    "Bearer token that every request must carry, 16 characters or more; unset: there is no such interface."


class StoreConfig(Section):
    """Where call records go."""

    url: str = ""
    "SQLAlchemy URL, `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`; unset: calls.db in data_dir."

    @field_validator("url")
    @classmethod
    def _async_driver(cls, url: str) -> str:
        scheme, found, rest = url.partition("://")
        drivers = {
            "sqlite": "sqlite+aiosqlite",
            "sqlite+aiosqlite": "sqlite+aiosqlite",
            "postgres": "postgresql+asyncpg",
            "postgresql": "postgresql+asyncpg",
            "postgresql+asyncpg": "postgresql+asyncpg",
        }
        if not url:
            return url
        if not found or scheme not in drivers:
            raise PydanticCustomError(
                "store_url",
                "{scheme} is no database offhook knows; write sqlite:///calls.db or postgresql://user:password@host/name",
                {"scheme": repr(scheme)},
            )
        return f"{drivers[scheme]}://{rest}"


class RecordingConfig(Section):
    """Stereo recordings: left the caller, right the agent as heard."""

    directory: FilePath | None = None
    "Unset: recordings in data_dir."
    default: bool = False
    "Whether routes that do not say so record."


class Log(Section):
    """What is written to standard output."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    "auto: console on a terminal, one JSON object a line elsewhere."


class Tracing(Section):
    """A trace of every call, sent to an OpenTelemetry collector. Needs the extra `otel`."""

    endpoint: str = ""
    "Where OTLP goes over HTTP, such as http://collector:4318/v1/traces; empty: no tracing."
    headers: dict[str, SecretStr] = {}
    "Sent with every export, such as an API key."
    service_name: str = Field(default="offhook", min_length=1, max_length=100)
    "`service.name` of the traces."
    sample: float = Field(default=1.0, ge=0.0, le=1.0)
    "Share of the calls that are traced."

    @field_validator("endpoint")
    @classmethod
    def _exporter(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PydanticCustomError("endpoint", "write it with its scheme, such as http://collector:4318/v1/traces")
        if not _installed("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"):
            raise PydanticCustomError("extra", "needs OpenTelemetry; run: pip install 'offhook[otel]'")
        # As in OTEL_EXPORTER_OTLP_ENDPOINT, which names the collector and not the signal.
        return url if parts.path.strip("/") else url.rstrip("/") + "/v1/traces"


def _installed(*modules: str) -> bool:
    try:
        return all(find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:  # a package above it is missing
        return False
