"""The configuration: one YAML file, secrets and overrides from the environment, checked as a whole.

    config = load("config.yaml", os.environ)

* `${NAME}` in any value is an environment variable, `${NAME:-default}` one that may be missing or empty, `$${`
  the signs themselves. A `.env` file beside the configuration counts as environment; what is really set wins.
* `OFFHOOK_` and a path joined by two underscores overrides one value: `OFFHOOK_LISTEN__PORT=9000`,
  `OFFHOOK_AGENTS__FRONT_DESK__KIND=echo` (`_` also stands for `-`), `OFFHOOK_ROUTES__0__RECORD=true`. A value that
  opens with `[` or `{` is a list or a mapping.
* Relative paths are relative to the configuration file.

Every fault is reported, not just the first, each with file, line, column, path and remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Self
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from offhook.agents.config_source import (
    ConfigError,
    Origin,
    Path,
    Problem,
    Source,
    dotted,
    model_in,
    plain_message,
    read,
)
from offhook.gateway.config_sections import (
    DEFAULT_MAX_CALL_SECONDS,
    AgentConfig,
    AgentHosts,
    Api,
    Closed,
    Drain,
    Fallback,
    Limits,
    Listen,
    Log,
    RecordingConfig,
    Route,
    Section,
    StoreConfig,
    Tracing,
    hint_of,
)
from offhook.gateway.numbers import canonical
from offhook.providers import PROVIDERS, provider_class
from offhook.providers.sip.settings import SipSettings

__all__ = [
    "DEFAULT_MAX_CALL_SECONDS",
    "AgentConfig",
    "AgentHosts",
    "Api",
    "Closed",
    "Config",
    "ConfigError",
    "Drain",
    "Fallback",
    "Limits",
    "Listen",
    "Log",
    "Problem",
    "RecordingConfig",
    "Route",
    "StoreConfig",
    "Tracing",
    "environment",
    "load",
    "locate_store",
    "schema",
]

MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes of a configuration file: far above ten thousand routes."""


def _carriers(value: Any) -> Any:
    """Read each section by the model of its carrier, imported only when it is configured."""
    if not isinstance(value, dict):
        raise PydanticCustomError("carriers", "must be a mapping such as `twilio: {account_sid: …}`")
    settings: dict[str, BaseModel] = {}
    errors: list[InitErrorDetails] = []
    for name, section in value.items():
        if name not in PROVIDERS:
            hint = {"carrier": repr(name), "hint": hint_of(name, sorted(PROVIDERS))}
            errors.append(
                InitErrorDetails(
                    type=PydanticCustomError("carrier", "no carrier {carrier}; {hint}", hint),
                    loc=(name,),
                    input=section,
                )
            )
            continue
        model = provider_class(name).Settings
        try:
            settings[name] = model.model_validate({} if section is None else section)
        except ValidationError as error:
            for line in error.errors():
                text = _message(line["type"], ("carriers", name, *line["loc"]), line["msg"])
                kind = PydanticCustomError(line["type"], "{text}", {"text": text})
                errors.append(InitErrorDetails(type=kind, loc=(name, *line["loc"]), input=None))
    if errors:
        raise ValidationError.from_exception_data("carriers", errors)
    return settings


