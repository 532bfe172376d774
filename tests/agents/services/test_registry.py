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
        ("tts", {"service": "flite", "timeout": "soon"}, "^tts.timeout: must be a number$"),
        ("tts", {"service": "flite", "retries": 1.5}, "^tts.retries: must be a whole number$"),
        (
            "tts",
            {"service": "flite", "voic": "slt"},
            r"tts.voic: no such setting; did you mean voice\? flite has retries",
        ),
        ("tts", {"service": "flite", "zzz": 1}, "tts.zzz: no such setting; flite has retries, "),
        ("tts", {"service": "flite", "stall": 0, "timeout": 0}, "tts.timeout: must .*; tts.stall: must"),
        ("tts", {"service": "piper"}, "tts.file: missing: The voice, such as"),
        ("stt", {"service": "grammar", "phrases": "yes"}, r"stt.phrases: must be a list: \[a, b\]"),
        ("stt", {"service": "grammar", "phrases": ["yes", 1]}, "stt.phrases.1: must be text; put it in quotes"),
        ("stt", {"service": "grammar", "rules": []}, "stt.rules: must be a mapping of names and values"),
        ("stt", {"service": "deepgram", "api_key": "k", "punctuate": 7}, "stt.punctuate: must be true or false"),
        (
            "stt",
            {"service": "deepgram", "api_key": "k", "endpointing": 5},
            "stt.endpointing: must .*, or must be False",
        ),
    ],
)
def test_settings_that_cannot_work(role: Role, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_service(role, settings)
