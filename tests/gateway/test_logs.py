"""Logs: JSON or for a terminal, with call ids, without secrets and without numbers."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from offhook.gateway import logs as module
from offhook.gateway.config import Config
from offhook.gateway.logs import Redactor, close_logs, configure_logs, printable

SECRET = "s3cr3t/t0k+en="


@pytest.fixture
def config() -> Config:
    return Config.model_validate(
        {
            "public_url": "https://voice.example.com",
            "carriers": {"twilio": {"account_sid": "AC1", "auth_token": SECRET}},
            "agents": {"echo": {"kind": "echo"}},
            "routes": [{"number": "*", "agent": "echo"}],
            "store": {"url": "postgresql://u:hunter2@db/offhook"},
        }
    )


@pytest.fixture
def out(config: Config) -> Iterator[io.StringIO]:
    """Where the log goes, as JSON."""
    root = logging.getLogger()
    level = root.level
    stream = io.StringIO()
    configure_logs(config, stream=stream)
    yield stream
    close_logs()
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    close_logs()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_call(out: io.StringIO) -> None:
    log = structlog.get_logger("offhook.x").bind(call_id="0123456789abcdef")
    log.info("call offered", carrier="twilio", seconds=1.5, ok=True, nothing=None, nested={"a": [1, "b"]})
    (line,) = lines(out)
    assert list(line)[:4] == ["timestamp", "level", "event", "call_id"]
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "call offered",
        "level": "info",
        "logger": "offhook.x",
        "call_id": "0123456789abcdef",
        "carrier": "twilio",
        "seconds": 1.5,
        "ok": True,
        "nothing": None,
        "nested": {"a": [1, "b"]},
    }


def test_context_of_a_task_is_on_its_lines(out: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(call_id="c1"):
        logging.getLogger("some.library").warning("odd: %s", 5)
    (line,) = lines(out)
    assert (line["call_id"], line["event"], line["logger"]) == ("c1", "odd: 5", "some.library")


def test_numbers_keep_their_last_two_digits_wherever_they_stand(out: io.StringIO) -> None:
    structlog.get_logger("x").info(
        "from +15550142 to 004930123456", to="5550142", from_number="client:bob", fields={"From": "+15550142"}
    )
    text = json.dumps(lines(out), ensure_ascii=False)
    assert "555014" not in text
    assert "30123456" not in text
    assert "client:bob" not in text
    assert text.count("*42") == 3  # with the star: the time of the line may have a 42, too


@pytest.mark.parametrize(
    "leak",
    [
        {"event": f"token {SECRET} used"},
        {"event": "x", "token": SECRET},
        {"event": "x", "deep": [{"a": (f"<{SECRET}>",)}]},
        {"event": "x", "url": "postgresql://u:hunter2@db/offhook"},
        {"event": "x", "error": ValueError(SECRET)},
        {"event": "x", "data": f"...{SECRET}".encode()},
    ],
)
def test_known_secrets_never_get_out(out: io.StringIO, leak: dict[str, Any]) -> None:
    structlog.get_logger("x").info(leak.pop("event"), **leak)
    text = json.dumps(lines(out))
    assert "[secret]" in text
    assert "s3cr3t" not in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Basic QWxhZGRpbjpvcGVu",
        "authorization: bearer QWxhZGRpbjpvcGVu",
        "{'X-Twilio-Signature': 'QWxhZGRpbjpvcGVu'}",
        '{"x-plivo-signature-v3": "QWxhZGRpbjpvcGVu"}',
        "headers=[(b'authorization', b'QWxhZGRpbjpvcGVu')]",
        "auth_token=QWxhZGRpbjpvcGVu",
        "wss://voice.example.com/twilio/media/QWxhZGRpbjpvcGVu",
        '"WebSocket /plivo/media/QWxhZGRpbjpvcGVu" [accepted]',
    ],
)
def test_what_authenticates_never_gets_out_though_nobody_knows_its_value(out: io.StringIO, text: str) -> None:
    logging.getLogger("uvicorn.error").warning(text)
    structlog.get_logger("x").info("y", path=text, headers={"Authorization": "QWxhZGRpbjpvcGVu"})
    shown = json.dumps(lines(out))
    assert "QWxhZGRpbjpvcGVu" not in shown


def test_what_exceptions_quote_is_hidden_too(out: io.StringIO) -> None:
    try:
        raise ValueError(f"bad token {SECRET} of +15550142")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    (line,) = lines(out)
    assert "Traceback" in line["exception"]
    assert "s3cr3t" not in line["exception"]
    assert "555014" not in line["exception"]
    assert "\n" in line["exception"]


def test_nobody_forges_a_line_or_moves_the_cursor(out: io.StringIO) -> None:
    name = 'Bob\r\n{"event": "forged"}\x1b[2J\u202e\u2028\x9b'
    structlog.get_logger("x").info(name, caller=name)
    assert len(out.getvalue().splitlines()) <= 1
    (line,) = lines(out)
    assert line["caller"] == 'Bob\\x0d\\n{"event": "forged"}\\x1b[2J\\x202e\\x2028\\x9b'
    assert printable("a\tb\nc\x1b") == "a\tb\nc\\x1b"


def test_a_terminal_gets_lines_to_read(config: Config, out: io.StringIO) -> None:
    stream = io.StringIO()
    configure_logs(config, format="console", stream=stream)
    structlog.get_logger("x").info("call offered", to="+15550142", token=SECRET)
    close_logs()
    line = stream.getvalue()
    assert "call offered" in line
    assert "+******42" in line
    assert "s3cr3t" not in line
    assert "\x1b" not in line  # no colours but on a terminal
    assert out.getvalue() == ""


def test_levels_are_kept_and_libraries_are_quiet(config: Config, out: io.StringIO) -> None:
    configure_logs(config, level="warning", stream=out)
    structlog.get_logger("x").info("not this")
    logging.getLogger("sqlalchemy.engine").info("nor this")
    logging.getLogger("websockets.server").info("nor this")
    logging.getLogger("uvicorn.error").warning("but this")
    assert [line["event"] for line in lines(out)] == ["but this"]


def test_warnings_of_python_are_logged(out: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("deprecated thing", stacklevel=1)
    assert "deprecated thing" in lines(out)[0]["event"]


def test_a_reader_that_does_not_read_holds_nobody_up(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 50)
    gate = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            gate.wait(10)
            return super().write(text)

    stream = Stuck()
    configure_logs(config, stream=stream)
    log = structlog.get_logger("x")
    began = time.monotonic()
    for n in range(500):
        log.info("line", n=n)
    assert time.monotonic() - began < 5
    handler = module._handler
    assert isinstance(handler, module._Writer)
    assert handler.lost > 400
    gate.set()
    written = [json.loads(line)["n"] for line in _closed(stream).splitlines()]
    assert written[:50] == list(range(50))
    assert written == sorted(written)
    assert len(written) + handler.lost == 500
    structlog.reset_defaults()
    logging.captureWarnings(False)


def _closed(stream: io.StringIO) -> str:
    close_logs()
    return stream.getvalue()


def test_a_reader_that_is_gone_is_survived(config: Config) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    configure_logs(config, stream=Gone())
    structlog.get_logger("x").info("anyone?")
    handler = module._handler
    close_logs()
    assert isinstance(handler, module._Writer)
    assert handler.lost == 1
    structlog.reset_defaults()
    logging.captureWarnings(False)


def test_a_secret_of_three_letters_hides_no_words() -> None:
    redact = Redactor(["abc", "longer-secret", "longer"])
    assert redact.text("abc longer-secret longer") == "abc [secret] [secret]"
