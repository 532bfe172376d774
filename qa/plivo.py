"""Plivo's manners: webhook fields, signatures, and the part of its API that rules calls.

Source: Plivo's documentation of call webhooks, of signature validation V3 and of the Call API.
"""

from __future__ import annotations

import json
from secrets import randbelow, token_hex
from time import gmtime, strftime
from typing import Any, Final, Literal
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from offhook.providers.markup import Markup, OpenStream
from offhook.providers.plivo import answer, auth
from offhook.providers.plivo.wire import PlivoCarrierSide
from offhook.qa.carrier import CallCard, Carrier, Desk, Endpoint, Status, read_form

_CAUSES: Final[dict[Status, tuple[str, str, str]]] = {
    "completed": ("NORMAL_CLEARING", "Normal Hangup", "4000"),
    "busy": ("USER_BUSY", "Busy Line", "3010"),
    "no-answer": ("NO_ANSWER", "No Answer", "3000"),
    "canceled": ("ORIGINATOR_CANCEL", "Cancelled", "1010"),
    "failed": ("NORMAL_TEMPORARY_FAILURE", "Error Reaching Answer URL", "8011"),
}
"""HangupCause, HangupCauseName and HangupCauseCode of each end."""

_SOURCES: Final = {"caller": "Caller", "bot": "API Request", "carrier": "Plivo"}


