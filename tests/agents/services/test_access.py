"""Keys, which nobody must read, and addresses."""

from __future__ import annotations

import logging
import ssl
import traceback
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import structlog
from fakes.assemblyai import FakeAssemblyAi
from pydantic import SecretStr, TypeAdapter

from offhook.agents.api import SettingsError
from offhook.agents.services import access
from offhook.agents.services.access import ApiKey, HttpUrl, Languages, WebSocketUrl, found_key, tls, without_secrets
from offhook.agents.services.base import LanguageModel, ServiceError, ServiceSettings, SpeechToText, TextToSpeech
from offhook.agents.services.registry import Role, make_service
from offhook.codecs.audio import PCMU

KEY = "sk-0123456789abcdef-not-to-be-seen"

CLOUD: list[tuple[Role, dict[str, Any]]] = [
    ("stt", {"service": "assemblyai"}),
    ("stt", {"service": "deepgram"}),
    ("stt", {"service": "deepgram-flux"}),
    ("stt", {"service": "google", "project": "p"}),
    ("stt", {"service": "openai"}),
    ("llm", {"service": "anthropic"}),
    ("llm", {"service": "gemini"}),
    ("llm", {"service": "openai"}),
    ("tts", {"service": "cartesia", "voice": "v"}),
    ("tts", {"service": "deepgram"}),
    ("tts", {"service": "elevenlabs", "voice": "v"}),
    ("tts", {"service": "google"}),
    ("tts", {"service": "openai"}),
]
NAMES = [f"{role}-{section['service']}" for role, section in CLOUD]

ENVIRONMENT = {
    "anthropic": "ANTHROPIC_API_KEY",
    "assemblyai": "ASSEMBLYAI_API_KEY",
    "cartesia": "CARTESIA_API_KEY",
    "deepgram": "DEEPGRAM_API_KEY",
    "deepgram-flux": "DEEPGRAM_API_KEY",
    "elevenlabs": "ELEVENLABS_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "openai": "OPENAI_API_KEY",
}
KEYED = [(role, section) for role, section in CLOUD if section["service"] in ENVIRONMENT]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in set(ENVIRONMENT.values()):
        monkeypatch.delenv(variable, raising=False)
    known = set(access._secrets)
    yield
    access._secrets.clear()
    access._secrets.update(known)


def told(error: BaseException) -> str:
    """Everything a log could show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(("role", "section"), CLOUD, ids=NAMES)
def test_no_error_of_a_setting_shows_the_key(role: Role, section: dict[str, Any]) -> None:
    for wrong in ({"timeout": 0}, {"api_keys": KEY}, {"base_url": f"://{KEY}"}, {"api_key": [KEY]}, {"stal": 1}):
        with pytest.raises(SettingsError) as caught:
            make_service(role, {"api_key": KEY} | section | wrong)
        assert KEY not in told(caught.value)
        assert str(caught.value).startswith(f"{role}.{next(iter(wrong))}: ")
        for jargon in ("Extra inputs", "Input should", "Value error", "pydantic"):
            assert jargon not in str(caught.value)


@pytest.mark.parametrize("key", [KEY + "\n" + KEY, KEY + " " + KEY, KEY + "ü"])
@pytest.mark.parametrize(("role", "section"), CLOUD, ids=NAMES)
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(
    role: Role, section: dict[str, Any], key: str
) -> None:
    with pytest.raises(SettingsError, match=rf"{role}.api_key: it holds a .*copy it once more") as caught:
        make_service(role, section | {"api_key": key})
    assert KEY not in told(caught.value)


@pytest.mark.parametrize(("role", "section"), CLOUD, ids=NAMES)
def test_no_settings_show_the_key(role: Role, section: dict[str, Any]) -> None:
    service = make_service(role, section | {"api_key": KEY})
    assert KEY not in repr(service.limits) + str(service.limits) + repr(service)
    assert KEY not in service.limits.model_dump_json()


@pytest.mark.parametrize(("role", "section"), KEYED)
def test_a_key_that_is_missing_names_the_remedy(
    role: Role, section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = ENVIRONMENT[section["service"]]
    for empty in ({}, {"api_key": ""}, {"api_key": " "}, {"api_key": None}):
        with pytest.raises(SettingsError, match=rf"{role}.api_key: missing: make one at https://.*as {variable}"):
            make_service(role, section | empty)
    monkeypatch.setenv(variable, KEY)
    make_service(role, section)


@pytest.mark.parametrize("service", ["openai", "anthropic", "gemini"])
def test_headers_may_hold_a_key_too(service: str) -> None:
    section = {"service": service, "api_key": "k"}
    made = make_service("llm", section | {"headers": {"Authorization": f"Bearer {KEY}"}})
    assert KEY not in repr(made.limits)
    with pytest.raises(SettingsError, match=r"llm\.headers: it holds a sign") as caught:
        make_service("llm", section | {"headers": {"Authorization": f"Bearer\n{KEY}"}})
    assert KEY not in told(caught.value)


ADDRESS = {
    "google": "http://127.0.0.1:9",
    "openai": "http://127.0.0.1:9/v1",
    "anthropic": "http://127.0.0.1:9",
    "gemini": "http://127.0.0.1:9",
}
OWN = {
    ("stt", "openai"): {"model": "m"},
    ("llm", "openai"): {"model": "m"},
    ("tts", "openai"): {"model": "m", "voice": "v"},
}
"""What a server that is not the vendor's must be told."""