class Config(Section):
    """The whole configuration, as `load` gives it."""

    public_url: str = ""
    """How carriers reach this gateway, such as https://voice.example.com. Signatures and answers are built from it. SIP
    alone needs none."""
    carriers: Annotated[dict[str, SerializeAsAny[BaseModel]], BeforeValidator(_carriers)] = Field(default={})
    "Name of a carrier → its settings."
    sip: SipSettings | None = None
    "SIP trunks and PBXs; without this section no SIP port is open."
    agents: dict[str, AgentConfig]
    routes: list[Route] = Field(min_length=1)
    listen: Listen = Listen()
    data_dir: FilePath = FilePath("var")
    "Journal, default database and default recordings. Must survive a restart."
    node: str = Field(default="", max_length=100)
    "Name of this node in call records, no other's; unset: one that data_dir remembers."
    limits: Limits = Limits()
    agent_hosts: AgentHosts = AgentHosts()
    drain: Drain = Drain()
    store: StoreConfig = StoreConfig()
    recording: RecordingConfig = RecordingConfig()
    log: Log = Log()
    tracing: Tracing = Tracing()
    api: Api = Api()

    _secrets: frozenset[str] = PrivateAttr(default=frozenset())
    _directory: FilePath = PrivateAttr(default=FilePath())

    @field_validator("public_url")
    @classmethod
    def _origin(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise PydanticCustomError("public_url", "write it with its scheme, such as https://voice.example.com")
        if parts.query or parts.fragment or parts.username:
            raise PydanticCustomError("public_url", "takes no query, fragment or user, only https://host and a path")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _references(self) -> Self:
        errors: list[InitErrorDetails] = []

        def fault(loc: tuple[str | int, ...], message: str) -> None:
            kind = PydanticCustomError("reference", "{text}", {"text": message})
            errors.append(InitErrorDetails(type=kind, loc=loc, input=None))

        if not self.carriers and self.sip is None:
            fault(("carriers",), f"configure at least one of {', '.join(sorted(PROVIDERS))}, or `sip:`")
        if self.carriers and not self.public_url:
            fault(("public_url",), "is missing; add it")
        numbers: dict[str, int] = {}
        for index, route in enumerate(self.routes):
            names: list[tuple[tuple[str | int, ...], str]] = [(("routes", index, "agent"), route.agent)]
            if route.closed is not None and route.closed.agent:
                names.append((("routes", index, "closed"), route.closed.agent))
            for loc, name in names:
                if name not in self.agents:
                    fault(loc, f"no agent {name!r} under `agents:`; {hint_of(name, sorted(self.agents))}")
            first = numbers.setdefault(canonical(route.number), index)
            if first != index:
                fault(("routes", index, "number"), f"routes[{first}] has this number already; remove one")
        if errors:
            raise ValidationError.from_exception_data("Config", errors)
        return self

    def provider_settings(self, name: str) -> BaseModel:
        """The settings of a configured carrier. Raises KeyError for one that is not."""
        return self.carriers[name]

    @property
    def node_name(self) -> str:
        """Name of this node in call records; empty: the one its journal remembers."""
        return self.node

    @property
    def directory(self) -> FilePath:
        """Where the configuration file lies; `module:Class` agents are found there."""
        return self._directory

    @property
    def journal_dir(self) -> FilePath:
        """Where the journal is written."""
        return self.data_dir / "journal"

    @property
    def recording_dir(self) -> FilePath:
        """Where recordings are written."""
        return self.recording.directory or self.data_dir / "recordings"

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the record store, with its async driver."""
        return self.store.url or f"sqlite+aiosqlite:///{self.data_dir / 'calls.db'}"

    @property
    def public_ws_url(self) -> str:
        """`public_url` with the scheme of a WebSocket."""
        return "ws" + self.public_url.removeprefix("http")

    @property
    def secrets(self) -> frozenset[str]:
        """Every secret value the configuration holds, to be kept out of logs."""
        found = set(self._secrets)
        for settings in self.carriers.values():
            found.update(_secrets_in(dict(settings)))
        found.update(_secrets_in(self.tracing.headers))
        found.update(_secrets_in(self.api.token))
        for trunk in self.sip.trunks.values() if self.sip is not None else ():
            found.update(_secrets_in(trunk.password))
        if password := urlsplit(self.store.url).password:
            found |= {password, unquote(password)}
        return frozenset(secret for secret in found if secret)

    def records(self, route: Route) -> bool:
        """Whether calls of this route are recorded."""
        return self.recording.default if route.record is None else route.record

    def max_duration(self, route: Route) -> int:
        """Longest call of this route in seconds."""
        longest = self.limits.max_call_seconds
        return longest if route.max_duration is None else min(route.max_duration, longest)


def _secrets_in(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _secrets_in(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _secrets_in(inner)


def environment(path: str | FilePath, env: Mapping[str, str]) -> dict[str, str]:
    """`env` on top of the `.env` file beside the configuration, where there is one."""
    beside = FilePath(path).parent / ".env"
    defaults = dotenv_values(beside, interpolate=False) if beside.is_file() else {}
    return {name: value for name, value in defaults.items() if value is not None} | dict(env)


def load(path: str | FilePath, env: Mapping[str, str]) -> Config:
    """Read and check a configuration file.

    Args:
        path: the YAML file.
        env: the environment; `environment(path, os.environ)` adds a `.env` file to it.

    Raises:
        ConfigError: with every fault that was found.
    """
    base, source = _read_file(FilePath(path), env)
    # A section whose every line is commented out is the section left out.
    tree = {key: value for key, value in _with_paths(source.tree, base).items() if value is not None}
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise _config_error(error, source) from error
    config._secrets = frozenset(source.secrets)
    config._directory = base
    return config


def _read_file(file: FilePath, env: Mapping[str, str], only: frozenset[str] = frozenset()) -> tuple[FilePath, Source]:
    """The file's directory and what is in it; with `only`, variables elsewhere may be missing."""
    origin = Origin(str(file))
    try:
        data = file.read_bytes()
        if len(data) > MAX_FILE:
            raise ConfigError([Problem(origin, "", f"{len(data)} bytes; the limit is {MAX_FILE}")])
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        message = "there is no such file; copy config.example.yaml and fill it in, or name yours with --config"
        raise ConfigError([Problem(origin, "", message)]) from error
    except OSError as error:
        raise ConfigError([Problem(origin, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        message = f"byte {error.start} is not UTF-8; save the file as UTF-8"
        raise ConfigError([Problem(origin, "", message)]) from error
    return file.resolve().parent, read(text, str(file), env, frozenset(Config.model_fields), only)


def _with_paths(tree: dict[str, Any], base: FilePath) -> dict[str, Any]:
    """The tree with every relative path made absolute."""
    tree = dict(tree)
    tree["data_dir"] = _below(base, tree.get("data_dir") or "var")
    recording = tree.get("recording")
    if isinstance(recording, dict) and recording.get("directory"):
        tree["recording"] = recording | {"directory": _below(base, recording["directory"])}
    if isinstance(sip := tree.get("sip"), dict):
        tree["sip"] = _tls_paths(sip, base)
        if isinstance(trunks := sip.get("trunks"), dict):
            tree["sip"]["trunks"] = {name: _tls_paths(trunk, base) for name, trunk in trunks.items()}
    store = tree.get("store")
    if isinstance(store, dict) and isinstance(url := store.get("url"), str):
        tree["store"] = store | {"url": re.sub(r"^(sqlite(?:\+aiosqlite)?:///)(?=[^/])", rf"\g<1>{base}/", url)}
    return tree


def _tls_paths(section: Any, base: FilePath) -> Any:
    if not isinstance(section, dict) or not isinstance(tls := section.get("tls"), dict):
        return dict(section) if isinstance(section, dict) else section
    return section | {
        "tls": {key: _below(base, value) if key.endswith("_file") else value for key, value in tls.items()}
    }


def _config_error(error: ValidationError, source: Source, below: Path = ()) -> ConfigError:
    problems = []
    for line in error.errors():
        path = (*below, *_written(line["loc"]))
        problems.append(Problem(source.origin(path), dotted(path), _message(line["type"], path, line["msg"])))
    return ConfigError(sorted(problems, key=lambda problem: (problem.origin.line, problem.origin.column)))


def locate_store(path: str | FilePath, env: Mapping[str, str]) -> str:
    """The store's URL alone: records can be read where the carriers' secrets are not known.

    Raises:
        ConfigError: the file cannot be read, or what it says about `store` and `data_dir` is wrong.
    """
    base, source = _read_file(FilePath(path), env, only=frozenset({"store", "data_dir"}))
    tree = _with_paths(source.tree, base)
    try:
        store = StoreConfig.model_validate(tree.get("store") or {})
    except ValidationError as error:
        raise _config_error(error, source, ("store",)) from error
    return store.url or f"sqlite+aiosqlite:///{FilePath(tree['data_dir']) / 'calls.db'}"


def schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, with every carrier's settings; for editors."""
    found = Config.model_json_schema()
    definitions = found.setdefault("$defs", {})
    carriers: dict[str, Any] = {}
    for name in sorted(PROVIDERS):
        section = provider_class(name).Settings.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions |= {f"{name}.{inner}": value for inner, value in section.pop("$defs", {}).items()}
        carriers[name] = section
    found["properties"]["carriers"] |= {"properties": carriers, "additionalProperties": False, "minProperties": 1}
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    found["title"] = "offhook configuration"
    return {key: _with_variables(value) for key, value in found.items()}


def _with_variables(node: Any) -> Any:
    """Let `${NAME}` stand where a number or a truth value is wanted."""
    if isinstance(node, list):
        return [_with_variables(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _with_variables(value) for key, value in node.items()}
    if node.get("type") in ("integer", "number", "boolean"):
        outer = {key: node.pop(key) for key in ("title", "description", "default") if key in node}
        return outer | {"anyOf": [node, {"type": "string", "pattern": r"\$\{"}]}
    return node


def _below(base: FilePath, path: Any) -> Any:
    return base / FilePath(path).expanduser() if isinstance(path, str | FilePath) else path


def _written(loc: tuple[str | int, ...]) -> Path:
    """A pydantic location without the parts that stand in no file."""
    return tuple(part for part in loc if part != "[key]")


def _message(kind: str, loc: tuple[str | int, ...], text: str) -> str:
    """What is wrong and what to do, for one of pydantic's errors."""
    if kind == "extra_forbidden":
        known = sorted(_fields(Config, loc[:-1]))
        return f"unknown key; {hint_of(str(loc[-1]), known)}" if known else "unknown key; remove it"
    if kind == "value_error":
        return text.removeprefix("Value error, ")
    return plain_message(kind, text)


def _fields(model: type[BaseModel], loc: tuple[str | int, ...]) -> Iterator[str]:
    """The keys that may stand below `loc` of a model."""
    for index, part in enumerate(loc):
        if model is Config and part == "carriers":
            name = str(loc[index + 1]) if len(loc) > index + 1 else ""
            if name in PROVIDERS:
                yield from _fields(provider_class(name).Settings, loc[index + 2 :])
            return
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if isinstance(part, int) or part not in fields:
            continue
        inner = model_in(fields[str(part)].annotation)
        if inner is None:
            return
        model = inner
    yield from (field.alias or name for name, field in model.model_fields.items())
