"""Plivo as a carrier: webhooks, answers, media streams and orders."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, Field

from offhook.codecs.audio import AudioFormat
from offhook.providers import numbers
from offhook.providers.base import (
    Answer,
    CallStatusChanged,
    CarrierAuthError,
    CarrierCallStatus,
    CarrierRequest,
    CarrierResponse,
    IncomingCall,
    Webhook,
    WebhookProvider,
)
from offhook.providers.plivo import answer as xml
from offhook.providers.plivo import auth
from offhook.providers.plivo.api import PlivoControl
from offhook.providers.plivo.wire import PlivoStream
from offhook.providers.settings import CarrierSettings, Secrets, plain
from offhook.providers.webhook import fields, need, number

STATUSES: Final[dict[str, CarrierCallStatus]] = {
    "queued": "queued",
    "ringing": "ringing",
    "early media": "ringing",
    "in-progress": "answered",
    "completed": "completed",
    "busy": "busy",
    "failed": "failed",
    "timeout": "no-answer",
    "no-answer": "no-answer",
    "cancel": "canceled",
    "canceled": "canceled",
}
"""Plivo's CallStatus in our words."""

CAUSES: Final[dict[str, CarrierCallStatus]] = {
    "NORMAL_CLEARING": "completed",
    "USER_BUSY": "busy",
    "CALL_REJECTED": "busy",
    "NO_ANSWER": "no-answer",
    "NO_USER_RESPONSE": "no-answer",
    "ORIGINATOR_CANCEL": "canceled",
}
"""Plivo's HangupCause in our words, for a hang-up that has no CallStatus."""

CAUSE_CODES: Final[dict[int, CarrierCallStatus]] = {
    3000: "no-answer",
    3010: "busy",
    4000: "completed",
    4010: "completed",
}
"""Plivo's HangupCauseCode in our words, for a hang-up whose cause we do not know; any other code is a failure."""

ENDED_BY: Final[dict[str, Literal["caller", "callee", "carrier", "gateway"]]] = {
    "caller": "caller",
    "callee": "callee",
    "api request": "gateway",
    "answer xml": "gateway",
    "xml": "gateway",
    "plivo": "carrier",
    "carrier": "carrier",
    "error": "carrier",
}
"""Plivo's HangupSource in our words."""

STREAM_EVENTS: Final = frozenset(
    {"StartStream", "StopStream", "DroppedStream", "DegradedStream", "PlayedStream", "ClearedAudio"}
)
"""Callbacks about a stream; they say nothing about the call's own status."""

REPEAT_WINDOW: Final = 60.0
"""Seconds in which Plivo may repeat a request by itself: three tries, 60 s in all."""

NONCE_MEMORY: Final = 3600.0
"""Seconds for which a signed request stays a replay."""

MAX_NONCES: Final = 10_000
"""Signed requests remembered; the oldest goes first. Three a call and an hour are over three thousand calls."""


class PlivoSettings(CarrierSettings):
    """The section `carriers.plivo`."""

    auth_id: str = Field(min_length=1)
    """The account, MA or SA and 18 characters."""
    auth_token: Secrets
    """Checks signatures, and signs us in at the API. A list while it is rotated; the first signs in."""
    allow_v2_signatures: bool = False
    """Accept requests that carry the older signature only. It does not cover what they say."""
    stream_format: Literal["pcmu/8000", "l16/8000", "l16/16000"] = "pcmu/8000"
    """What media streams carry."""


class Nonces:
    """Tells a replayed request from one that Plivo repeats."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()

    def replayed(self, nonce: str, signature: str, now: float) -> bool:
        """True when the same signed request came longer ago than Plivo would repeat it."""
        while self._seen:
            oldest = next(iter(self._seen))
            if len(self._seen) < MAX_NONCES and now - self._seen[oldest] < NONCE_MEMORY:
                break
            del self._seen[oldest]
        first = self._seen.setdefault((nonce, signature), now)
        return now - first > REPEAT_WINDOW


class PlivoProvider(WebhookProvider):
    """Plivo Voice with bidirectional audio streaming."""

    name: ClassVar[str] = "plivo"
    Settings: ClassVar[type[BaseModel]] = PlivoSettings
    webhooks = (
        Webhook("/plivo/answer", "incoming", "Answer URL of the application"),
        Webhook("/plivo/hangup", "status", "Hangup URL of the application"),
        Webhook("/plivo/after", "after", "asked by our own answers, nothing to paste"),
    )
    media_path: ClassVar[str] = "/plivo/media/{token}"
    control: PlivoControl

    def __init__(self, settings: BaseModel, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(settings, PlivoSettings):
            raise TypeError(f"settings is a {type(settings).__name__}, not PlivoSettings")
        self._tokens = plain(settings.auth_token)
        self._allow_v2 = settings.allow_v2_signatures
        self._format = AudioFormat.parse(settings.stream_format)
        self._nonces, self._clock = Nonces(), clock
        self.control = PlivoControl(
            auth_id=settings.auth_id,
            auth_token=self._tokens[0],
            api_base=settings.api_base,
            timeout=settings.api_timeout,
        )

    def verify(self, request: CarrierRequest) -> None:
        nonce, signature = auth.verify(request, tokens=self._tokens, allow_v2=self._allow_v2)
        if self._nonces.replayed(nonce, signature, self._clock()):
            raise CarrierAuthError("the request was seen before: its nonce and signature are a replay")

    def verify_upgrade(self, request: CarrierRequest) -> None:
        """Passes: Plivo signs no upgrades. The one-time token in the path authenticates."""

    def incoming(self, request: CarrierRequest) -> IncomingCall:
        found = fields(request)
        call_id = need(found, "CallUUID")
        outbound = found.get("Direction", "").lower() == "outbound"
        outbound_id = ""
        if outbound:
            outbound_id = found.get("ALegRequestUUID") or found.get("RequestUUID", "")
            self.control.connected(outbound_id, call_id)
        return IncomingCall(
            carrier_call_id=call_id,
            from_number=numbers.normalise(found.get("From", "")),
            to_number=numbers.normalise(need(found, "To")),
            direction="outbound" if outbound else "inbound",
            fields=found,
            outbound_id=outbound_id if outbound_id != call_id else "",
        )

    def status(self, request: CarrierRequest) -> CallStatusChanged:
        found = fields(request)
        event = found.get("Event", "")
        if event in STREAM_EVENTS:
            return CallStatusChanged(found.get("CallUUID", ""), None, found, cause=event)
        cause = found.get("HangupCause") or found.get("HangupCauseName", "")
        status = STATUSES.get(found.get("CallStatus", "").lower())
        if status is None and (cause or event == "Hangup"):
            status = CAUSES.get(cause.upper()) or CAUSE_CODES.get(number(found, "HangupCauseCode") or 0, "failed")
        return CallStatusChanged(
            carrier_call_id=need(found, "CallUUID"),
            status=status,
            fields=found,
            cause=cause,
            ended_by=ENDED_BY.get(found.get("HangupSource", "").lower(), ""),
        )

    def answer(self, answer: Answer) -> CarrierResponse:
        return CarrierResponse(xml.build(answer, format=self._format))

    def stream(self, *, expect_call_id: str) -> PlivoStream:
        return PlivoStream(expect_call_id=expect_call_id)
