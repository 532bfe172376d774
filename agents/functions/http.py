"""A function behind an HTTP endpoint, described by its section of the configuration.

    name: find_order
    description: Look up an order by its number.
    url: https://shop.example.com/orders/{number}
    method: GET
    headers: {Authorization: "Bearer ${SHOP_TOKEN}"}
    parameters: {number: {type: string, description: "six digits"}, year: optional integer}

Arguments stand for `{placeholders}` in `url`, `query` and `body`, as do `{call.id}`, `{call.from}` and `{call.to}`.
Arguments that no placeholder uses go into the query of a GET or DELETE and into a JSON object for the others; with a
`body` of your own, only what it names is sent. The model gets the answer as text, at most MAX_ANSWER bytes of it, and
of a failure its status and a few words; what the section itself put into the request (keys, tokens: told by their
names) is taken out.

All functions of a host share one `HttpPool`, so that connections stay warm from call to call. Nothing is tried
twice: nobody knows what the endpoint does.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError
from yarl import URL

from offhook.agents.functions.base import CallControl, Function, FunctionFailed
from offhook.agents.functions.python import DEFAULT_TIMEOUT, NAME, Then, checked_settings, validate
from offhook.agents.link import CallInfo
from offhook.agents.services.base import FunctionSchema

MAX_ANSWER: Final = 8_000
"""Bytes of an answer that reach the model, the same as of any function's result; the rest is not even read."""

MAX_FAILURE: Final = 300
"""Characters of a failed answer's body that are told to the model: enough for a sentence, not for a stack trace."""

MAX_REDIRECTS: Final = 3
"""Redirects that are followed, and on the same host only: headers with keys must not travel."""

MIN_SECRET: Final = 6
"""Characters from which on a value of the configuration is taken out of what the model reads; shorter ones are
ordinary words."""

KEEP_WARM: Final = 60.0
"""Seconds an idle connection is kept: callers come and go, and a handshake is a pause on the telephone."""

BACKSTOP: Final = 1.0
"""Seconds after the request's own timeout until the runner ends it."""

CALL_FIELDS: Final = ("call.id", "call.from", "call.to")

