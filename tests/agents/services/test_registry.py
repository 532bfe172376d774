from __future__ import annotations

import sys
from typing import Any

import pytest

from offhook.agents.api import SettingsError
from offhook.agents.services.local.tts import EspeakVoice
from offhook.agents.services.registry import Role, extra_of, make_service, service_class


def test_the_extra_is_that_of_the_sdk() -> None:
    assert extra_of("stt", "deepgram-flux") == "deepgram"
    assert extra_of("tts", "google") == "google"
    assert extra_of("stt", "grammar") is None
    assert extra_of("llm", "nobody") is None


def test_a_missing_sdk_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "assemblyai.streaming.v3", None)
    monkeypatch.delitem(sys.modules, "offhook.agents.services.assemblyai.stt", raising=False)
    with pytest.raises(SettingsError, match=r"stt: assemblyai needs a package .*: pip install 'offhook\[assemblyai\]'"):
        service_class("stt", "assemblyai")


def test_a_class_of_ones_own() -> None:
    assert service_class("tts", "offhook.agents.services.local.tts:EspeakVoice") is EspeakVoice


@pytest.mark.parametrize(
    ("role", "settings", "message"),
    [
        ("tts", {}, "tts.service: missing; there are .*piper"),
        ("stt", {"service": "ear"}, "stt: no service 'ear' is installed; there are .*google.*module:Class"),
        ("llm", {"service": "offhook.agents.echo:Echo"}, "llm: .* which is no LanguageModel"),
        ("llm", {"service": "offhook.agents.echo:Nobody"}, "llm: .* cannot be imported"),
        ("llm", {"service": "offhook.nowhere:Nobody"}, "llm: offhook.nowhere:Nobody needs a package that is missing"),
        ("tts", {"service": "flite", "timeout": 0}, "tts.timeout: must be greater than 0"),
    ],
)
def test_settings_that_cannot_work(role: Role, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_service(role, settings)
