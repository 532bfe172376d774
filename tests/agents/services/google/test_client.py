"""Who asks: keys, files, and what the machine itself has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google.auth
import pytest
from google.auth import api_key
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from offhook.agents.api import SettingsError
from offhook.agents.services.base import ServiceError
from offhook.agents.services.google.client import SCOPE, GoogleSettings, Identity, translated
from offhook.agents.services.google.stt import GoogleSpeech
from offhook.agents.services.google.tts import GoogleVoice


def identity(**settings: Any) -> Identity:
    return Identity("stt", GoogleSettings(service="google", **settings))


async def test_a_key() -> None:
    found, project = await identity(api_key="k").find()
    assert isinstance(found, api_key.Credentials)
    assert (found.token, project) == ("k", "")


async def test_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def default(scopes: list[str]) -> tuple[AnonymousCredentials, str]:
        asked.append(scopes)
        return AnonymousCredentials(), "shop"

    monkeypatch.setattr(google.auth, "default", default)
    who = identity()
    assert (await who.find())[1] == "shop"
    await who.find()
    assert asked == [[SCOPE]], "it is looked up once"


async def test_the_project_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google.auth, "default", lambda scopes: (AnonymousCredentials(), None))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "shop")
    assert (await identity().find())[1] == "shop"


async def test_no_credentials_are_a_setting_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def default(scopes: list[str]) -> None:
        raise DefaultCredentialsError("none were found")

    monkeypatch.setattr(google.auth, "default", default)
    with pytest.raises(
        SettingsError, match=r"stt.credentials_file: none were found; give it or api_key, or set GOOGLE"
    ):
        await identity().find()


@pytest.mark.parametrize("content", ["{}", "no JSON", json.dumps({"type": "service_account", "client_email": "x"})])
async def test_a_file_that_holds_no_credentials(content: str, tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    file.write_text(content)
    with pytest.raises(SettingsError, match=r"stt.credentials_file: .*; give it or api_key"):
        await identity(credentials_file=file).find()


async def test_a_project_is_needed_to_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google.auth, "default", lambda scopes: (AnonymousCredentials(), None))
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    service = GoogleSpeech(GoogleSpeech.Settings(service="google"))
    with pytest.raises(SettingsError, match=r"stt.project: missing: the credentials do not say which project pays"):
        await service.warm()
    await service.close()


async def test_the_place_decides_the_host() -> None:
    settings = GoogleSpeech.Settings(service="google", api_key="k", project="p", region="europe-west4")
    service = GoogleSpeech(settings)
    await service.warm()
    client = await service.client()
    assert client.transport.host == "europe-west4-speech.googleapis.com:443"
    await service.close()


async def test_another_host_to_speak() -> None:
    settings = GoogleVoice.Settings(service="google", api_key="k", base_url="https://eu-texttospeech.googleapis.com")
    service = GoogleVoice(settings)
    await service.warm()
    client = await service.client()
    assert client.transport.host == "eu-texttospeech.googleapis.com:443"
    await service.close()


def test_credentials_that_cannot_be_renewed_may_be_another_time() -> None:
    with pytest.raises(ServiceError, match="google: unavailable: credentials: clock"), translated("google"):
        raise RefreshError("clock")