OPTIONAL: Final = "optional "
"""Before a type in the short form of parameters; a `?` after it would be YAML's own."""

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]\w*(?:\.\w+)?)\}")
_ORIGIN: Final = re.compile(r"https?://[^/?#{}\s]+(?=[/?#]|$)")
_SECRET_NAME: Final = re.compile(r"auth|cookie|credential|key|pass|secret|sign|token", re.IGNORECASE)
_TYPES: Final[dict[str, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
}


class HttpFunctionSettings(BaseModel):
    """One endpoint. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    name: str = Field(pattern=f"^{NAME.pattern}$")
    "As the model sees it: letters, digits, _ and -."
    description: str = Field(min_length=1)
    "When to call it, for the model."
    url: str
    "Where; placeholders may stand in its path and query."
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    """A JSON Schema of an object, or its short form: name → `string`, `integer`, `number`, `boolean`, `array` or
    `object`, after `optional` where it may be missing, or name → a JSON Schema."""
    query: dict[str, str | int | float | bool] = {}
    "Added to the URL's query; one whose only placeholder has no value is left out."
    body: Any = None
    "A template of the JSON to send, or a text; unset: the arguments as an object."
    send_call: Literal["headers", "fields", "none"] = "headers"
    """How the endpoint learns whose call it is: headers `X-Offhook-Call-Id`, `X-Offhook-From` and `X-Offhook-To`;
    fields `call_id`, `from_number` and `to_number` beside the arguments; or not at all."""
    timeout: float = Field(default=DEFAULT_TIMEOUT, gt=0, le=600)
    background: bool = False
    "The conversation goes on meanwhile."
    keep: bool = False
    "The request is finished even when the caller has hung up."
    filler: str | list[str] = []
    "Said when it is slow."
    then: Then = "reply"

    @field_validator("url")
    @classmethod
    def _whole_url(cls, url: str) -> str:
        if not _ORIGIN.match(url):
            raise PydanticCustomError("url", "write it with its scheme and host, such as https://shop.example.com/…")
        return url

    @field_validator("method", mode="before")
    @classmethod
    def _upper(cls, method: Any) -> Any:
        return method.upper() if isinstance(method, str) else method

    @field_validator("headers")
    @classmethod
    def _one_line(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[\r\n\0]", value):
                raise PydanticCustomError("header", "{name} is no header of one line", {"name": repr(name)})
        return headers

    @model_validator(mode="after")
    def _fits(self) -> Self:
        schema = self.json_schema
        properties = schema.get("properties")
        if schema.get("type") != "object" or not isinstance(properties, dict):
            raise PydanticCustomError("parameters", "a JSON Schema of parameters has `type: object` and `properties`")
        used = {name for template in (self.url, self.query, self.body) for name in _placeholders(template)}
        if unknown := sorted(used - set(properties) - set(CALL_FIELDS)):
            message = "{name} is used but no parameter; add it to `parameters` or use one of {known}"
            known = ", ".join([*properties, *CALL_FIELDS])
            raise PydanticCustomError("placeholder", message, {"name": f"{{{unknown[0]}}}", "known": known})
        if self.body is not None and self.method in ("GET", "DELETE"):
            raise PydanticCustomError("body", "{method} sends no body; use `query`", {"method": self.method})
        if self.send_call == "fields" and not isinstance(self.body, dict | None):
            raise PydanticCustomError("send_call", "`fields` need a `body` that is a mapping, or none")
        return self

    @property
    def json_schema(self) -> dict[str, Any]:
        """What the model is told of the parameters."""
        if isinstance(self.parameters.get("properties"), dict) or self.parameters.get("type") == "object":
            return self.parameters
        properties: dict[str, Any] = {}
        required = []
        for name, kind in self.parameters.items():
            given = kind if isinstance(kind, dict) else {"type": str(kind).removeprefix(OPTIONAL)}
            if given.get("type") not in _TYPES and not given.keys() & {"enum", "anyOf", "oneOf", "allOf", "const"}:
                message = "{name}: {kind} is no type; there are {known}"
                detail = {"name": name, "kind": repr(given.get("type")), "known": ", ".join(_TYPES)}
                raise PydanticCustomError("parameters", message, detail)
            properties[name] = given
            if "default" not in given and not str(kind).startswith(OPTIONAL):
                required.append(name)
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


class HttpPool:
    """The connections that all HTTP functions of a host share. Opened by the first request."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The shared client; on the event loop only."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=KEEP_WARM),
                cookie_jar=aiohttp.DummyCookieJar(),  # one caller's cookies are none of the next one's business
                headers={"User-Agent": "offhook"},
            )
        return self._session

    async def close(self) -> None:
        """Close every connection. The host is going down."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


SHARED: Final = HttpPool()
"""The pool of this host. Whoever ends the host closes it."""


def http_function(settings: HttpFunctionSettings | Mapping[str, Any], pool: HttpPool = SHARED) -> Function:
    """Make the function of an endpoint. Nothing is contacted before the model calls it.

    Raises:
        SettingsError: naming the setting and the remedy.
    """
    if not isinstance(settings, HttpFunctionSettings):
        settings = checked_settings(HttpFunctionSettings, settings, f"tools.{settings.get('name', '?')}")
    endpoint = _Endpoint(settings, pool)
    filler = settings.filler
    return Function(
        schema=FunctionSchema(settings.name, settings.description, settings.json_schema),
        call=endpoint.call,
        timeout=settings.timeout + BACKSTOP,
        background=settings.background,
        keep=settings.keep,
        filler=(filler,) if isinstance(filler, str) else tuple(filler),
        then=settings.then,
    )


class _Endpoint:
    """Turns arguments into a request, and the answer into text."""

    def __init__(self, settings: HttpFunctionSettings, pool: HttpPool) -> None:
        self._settings, self._pool = settings, pool
        self._model = _model(settings.name, json.dumps(settings.json_schema))
        templates = (settings.url, settings.query, settings.body)
        self._used = {name for template in templates for name in _placeholders(template)}
        self._secrets = sorted(set(_secrets(settings)), key=len, reverse=True)

    async def call(self, arguments: dict[str, Any], control: CallControl) -> str:
        """Send the request. Raises FunctionFailed."""
        settings = self._settings
        checked = validate(self._model, arguments, settings.name)
        dumped = checked.model_dump(exclude_unset=True, by_alias=True)
        given = {name: value for name, value in dumped.items() if value is not None}
        info = control.info
        values = given | {"call.id": info.id, "call.from": info.from_number, "call.to": info.to_number}
        rest = {name: value for name, value in given.items() if name not in self._used}
        if settings.send_call == "fields":
            rest |= {"call_id": info.id, "from_number": info.from_number, "to_number": info.to_number}
        url, body = self._url(values), None
        if settings.method in ("GET", "DELETE"):
            url = url.extend_query({name: _text(value) for name, value in rest.items()})
        elif settings.body is None:
            body = rest
        else:
            body = _filled(settings.body, values)
            if settings.send_call == "fields":
                body |= {name: rest[name] for name in ("call_id", "from_number", "to_number")}
        try:
            return await self._answer(url, body, self._headers(info))
        except TimeoutError as error:
            raise FunctionFailed("The service did not answer in time.") from error
        except aiohttp.ClientConnectionError as error:
            raise FunctionFailed("The service cannot be reached.") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise FunctionFailed("The service gave an answer that cannot be read.") from error

    async def _answer(self, url: URL, body: Any, headers: dict[str, str]) -> str:
        """Send it, follow redirects on the same host, read the answer. Raises FunctionFailed and aiohttp's errors."""
        method = self._settings.method
        async with asyncio.timeout(self._settings.timeout):
            for _ in range(MAX_REDIRECTS + 1):
                content = {"data": body} if isinstance(body, str) else {} if body is None else {"json": body}
                async with self._pool.session.request(
                    method, url, headers=headers, allow_redirects=False, timeout=_NO_LIMIT, **content
                ) as response:
                    location = response.headers.get("Location")
                    if response.status not in (301, 302, 303, 307, 308) or location is None:
                        return await self._read(response)
                    target = url.join(URL(location))
                    if not _same_host(url, target):
                        raise FunctionFailed("The service points to another address, which is not followed.")
                    url = target
                    if response.status not in (307, 308):
                        method, body = "GET", None
        raise FunctionFailed("The service points from one address to the next without end.")

    async def _read(self, response: aiohttp.ClientResponse) -> str:
        data = b""
        while len(data) <= MAX_ANSWER and (more := await response.content.readany()):
            data += more
        cut = len(data) > MAX_ANSWER
        text = _decoded(data[:MAX_ANSWER], response)
        if not 200 <= response.status < 300:
            said = re.sub(r"\s+", " ", text).strip()[:MAX_FAILURE]
            raise FunctionFailed(self._without_secrets(f"The service answered {response.status}: {said or 'nothing'}"))
        if cut:
            text += f"\n[cut: only the first {MAX_ANSWER} bytes of the answer]"
        return self._without_secrets(text)

    def _url(self, values: dict[str, Any]) -> URL:
        head, mark, query = self._settings.url.partition("?")
        origin = _ORIGIN.match(head)
        assert origin is not None
        path = _PLACEHOLDER.sub(lambda found: _segment(found[1], values), head[origin.end() :])
        asked = _PLACEHOLDER.sub(lambda found: quote(_text(values.get(found[1])), safe=""), query)
        url = URL(f"{origin[0]}{path}{mark}{asked}", encoded=True)
        return url.extend_query(dict(self._query(values)))

    def _query(self, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for name, template in self._settings.query.items():
            if (value := _filled(template, values)) is not _MISSING:
                yield name, _text(value)

    def _headers(self, info: CallInfo) -> dict[str, str]:
        headers = dict(self._settings.headers)
        if self._settings.send_call == "headers":
            said = {"Call-Id": info.id, "From": info.from_number, "To": info.to_number}
            headers |= {f"X-Offhook-{name}": re.sub(r"[^ -~]", "", value) for name, value in said.items()}
        return headers

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[hidden]")
        return text


# --- templates --------------------------------------------------------------------------

_MISSING: Final = object()
_NO_LIMIT: Final = aiohttp.ClientTimeout(total=None)  # `_answer` keeps the time, over all redirects


def _placeholders(template: Any) -> Iterator[str]:
    """The names of a template's placeholders."""
    if isinstance(template, str):
        yield from _PLACEHOLDER.findall(template)
    elif isinstance(template, dict):
        for value in template.values():
            yield from _placeholders(value)
    elif isinstance(template, list):
        for value in template:
            yield from _placeholders(value)


def _filled(template: Any, values: dict[str, Any]) -> Any:
    """The template with its placeholders filled in; one that stands alone keeps its value's type."""
    if isinstance(template, str):
        if (alone := _PLACEHOLDER.fullmatch(template)) is not None:
            return values.get(alone[1], _MISSING)
        return _PLACEHOLDER.sub(lambda found: _text(values.get(found[1])), template)
    if isinstance(template, dict):
        filled = {key: _filled(value, values) for key, value in template.items()}
        return {key: value for key, value in filled.items() if value is not _MISSING}
    if isinstance(template, list):
        return [value for item in template if (value := _filled(item, values)) is not _MISSING]
    return template


def _text(value: Any) -> str:
    """A value as it stands in a URL or a sentence."""
    if value is None or value is _MISSING:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _segment(name: str, values: dict[str, Any]) -> str:
    """A value as a part of the path, which it must not lead out of."""
    text = _text(values.get(name))
    if text in ("", ".", ".."):
        raise FunctionFailed(f"Wrong arguments: {name}: {text!r} cannot stand in an address.")
    return quote(text, safe="")


# --- arguments and answers --------------------------------------------------------------


@lru_cache(maxsize=256)
def _model(name: str, json_schema: str) -> type[BaseModel]:
    """A pydantic model of the parameters' outer level; what lies deeper the endpoint checks itself.

    Every call of a host makes its functions anew, and a model takes milliseconds to make.
    """
    schema = json.loads(json_schema)
    fields: dict[str, Any] = {}
    for index, (parameter, inner) in enumerate(schema["properties"].items()):
        kind: Any = _TYPES.get(str(inner.get("type")), Any) if isinstance(inner, dict) else Any
        if isinstance(inner, dict) and isinstance(options := inner.get("enum"), list) and options:
            kind = Literal[tuple(options)]
        required = parameter in schema.get("required", [])
        fields[f"p{index}"] = (kind if required else kind | None, Field(... if required else None, alias=parameter))
    extra: Literal["allow", "forbid"] = "allow" if schema.get("additionalProperties", True) else "forbid"
    model: type[BaseModel] = create_model(
        name, __config__=ConfigDict(extra=extra, coerce_numbers_to_str=True), **fields
    )
    return model


def _secrets(settings: HttpFunctionSettings) -> Iterator[str]:
    """What the configuration puts into requests and nobody is to read in an answer, told by its names."""
    url = URL(_PLACEHOLDER.sub("", settings.url))
    found = [url.password or ""]
    body = settings.body if isinstance(settings.body, dict) else {}
    for name, value in [*url.query.items(), *settings.query.items(), *settings.headers.items(), *body.items()]:
        if _SECRET_NAME.search(name) and isinstance(value, str):
            found += [value, value.partition(" ")[2]]  # without its scheme too (Bearer, Basic)
    for secret in found:
        if len(secret) >= MIN_SECRET:
            yield secret
            yield quote(secret, safe="")


def _same_host(here: URL, there: URL) -> bool:
    """Whether a redirect stays where it was sent: the same scheme, host and port, or the same host's https."""
    if here.origin() == there.origin():
        return True
    return (here.host, here.scheme, here.port, there.scheme, there.port) == (there.host, "http", 80, "https", 443)


def _decoded(data: bytes, response: aiohttp.ClientResponse) -> str:
    """The body as text: JSON without the spaces in it, where it is whole."""
    kind = response.content_type
    if not (kind.startswith("text/") or re.search(r"json|xml|form-urlencoded|javascript", kind)) and b"\0" in data:
        return f"[an answer of type {kind}, which is no text]"
    try:
        text = data.decode(response.charset or "utf-8", errors="replace")
    except LookupError:
        text = data.decode("utf-8", errors="replace")
    if "json" in kind:
        try:
            return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
        except (ValueError, RecursionError):
            return text  # cut, or not JSON at all: the model makes of it what it can
    return text
