"""Twilio's manners: webhook fields, signatures, and the part of its API that rules calls.

Source: Twilio's documentation of voice webhooks, call status callbacks and the Calls resource.
"""

from __future__ import annotations

from email.utils import formatdate
from secrets import token_hex
from typing import Any, Final, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from offhook.providers.markup import Markup, OpenStream
from offhook.providers.twilio import answer, auth
from offhook.providers.twilio.wire import TwilioCarrierSide
from offhook.qa.carrier import CallCard, Carrier, Desk, Endpoint, Status, read_form

API_VERSION: Final = "2010-04-01"

_UNKNOWN_PLACE: Final = dict.fromkeys(
    [f"{who}{what}" for who in ("From", "To", "Caller", "Called") for what in ("City", "State", "Zip", "Country")], ""
)
"""Twilio sends what it knows about the numbers' places, and blank fields for what it does not."""


class Twilio(Carrier):
    """See `Carrier`."""

    name = "twilio"

    def new_call_id(self) -> str:
        return "CA" + token_hex(16)

    def fields(self, card: CallCard) -> dict[str, str]:
        return {
            "AccountSid": self.account,
            "ApiVersion": API_VERSION,
            "CallSid": card.call_id,
            "CallStatus": card.status,
            "Direction": "inbound" if card.direction == "inbound" else "outbound-api",
            "From": card.from_number,
            "To": card.to_number,
            "Caller": card.from_number,
            "Called": card.to_number,
            **_UNKNOWN_PLACE,
        }

    def status_fields(self, card: CallCard, sequence: int) -> dict[str, str]:
        fields = self.fields(card) | {
            "Timestamp": formatdate(card.ended or None),
            "SequenceNumber": str(sequence),
            "CallbackSource": "call-progress-events",
        }
        if card.ended:
            # Duration is in begun minutes, a relic that Twilio still sends.
            fields |= {"CallDuration": str(card.seconds), "Duration": str(-(-card.seconds // 60))}
        return fields

    def dial_fields(self, outcome: Status, seconds: int) -> dict[str, str]:
        fields = {"DialCallStatus": outcome, "DialCallSid": self.new_call_id()}
        return fields | ({"DialCallDuration": str(seconds), "DialBridged": "true"} if outcome == "completed" else {})

    def stream_fields(self, event: Literal["started", "stopped", "failed"], stream_id: str, url: str) -> dict[str, str]:
        name = "stream-error" if event == "failed" else f"stream-{event}"
        return {"StreamSid": stream_id, "StreamEvent": name, "Timestamp": formatdate()}

    def headers(self, method: str, url: str, fields: dict[str, str]) -> dict[str, str]:
        signed = [] if method == "GET" else fields.items()
        headers = {"User-Agent": "TwilioProxy/1.1", "I-Twilio-Idempotency-Token": token_hex(16)}
        return headers | self._signature(url, signed)

    def upgrade_headers(self, url: str) -> dict[str, str]:
        return {"User-Agent": "Twilio.TmeWs/1.0"} | self._signature(url, ())

    def _signature(self, url: str, params: Any) -> dict[str, str]:
        return {} if self.secret is None else {"X-Twilio-Signature": auth.sign(self.secret, url, params)}

    def parse(self, document: bytes | str, base_url: str) -> Markup:
        return answer.parse(document, base_url=base_url)

    def side(self, card: CallCard, stream: OpenStream) -> TwilioCarrierSide:
        return TwilioCarrierSide(
            account_sid=self.account,
            call_sid=card.call_id,
            stream_sid="MZ" + token_hex(16),
            parameters=stream.parameters,
            format=stream.format,
            bidirectional=stream.bidirectional,
        )

    def outlives_stream(self, stream: OpenStream) -> bool:
        return False

    # --- the API ---

    def endpoints(self) -> list[tuple[str, str, Endpoint]]:
        account = f"/{API_VERSION}/Accounts/{{account}}"
        return [
            ("POST", f"{account}/Calls/{{call}}.json", self._update),
            ("GET", f"{account}/Calls/{{call}}.json", self._show),
            ("POST", f"{account}/Calls.json", self._create),
            ("GET", f"{account}.json", self._account),
        ]

    def error(self, status: int, message: str) -> Response:
        return _error(status, {401: 20003, 404: 20404, 429: 20429}.get(status, 20500), message)

    async def _update(self, request: Request, desk: Desk) -> Response:
        call = desk.find(request.path_params["call"])
        if call is None:
            return self.error(404, f"The requested resource {request.url.path} was not found")
        form = await read_form(request)
        status, document, url = (_field(form, name) for name in ("Status", "Twiml", "Url"))
        if status in ("completed", "canceled"):
            call.order_hang_up(f"API: Status={status}")
        elif url:  # Twilio prefers Url when both are given
            call.order_markup(url=url, method=_field(form, "Method").upper())
        elif document:
            if len(document) > answer.MAX_INLINE:
                return _error(400, 21218, f"Twiml is over {answer.MAX_INLINE} characters")
            call.order_markup(document=document)
        else:
            return _error(400, 20001, "Url, Twiml or Status is required")
        return JSONResponse(self._resource(call.card))

    async def _create(self, request: Request, desk: Desk) -> Response:
        form = await read_form(request)
        to, from_number, url, document = (_field(form, name) for name in ("To", "From", "Url", "Twiml"))
        if not (to and from_number and (url or document)):
            return _error(400, 21205, "To, From and one of Url and Twiml are required")
        card = CallCard(self.new_call_id(), from_number, to, "outbound", "queued")
        card.answer_url, card.answer_document = url, document
        card.answer_method = _field(form, "Method").upper() or "POST"
        card.status_url = _field(form, "StatusCallback")
        card.status_events = form.get("StatusCallbackEvent", [])
        return JSONResponse(self._resource(desk.place(card).card), 201)

    async def _show(self, request: Request, desk: Desk) -> Response:
        call = desk.find(request.path_params["call"])
        return JSONResponse(self._resource(call.card)) if call else self.error(404, "not found")

    async def _account(self, request: Request, desk: Desk) -> Response:
        return JSONResponse({"sid": self.account, "friendly_name": "Simulated account", "status": "active"})

    def _resource(self, card: CallCard) -> dict[str, Any]:
        return {
            "sid": card.call_id,
            "account_sid": self.account,
            "from": card.from_number,
            "to": card.to_number,
            "status": card.status,
            "direction": "inbound" if card.direction == "inbound" else "outbound-api",
            "duration": str(card.seconds) if card.ended else None,
            "api_version": API_VERSION,
            "uri": f"/{API_VERSION}/Accounts/{self.account}/Calls/{card.call_id}.json",
        }


def _field(form: dict[str, list[str]], name: str) -> str:
    return form.get(name, [""])[-1]


def _error(status: int, code: int, message: str) -> JSONResponse:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return JSONResponse({"code": code, "message": message, "more_info": more, "status": status}, status)
