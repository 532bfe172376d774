"""jambonz as a carrier: webhooks answered with verbs, media sockets by `listen`, and its REST API.

It runs on FreeSWITCH, and its media socket is mod_audio_fork's; all else is like any carrier in the cloud.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Final, Literal

import msgspec
from pydantic import BaseModel, Field

from offhook.providers.base import (
    Answer,
    CallStatusChanged,
    CarrierCallStatus,
    CarrierProtocolError,
    CarrierRequest,
    CarrierResponse,
    IncomingCall,
    Webhook,
    WebhookProvider,
)
from offhook.providers.freeswitch import answer as verbs
from offhook.providers.freeswitch import auth
from offhook.providers.freeswitch.api import JambonzControl
from offhook.providers.freeswitch.application import call_of, fields_of
from offhook.providers.freeswitch.playback import StreamedPlayback
from offhook.providers.settings import CarrierSettings, Secret, Secrets, plain

STATUSES: Final[dict[str, CarrierCallStatus]] = {
    "trying": "queued",
    "ringing": "ringing",
    "early-media": "ringing",
    "in-progress": "answered",
    "completed": "completed",
    "busy": "busy",
    "failed": "failed",
    "no-answer": "no-answer",
    "queued": "queued",
}
"""jambonz's call_status in our words."""

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class JambonzSettings(CarrierSettings):
    """The section `carriers.jambonz`."""

    account_sid: str = Field(min_length=1)
    """The account."""
    webhook_secret: Secrets
    """Checks the signatures of webhooks. A list while it is rotated."""
    api_key: Secret | None = None
    """Signs us in at the API: for hang-up, transfer, keys and outbound calls."""
    api_base: str = "https://jambonz.cloud/api"
    """The API of the installation."""
    sample_rate: Literal[8000, 16000, 24000] = 8000
    """Of media streams, both ways. Marks get lost where FreeSWITCH has to resample, and phone lines have 8000."""
    verb: Literal["listen", "stream"] = "listen"
    """The verb that opens media streams; `stream` is its younger name."""


class JambonzProvider(WebhookProvider):
    """A jambonz application."""

    name: ClassVar[str] = "jambonz"
    Settings: ClassVar[type[BaseModel]] = JambonzSettings
    webhooks = (
        Webhook("/jambonz/call", "incoming", "Calling webhook of the application, POST"),
        Webhook("/jambonz/status", "status", "Call status webhook of the application, POST"),
        Webhook("/jambonz/after", "after", "asked by our own answers, nothing to paste"),
    )
    media_path: ClassVar[str] = "/jambonz/media/{token}"
    subprotocols = ("audio.jambonz.org", "audio.drachtio.org")
    "Those the media socket may offer; one of them must be chosen, or the module closes it."
    control: JambonzControl

    def __init__(self, settings: BaseModel, *, clock: Callable[[], float] = time.time) -> None:
        if not isinstance(settings, JambonzSettings):
            raise TypeError(f"settings is a {type(settings).__name__}, not JambonzSettings")
        self._settings, self._clock = settings, clock
        self._secrets = plain(settings.webhook_secret)
        self.control = JambonzControl(
            account_sid=settings.account_sid,
            api_key=settings.api_key.get_secret_value() if settings.api_key else "",
            api_base=settings.api_base,
            timeout=settings.api_timeout,
        )

    def verify(self, request: CarrierRequest) -> None:
        auth.verify(request, secrets=self._secrets, at=self._clock())

    def verify_upgrade(self, request: CarrierRequest) -> None:
        """Passes: jambonz signs no upgrades. The one-time token in the path authenticates."""

    def incoming(self, request: CarrierRequest) -> IncomingCall:
        return call_of(_fields(request))

    def status(self, request: CarrierRequest) -> CallStatusChanged:
        found = _fields(request)
        if not found.get("call_sid"):
            raise CarrierProtocolError("call_sid: the field is missing")
        return CallStatusChanged(
            carrier_call_id=found["call_sid"],
            status=STATUSES.get(found.get("call_status", "")),
            fields=found,
            cause=" ".join(part for part in (found.get("sip_status", ""), found.get("sip_reason", "")) if part),
        )

    def answer(self, answer: Answer) -> CarrierResponse:
        settings = self._settings
        return CarrierResponse(
            verbs.build(answer, rate=settings.sample_rate, listen=settings.verb), content_type="application/json"
        )

    def stream(self, *, expect_call_id: str) -> StreamedPlayback:
        return StreamedPlayback(expect_call_id=expect_call_id)


def _fields(request: CarrierRequest) -> dict[str, str]:
    try:
        return fields_of(_decode(request.body))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CarrierProtocolError(f"the body is no JSON object: {error}"[:200]) from error
