"""FreeSWITCH's section, its upgrade, and which way out a socket gets."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from offhook.providers.base import CallOffered, CarrierAuthError, CarrierRequest, SocketProvider
from offhook.providers.freeswitch.adapter import FreeswitchProvider, FreeswitchSettings
from offhook.providers.freeswitch.playback import (
    BinaryPlayback,
    ClipPlayback,
    FilePlayback,
    StreamedPlayback,
)
from offhook.providers.settings import CarrierSettings

URL = "wss://voice.example.com/freeswitch/media"


def provider(**changes: Any) -> FreeswitchProvider:
    return FreeswitchProvider(FreeswitchSettings(**({"token": "t-1"} | changes)))


def upgrade(query: str = "", *, offered: str = "", bearer: str = "t-1") -> CarrierRequest:
    headers = {"authorization": [f"Bearer {bearer}"]}
    if offered:
        headers["sec-websocket-protocol"] = [offered]
    return CarrierRequest("GET", URL + query, headers)


def test_case_1_the_upgrade_is_authenticated_and_a_subprotocol_chosen() -> None:
    freeswitch = provider(username="pbx", password="p")
    assert isinstance(freeswitch, SocketProvider)
    assert freeswitch.subprotocols[0] == "audio.drachtio.org"
    assert "audio.jambonz.org" in freeswitch.subprotocols
    freeswitch.verify_upgrade(upgrade())
    freeswitch.verify_upgrade(CarrierRequest("GET", URL, {"authorization": ["Basic cGJ4OnA="]}))
    for refused in (upgrade(bearer="wrong"), CarrierRequest("GET", URL, {"authorization": ["Basic cGJ4Ong="]})):
        with pytest.raises(CarrierAuthError):
            freeswitch.verify_upgrade(refused)


@pytest.mark.parametrize(
    ("settings", "offered", "query", "expected"),
    [
        ({}, "audio.drachtio.org", "", StreamedPlayback),
        ({}, "chat, audio.jambonz.org", "", StreamedPlayback),
        ({}, "", "", FilePlayback),
        ({}, "chat", "", FilePlayback),
        ({"mode": "audio_fork"}, "", "", StreamedPlayback),
        ({"mode": "jambonz"}, "", "", StreamedPlayback),
        ({"mode": "jambonz", "playback": "clips"}, "", "", ClipPlayback),
        ({"mode": "audio_stream"}, "audio.drachtio.org", "", FilePlayback),
        ({"mode": "audio_stream", "playback": "binary"}, "", "", BinaryPlayback),
        ({}, "audio.drachtio.org", "?playback=clips", ClipPlayback),
        ({"playback": "binary"}, "", "?playback=stream", StreamedPlayback),
        ({"playback": "binary"}, "audio.drachtio.org", "?playback=loud", StreamedPlayback),
    ],
)
def test_which_way_out(settings: dict[str, Any], offered: str, query: str, expected: type) -> None:
    assert type(provider(**settings).open(upgrade(query, offered=offered))) is expected


def test_the_url_may_tell_of_the_call() -> None:
    stream = provider(number="+15550199", audio_first=True, sample_rate=16000).open(
        upgrade("?from=1000&uuid=u-1&mix=stereo&x=%ff")
    )
    (offered,) = stream.receive_binary(bytes(4), 0.0)
    assert isinstance(offered, CallOffered)
    assert offered.incoming.carrier_call_id == "u-1"
    assert offered.incoming.from_number == "1000"
    assert offered.incoming.to_number == "+15550199"
    assert stream.format.rate == 16000
    named = provider().open(upgrade("?uuid=u-2")).receive_binary(bytes(2), 0.0)
    assert isinstance(named[0], CallOffered)  # the URL says which call it is, so the audio may come first
    assert not isinstance(provider().open(upgrade("?from=1")).receive_binary(bytes(2), 0.0)[0], CallOffered)
    crowded = "?" + "&".join(f"k{number}=v" for number in range(50))
    assert isinstance(provider(audio_first=True).open(upgrade(crowded)).receive_binary(bytes(2), 0.0)[0], CallOffered)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"token": None}, "set username and password, or token"),
        ({"username": "pbx"}, "go together"),
        ({"password": "p"}, "go together"),
        ({"token": " "}, "is empty"),
        ({"mode": "other"}, "mode"),
        ({"sample_rate": 11025}, "sample_rate"),
        ({"esl": {}}, "esl.password"),
        ({"esl": {"password": "p", "dial_string": "sofia/gateway/x/1"}}, "dial_string"),
        ({"esl": {"password": "p", "context": "a b"}}, "context"),
        ({"esl": {"password": "p", "dial_to": "a b c d"}}, "dial_to"),
        ({"esl": {"password": "p", "port": 0}}, "port"),
        ({"esl": {"password": "p", "stop_media": "a\nb"}}, "stop_media"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_settings_that_cannot_be_right(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        FreeswitchSettings(**({"token": "t-1"} | changes))


def test_other_settings_are_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="CarrierSettings"):
        FreeswitchProvider(CarrierSettings())


def test_no_secret_is_shown() -> None:
    settings = FreeswitchSettings.model_validate({"token": "t-secret", "esl": {"password": "p-secret"}})
    assert "secret" not in repr(settings)
    with pytest.raises(ValidationError) as error:
        FreeswitchSettings.model_validate({"token": "t-secret", "esl": {"password": "p-secret", "port": "x"}})
    assert "secret" not in str(error.value)
