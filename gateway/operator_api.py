"""The HTTP interface for the operator's own programs: place calls, see those that are up, hang them up.

A call is hung up after what is being said, or at once with `?now=true`.

Every request carries `Authorization: Bearer <api.token>`. Bodies and answers are JSON; an error is
`{"error": "what and what to do"}`.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from offhook.gateway.reasons import EndedBy, EndReason
from offhook.providers.base import CarrierError, CarrierRefused

if TYPE_CHECKING:
    from offhook.gateway.call import Call
    from offhook.gateway.dialling import Dialling
    from offhook.gateway.switchboard import Switchboard

log = structlog.get_logger("offhook.gateway.operator_api")

MAX_BODY: Final = 16 * 1024
"""Bytes of a request: a call and some attributes."""

MAX_RING: Final = 300
"""Seconds a phone may be rung; proxies give up after three minutes themselves (RFC 3261 timer C)."""


class PlaceCall(msgspec.Struct, forbid_unknown_fields=True, rename={"from_number": "from"}):
    """The body of a request to place a call."""

    to: str
    "E.164, or an extension of the PBX."
    from_number: str = ""
    "Our number; a route must have it. Empty: the first number of the trunk."
    agent: str = ""
    "Who talks; empty: the agent of our number's route."
    carrier: str = ""
    "`sip` or a name under `carriers:`; empty: the only one there is."
    trunk: str = ""
    "Of SIP; empty: the one that has our number, or the first that places calls."
    attributes: dict[str, str] = {}
    "What the other side is told, as a trunk's `attributes` and `pass_headers` say; the agent gets them, too."
    ring_timeout: int = 60
    "Seconds to let the phone ring."


class BadOrder(Exception):
    """The request cannot be carried out as it is. Answered with 400."""


class OperatorApi:
    """The routes below /v1."""

    def __init__(self, board: Switchboard, dialling: Dialling) -> None:
        self._board, self._dialling = board, dialling
        token = board.config.api.token
        self._token = token.get_secret_value().encode() if token is not None else b""

    def routes(self) -> Sequence[Route]:
        """None when no token is set."""
        if not self._token:
            return ()
        return (
            Route("/v1/calls", self._guarded(self._place), methods=["POST"]),
            Route("/v1/calls", self._guarded(self._list), methods=["GET"]),
            Route("/v1/calls/{id}", self._guarded(self._hang_up), methods=["DELETE"]),
        )

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token):
                return _error(401, "send Authorization: Bearer and the token of `api.token`")
            try:
                return await handler(request)
            except BadOrder as error:
                return _error(400, str(error))
            except CarrierRefused as error:
                return _error(422, str(error))
            except CarrierError as error:
                return _error(502, str(error))

        return endpoint

    async def _place(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return _error(413, f"the limit is {MAX_BODY} bytes")
        try:
            order = msgspec.json.decode(bytes(body), type=PlaceCall)
        except msgspec.DecodeError as error:
            raise BadOrder(str(error)) from error
        if not 1 <= order.ring_timeout <= MAX_RING:
            raise BadOrder(f"ring_timeout: {order.ring_timeout} is not between 1 and {MAX_RING} seconds")
        if order.agent and order.agent not in self._board.config.agents:
            raise BadOrder(f"agent: there is no {order.agent!r} under `agents:`")
        if not self._board.admits:
            return JSONResponse({"error": "no room for a call now"}, 503, headers={"Retry-After": "5"})
        placed = await self._dialling.place(order)
        log.info("call placed", to=order.to, **placed)
        return JSONResponse(placed, 202)

    async def _list(self, request: Request) -> Response:
        return JSONResponse([_shown(call) for call in self._board.calls])

    async def _hang_up(self, request: Request) -> Response:
        call = self._board.call(request.path_params["id"])
        if call is None:
            return _error(404, "no such call is up; GET /v1/calls lists those that are")
        if request.query_params.get("now") in ("1", "true"):
            call.end(EndReason.OPERATOR_HANGUP, EndedBy.OPERATOR)
        else:
            call.leave(EndReason.OPERATOR_HANGUP, EndedBy.OPERATOR)
        return Response(status_code=204)


def _shown(call: Call) -> dict[str, object]:
    return {
        "id": call.id,
        "carrier": call.provider.name,
        "carrier_call_id": call.incoming.carrier_call_id,
        "direction": call.incoming.direction,
        "from": call.incoming.from_number,
        "to": call.incoming.to_number,
        "agent": call.plan.agent,
        "state": call.state.value,
    }


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)
