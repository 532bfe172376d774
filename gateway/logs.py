"""Logs: one JSON object a line on standard output, or coloured lines on a terminal.

Every line may carry a `call_id`. Phone numbers lose all but their last two digits. Secrets never get out: values
that the configuration marks as secret, one-time tokens in media paths, and headers that authenticate.

Lines are written by a thread, so that whoever reads our output slowly cannot make callers hear it; a thousand
lines wait, the rest is dropped and counted.
"""

from __future__ import annotations

import atexit
import logging
import queue
import re
import sys
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

from offhook.gateway.config import Config
from offhook.gateway.numbers import mask, mask_text

NUMBER_FIELDS: Final = frozenset({"from", "to", "from_number", "to_number", "number", "caller_id", "fallback_transfer"})
"""Fields whose whole value is a phone number."""

ID_FIELDS: Final = frozenset({"call_id", "carrier_call_id", "stream_id", "timestamp", "level", "logger", "path"})
"""Fields that never hold a phone number and may look like one."""

MANY_LINES: Final = frozenset({"exception", "stack"})
"""Fields that may have several lines; anywhere else a line break would forge a line."""

MIN_SECRET: Final = 4
"""Letters; a shorter secret is left alone in other words, and is none."""

MAX_WAITING: Final = 1000
"""Lines that wait for the thread."""

_STOP: Final = ""
_AUTH_NAME = re.compile(
    r"(authorization|cookie|x-twilio-signature|x-plivo-signature[\w-]*|auth_token|api_?key|api_?secret|password)", re.I
)
_AUTH_TEXT = re.compile(
    rf"(?P<name>{_AUTH_NAME.pattern})(?P<sign>['\"]?\s*[:=,]\s*(?:b(?=['\"]))?['\"]?)(?:(?:basic|bearer)\s+)?[^\s'\",;&)\]}}]+",
    re.I,
)
_MEDIA_TOKEN = re.compile(r"(/media/)[\w.~-]+")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and the signs that turn text around."""

Event = MutableMapping[str, Any]


class Redactor:
    """A structlog processor that hides secrets and phone numbers, wherever they stand in an event."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted((secret for secret in secrets if len(secret) >= MIN_SECRET), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        for key, value in event.items():
            event[key] = self._value(str(key), value)
        return event

    def _value(self, key: str, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if _AUTH_NAME.fullmatch(key):
            return "[secret]"
        if isinstance(value, Mapping):
            return {str(inner): self._value(str(inner), item) for inner, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(key, item) for item in value]
        if key in ("exc_info", "_record"):
            return value
        text = self.text(value if isinstance(value, str) else repr(value) if isinstance(value, bytes) else str(value))
        if key not in MANY_LINES:
            text = text.replace("\n", "\\n")
        if key in NUMBER_FIELDS:
            return mask(text)
        return text if key in ID_FIELDS else mask_text(text)

    def text(self, text: str) -> str:
        """The text without secrets and without signs that act on a terminal."""
        if self._secrets is not None:
            text = self._secrets.sub("[secret]", text)
        text = _MEDIA_TOKEN.sub(r"\1[token]", text)
        text = _AUTH_TEXT.sub(r"\g<name>\g<sign>[secret]", text)
        return printable(text)


def _in_order(logger: Any, method: str, event: Event) -> Event:
    """When, how bad and what first; then the rest."""
    first = {name: event[name] for name in ("timestamp", "level", "event", "call_id") if name in event}
    return first | {name: value for name, value in event.items() if name not in first}


def printable(text: str) -> str:
    """The text without signs that act on a terminal: a caller's name must not move a reader's cursor."""
    return _UNPRINTABLE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class _Writer(logging.Handler):
    """Hands finished lines to a thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self.lost = 0
        self._queue: queue.Queue[str] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # logging's own rule: an event that cannot be shown must not end a call
            self.handleError(record)
            return
        try:
            self._queue.put_nowait(line + "\n")
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        if self._thread.is_alive():
            self._queue.put(_STOP)
            self._thread.join(timeout=2.0)
        super().close()

    def _run(self) -> None:
        while line := self._queue.get():
            try:
                self.stream.write(line)
                if self._queue.empty():
                    self.stream.flush()
            except (OSError, ValueError):
                self.lost += 1  # nobody reads any more; the calls go on
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self.lost += 1


_handler: logging.Handler | None = None


def configure_logs(
    config: Config | None = None, *, level: str = "", format: str = "", stream: TextIO | None = None
) -> None:
    """Send the logs of offhook and of its libraries to one place; calling it again replaces the former.

    Args:
        config: level, format and the secrets to hide; None for commands that have none.
        level: overrides the configuration's.
        format: `json`, `console` or `auto`, overrides the configuration's.
        stream: where to, standard output by default.
    """
    global _handler
    level = level or (config.log.level if config is not None else "info")
    format = format or (config.log.format if config is not None else "auto")
    stream = stream or sys.stdout
    if format == "auto":
        format = "console" if stream.isatty() else "json"
    redact = Redactor(config.secrets if config is not None else ())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # modules make their loggers before this runs
    )
    # Exceptions become text first, so that what they quote is redacted like everything else.
    last: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact,
    ]
    if format == "console":
        last.append(structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=30))
    else:
        last += [_in_order, structlog.processors.JSONRenderer(ensure_ascii=False)]
    handler = _Writer(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()], processors=last)
    )
    close_logs()
    _handler = handler
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "websockets", "sqlalchemy", "alembic"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # Their routine would be a line or more for every frame or statement.
    for name in (
        "uvicorn",
        "websockets",
        "sqlalchemy",
        "aiosqlite",
        "asyncio",
        "alembic",
        "urllib3",
        "httpcore",
        "httpx",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


def close_logs() -> None:
    """Write what waits and stop the thread."""
    global _handler
    if _handler is not None:
        logging.getLogger().removeHandler(_handler)
        _handler.close()
        _handler = None


atexit.register(close_logs)
