"""Twilio as a carrier: webhooks, answers, media streams and orders."""

from __future__ import annotations

from typing import ClassVar, Final

from pydantic import BaseModel, Field, model_validator

from offhook.providers import numbers
from offhook.providers.base import (
    Answer,
    CallStatusChanged,
    CarrierCallStatus,
    CarrierRequest,
    CarrierResponse,
    IncomingCall,
    Webhook,
    WebhookProvider,
)
from offhook.providers.settings import CarrierSettings, Secret, Secrets, plain
from offhook.providers.twilio import answer as twiml
from offhook.providers.twilio import auth
from offhook.providers.twilio.api import TwilioControl
from offhook.providers.twilio.wire import TwilioStream
from offhook.providers.webhook import fields, need, number

IDEMPOTENCY: Final = "i-twilio-idempotency-token"
"""Header whose value is the same when Twilio repeats a request."""

STATUSES: Final[dict[str, CarrierCallStatus]] = {
    "queued": "queued",
    "initiated": "queued",
    "ringing": "ringing",
    "in-progress": "answered",
    "completed": "completed",
    "busy": "busy",
    "failed": "failed",
    "no-answer": "no-answer",
    "canceled": "canceled",
}
"""Twilio's CallStatus in our words."""


class TwilioSettings(CarrierSettings):
    """The section `carriers.twilio`."""

    account_sid: str = Field(min_length=1)
    """The account, AC and 32 hex digits."""
    auth_token: Secrets
    """Checks signatures, and signs us in at the API unless there is an api_key. A list while it is rotated."""
    api_key: str = ""
    """API key to sign in with instead of the auth token, SK and 32 hex digits."""
    api_secret: Secret | None = None
    """The secret of `api_key`."""
    region: str = ""
    """Twilio region that processes the calls, such as ie1."""
    edge: str = ""
    """Twilio edge to reach the API by, such as dublin."""
    subaccounts: dict[str, Secrets] = Field(default_factory=dict)
    """Auth tokens of sub-accounts whose numbers ring here, by account SID."""
    shared_keys: dict[str, Secret] = Field(default_factory=dict)
    """Secrets of the shared keys that webhooks may be signed with, by key id."""

    @model_validator(mode="after")
    def _key_has_secret(self) -> TwilioSettings:
        if bool(self.api_key) != (self.api_secret is not None):
            raise ValueError("api_key and api_secret go together: set both or none")
        return self


class TwilioProvider(WebhookProvider):
    """Twilio Programmable Voice with bidirectional Media Streams."""

    name: ClassVar[str] = "twilio"
    Settings: ClassVar[type[BaseModel]] = TwilioSettings
    webhooks = (
        Webhook("/twilio/voice", "incoming", "a call comes in"),
        Webhook("/twilio/status", "status", "call status changes"),
        Webhook("/twilio/after", "after", "asked by our own answers, nothing to paste"),
    )
    media_path: ClassVar[str] = "/twilio/media/{token}"
    control: TwilioControl

    def __init__(self, settings: BaseModel) -> None:
        if not isinstance(settings, TwilioSettings):
            raise TypeError(f"settings is a {type(settings).__name__}, not TwilioSettings")
        self._account_sid = settings.account_sid
        self._tokens = plain(settings.auth_token)
        self._subaccounts = {sid: plain(tokens) for sid, tokens in settings.subaccounts.items()}
        self._shared_keys = {id: secret.get_secret_value() for id, secret in settings.shared_keys.items()}
        self.control = TwilioControl(
            account_sid=settings.account_sid,
            username=settings.api_key or settings.account_sid,
            password=settings.api_secret.get_secret_value() if settings.api_secret else self._tokens[0],
            region=settings.region,
            edge=settings.edge,
            api_base=settings.api_base,
            timeout=settings.api_timeout,
        )

    def verify(self, request: CarrierRequest) -> None:
        # Twilio signs with the token of the account that owns the number; the field itself is covered by
        # the signature, so it can only name an account whose token the sender has.
        account = dict(auth.request_fields(request)).get("AccountSid", "")
        auth.verify(request, tokens=self._subaccounts.get(account, self._tokens), shared_keys=self._shared_keys)

    def verify_upgrade(self, request: CarrierRequest) -> None:
        # An upgrade does not say which account it is for.
        tokens = [*self._tokens, *(token for tokens in self._subaccounts.values() for token in tokens)]
        auth.verify(request, tokens=tokens, shared_keys=self._shared_keys)

    def incoming(self, request: CarrierRequest) -> IncomingCall:
        found = fields(request)
        call_id = need(found, "CallSid")
        self.control.remember_account(call_id, found.get("AccountSid", ""))
        return IncomingCall(
            carrier_call_id=call_id,
            from_number=numbers.normalise(found.get("From", "")),
            to_number=numbers.normalise(need(found, "To")),
            direction="outbound" if found.get("Direction", "").startswith("outbound") else "inbound",
            fields=found,
            request_id=request.header(IDEMPOTENCY) or "",
        )

    def status(self, request: CarrierRequest) -> CallStatusChanged:
        found = fields(request)
        # A stream's own events carry the call's status too, but are not about it.
        stream_event = found.get("StreamEvent", "")
        return CallStatusChanged(
            carrier_call_id=need(found, "CallSid"),
            status=None if stream_event else STATUSES.get(found.get("CallStatus", "")),
            fields=found,
            sequence=number(found, "SequenceNumber"),
            cause=found.get("StreamError") or found.get("SipResponseCode") or stream_event,
        )

    def answer(self, answer: Answer) -> CarrierResponse:
        return CarrierResponse(twiml.build(answer))

    def stream(self, *, expect_call_id: str) -> TwilioStream:
        return TwilioStream(expect_call_id=expect_call_id)