class Plivo(Carrier):
    """See `Carrier`."""

    name = "plivo"

    def new_call_id(self) -> str:
        return str(uuid4())

    def fields(self, card: CallCard) -> dict[str, str]:
        fields = {
            "CallUUID": card.call_id,
            "From": card.from_number.removeprefix("+"),
            "To": card.to_number.removeprefix("+"),
            "CallStatus": card.status,
            "Direction": card.direction,
            "Event": "StartApp",
            "ALegUUID": card.call_id,
            "ParentAuthID": self.account,
        }
        return fields | ({"ALegRequestUUID": card.order_id, "RequestUUID": card.order_id} if card.order_id else {})

    def status_fields(self, card: CallCard, sequence: int) -> dict[str, str]:
        fields = self.fields(card)
        if not card.ended:
            return fields | {"Event": "Ring" if card.status == "ringing" else "StartApp"}
        cause, cause_name, code = _CAUSES.get(card.status, _CAUSES["failed"])
        return fields | {
            "Event": "Hangup",
            "HangupCause": cause,
            "HangupCauseName": cause_name,
            "HangupCauseCode": code,
            "HangupSource": _SOURCES.get(card.ended_by, "Unknown"),
            "Duration": str(card.seconds),
            "BillDuration": str(-(-card.seconds // 60) * 60),
            "BillRate": "0.0055",
            "TotalCost": f"{-(-card.seconds // 60) * 0.0055:.5f}",
            "StartTime": _stamp(card.created),
            "AnswerTime": _stamp(card.answered) if card.answered else "",
            "EndTime": _stamp(card.ended),
        }

    def dial_fields(self, outcome: Status, seconds: int) -> dict[str, str]:
        fields = {"Event": "Redirect", "DialStatus": outcome, "DialRingStatus": "true"}
        return fields | ({"DialBLegDuration": str(seconds), "DialBLegUUID": str(uuid4())} if seconds else {})

    def stream_fields(self, event: Literal["started", "stopped", "failed"], stream_id: str, url: str) -> dict[str, str]:
        name = {"started": "StartStream", "stopped": "StopStream", "failed": "DroppedStream"}[event]
        stamp = strftime("%Y-%m-%d %H:%M:%S", gmtime())
        return {"Event": name, "StreamID": stream_id, "ServiceURL": url, "Timestamp": stamp}

    def headers(self, method: str, url: str, fields: dict[str, str]) -> dict[str, str]:
        headers = {"User-Agent": "Plivo"}
        if self.secret is None:
            return headers
        nonce = "".join(str(randbelow(10)) for _ in range(20))
        signature = auth.sign(self.secret, method, url, nonce, [] if method == "GET" else fields.items())
        return headers | {"X-Plivo-Signature-V3": signature, "X-Plivo-Signature-V3-Nonce": nonce}

    def upgrade_headers(self, url: str) -> dict[str, str]:
        return {"User-Agent": "Plivo"}

    def parse(self, document: bytes | str, base_url: str) -> Markup:
        return answer.parse(document, base_url=base_url)

    def side(self, card: CallCard, stream: OpenStream) -> PlivoCarrierSide:
        return PlivoCarrierSide(
            account_id=self.account,
            call_id=card.call_id,
            stream_id=f"s-{uuid4()}",
            parameters=stream.parameters,
            format=stream.format,
            bidirectional=stream.bidirectional,
        )

    def outlives_stream(self, stream: OpenStream) -> bool:
        return stream.keeps_call

    # --- the API ---

    def endpoints(self) -> list[tuple[str, str, Endpoint]]:
        account = "/v1/Account/{account}"
        return [
            ("DELETE", f"{account}/Call/{{call}}/", self._hang_up),
            ("DELETE", f"{account}/Request/{{call}}/", self._hang_up),
            ("POST", f"{account}/Call/{{call}}/", self._transfer),
            ("POST", f"{account}/Call/{{call}}/DTMF/", self._digits),
            ("POST", f"{account}/Call/", self._create),
            ("GET", f"{account}/", self._account),
        ]

    def error(self, status: int, message: str) -> Response:
        return _reply({"error": message}, status)

    async def _hang_up(self, request: Request, desk: Desk) -> Response:
        call = desk.find(request.path_params["call"])
        if call is None:
            return self.error(404, "not found")
        call.order_hang_up("API: DELETE")
        return Response(status_code=204)

    async def _transfer(self, request: Request, desk: Desk) -> Response:
        call = desk.find(request.path_params["call"])
        if call is None:
            return self.error(404, "not found")
        body = await _body(request)
        if str(body.get("legs", "aleg")) not in ("aleg", "both") or not body.get("aleg_url"):
            return self.error(400, "legs=aleg with aleg_url is what a one-legged call can do")
        call.order_markup(url=str(body["aleg_url"]), method=str(body.get("aleg_method", "POST")).upper())
        return _reply({"message": "call transferred", "call_uuids": [call.card.call_id]}, 202)

    async def _create(self, request: Request, desk: Desk) -> Response:
        body = await _body(request)
        if not all(body.get(name) for name in ("from", "to", "answer_url")):
            return self.error(400, "from, to and answer_url are required")
        card = CallCard(self.new_call_id(), str(body["from"]), str(body["to"]), "outbound", "queued")
        card.order_id = str(uuid4())
        card.answer_url = str(body["answer_url"])
        card.answer_method = str(body.get("answer_method", "POST")).upper()
        card.status_url = str(body.get("hangup_url", ""))
        desk.place(card)
        return _reply({"message": "call fired", "request_uuid": card.order_id}, 201)

    async def _digits(self, request: Request, desk: Desk) -> Response:
        call = desk.find(request.path_params["call"])
        if call is None:
            return self.error(404, "not found")
        call.play_digits(str((await _body(request)).get("digits", "")))
        return _reply({"message": "digits sent"}, 202)

    async def _account(self, request: Request, desk: Desk) -> Response:
        return _reply({"auth_id": self.account, "name": "Simulated account", "account_type": "standard"}, 200)


async def _body(request: Request) -> dict[str, Any]:
    if "json" in request.headers.get("content-type", ""):
        try:
            body = await request.json()
        except json.JSONDecodeError:
            return {}
        return body if isinstance(body, dict) else {}
    return {name: values[-1] for name, values in (await read_form(request)).items()}


def _reply(body: dict[str, Any], status: int) -> JSONResponse:
    return JSONResponse({"api_id": token_hex(16), **body}, status)


def _stamp(at: float) -> str:
    return strftime("%Y-%m-%d %H:%M:%S", gmtime(at))