@pytest.mark.parametrize(("role", "section"), CLOUD, ids=NAMES)
async def test_a_service_that_is_not_there_does_not_show_the_key(
    role: Role, section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    address = ADDRESS.get(section["service"], "ws://127.0.0.1:9")
    section = section | OWN.get((role, section["service"]), {}) | {"base_url": address, "retries": 0, "timeout": 0.2}
    service = make_service(role, section | {"api_key": KEY})
    with structlog.testing.capture_logs() as logs:
        await service.warm()
        with pytest.raises((ServiceError, Unanswered)) as caught:
            await use(service)
        await service.close()
    assert KEY not in told(caught.value)
    assert KEY not in repr(logs) + caplog.text
    caplog.clear()  # gRPC's records hold its connections


@pytest.mark.parametrize(("role", "section"), CLOUD, ids=NAMES)
async def test_certificates_are_read_once_a_host(
    role: Role, section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them takes 35 ms, in which no other call of the host is heard."""
    make_service(role, section | {"api_key": KEY})
    tls()
    monkeypatch.setattr(ssl, "create_default_context", pytest.fail)
    monkeypatch.setattr(httpx2, "create_ssl_context", pytest.fail)
    service = make_service(role, section | {"api_key": KEY, "timeout": 1})
    await service.close()


@pytest.mark.parametrize("service", ["assemblyai", "deepgram", "deepgram-flux"])
async def test_a_stream_reads_no_certificates(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = make_service("stt", {"service": service, "api_key": KEY, "base_url": "wss://127.0.0.1:9"})
    await vendor.warm()
    monkeypatch.setattr(ssl, "create_default_context", pytest.fail)
    assert isinstance(vendor, SpeechToText)
    with pytest.raises(ServiceError, match="no connection"):
        await vendor.open(PCMU, lambda heard: None)


class Unanswered(Exception):
    """It opens nothing before there is something to send."""


async def use(service: object) -> None:
    if isinstance(service, LanguageModel):
        async for _ in service.reply([{"role": "user", "content": "hi"}]):
            pass
    elif isinstance(service, TextToSpeech):
        voice = await service.open(service.formats[0])
        try:
            async for _ in voice.synthesize("hi"):
                pass
        finally:
            await voice.close()
    elif isinstance(service, SpeechToText):
        stream = await service.open(service.formats[0], lambda heard: None)
        await stream.close()
        raise Unanswered


async def test_a_service_that_quotes_the_key_is_not_quoted() -> None:
    assert without_secrets(f"bad key {KEY}") == f"bad key {KEY}", "not known yet"
    async with FakeAssemblyAi(error=(1008, f"no such key: {KEY}")) as fake:
        service = make_service("stt", {"service": "assemblyai", "base_url": fake.url, "api_key": KEY})
        assert isinstance(service, SpeechToText)
        with pytest.raises(ServiceError, match=r"assemblyai: rejected: 1008 no such key: \[key\]") as caught:
            await service.open(PCMU, lambda heard: None)
        assert KEY not in told(caught.value)


def test_an_address_may_be_written_either_way() -> None:
    socket, http = TypeAdapter(WebSocketUrl), TypeAdapter(HttpUrl)
    assert socket.validate_python("https://api.example.com/") == "wss://api.example.com"
    assert socket.validate_python("http://127.0.0.1:8080/deepgram") == "ws://127.0.0.1:8080/deepgram"
    assert socket.validate_python("wss://api.example.com") == "wss://api.example.com"
    assert http.validate_python("http://localhost:8000/v1/") == "http://localhost:8000/v1"


@pytest.mark.parametrize("given", ["", "api.example.com", "ftp://x", "wss://", "wss://x?key=1", "https://me:secret@x"])
def test_what_is_no_address_is_said(given: str) -> None:
    for kind, example in ((WebSocketUrl, "wss://"), (HttpUrl, "https://")):
        with pytest.raises(ValueError, match=f"write one like {example}") as caught:
            TypeAdapter(kind).validate_python(given)
        assert "secret" not in caught.value.errors()[0]["msg"]


def test_one_language_may_stand_for_a_list() -> None:
    assert TypeAdapter(Languages).validate_python("de") == ("de",)
    assert TypeAdapter(Languages).validate_python(["de", "en"]) == ("de", "en")


def test_a_key_is_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TypeAdapter(ApiKey).validate_python(" abc\n").get_secret_value() == "abc"
    monkeypatch.setenv("SHOP_KEY", " abc\n")
    assert (
        found_key(None, "SHOP_KEY", "the shop") == found_key(SecretStr(""), "SHOP_KEY", "the shop") == SecretStr("abc")
    )


def test_settings_of_somebody_else_are_covered_too() -> None:
    class Settings(ServiceSettings):
        token: str
        pace: float

    with pytest.raises(ValueError, match="pace") as caught:
        Settings.model_validate({"service": "x", "token": KEY, "pace": KEY})
    assert KEY not in str(caught.value)
