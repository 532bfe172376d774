"""The HTTP face: carriers' webhooks and media sockets, health, readiness, metrics.

Every request of a carrier is verified before anything else looks at it, against the URL built from
`public_url`, never from its Host. A refusal never says why: that is in our log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from offhook.gateway.dialling import Dialling
from offhook.gateway.direct import DirectLine
from offhook.gateway.media_socket import EXTENSION, MediaWebSocketProtocol
from offhook.gateway.metrics import Metrics
from offhook.gateway.operator_api import OperatorApi
from offhook.gateway.reasons import EndedBy, EndReason
from offhook.gateway.switchboard import DrainingError, ReplayedWebhookError, Switchboard
from offhook.providers.base import (
    CarrierAuthError,
    CarrierProtocolError,
    CarrierRequest,
    Provider,
    SocketProvider,
    Webhook,
    WebhookProvider,
)

if TYPE_CHECKING:
    from offhook.gateway.sip.service import SipService

log = structlog.get_logger("offhook.gateway.app")

MAX_BODY: Final = 64 * 1024
"""Bytes of a webhook's body; a real one is under 4 KiB."""

START_BUDGET: Final = 5.0
"""Seconds an accepted media socket may take to send its start."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class App:
    """The ASGI application of one gateway process."""

    def __init__(self, board: Switchboard, metrics: Metrics, sip: SipService | None = None) -> None:
        self._board, self._metrics = board, metrics
        routes = [
            Route("/healthz", self._health),
            Route("/readyz", self._ready),
            Route("/metrics", self._scrape),
            *OperatorApi(board, Dialling(board, sip)).routes(),
        ]
        self._media: list[tuple[str, WebhookProvider]] = []
        self._direct: list[SocketProvider] = []
        for provider in board.providers.values():
            if isinstance(provider, SocketProvider):
                self._direct.append(provider)
                if provider.ticket_path:
                    routes.append(Route(provider.ticket_path, self._ticket(provider), methods=["GET", "POST"]))
            if not isinstance(provider, WebhookProvider):
                continue
            routes += [
                Route(webhook.path, self._webhook(provider, webhook), methods=["GET", "POST"])
                for webhook in provider.webhooks
            ]
            self._media.append((provider.media_path.removesuffix("{token}"), provider))
        self._http = Starlette(routes=routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    # --- for operators

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, request: Request) -> Response:
        board = self._board
        state = (
            "ready"
            if board.admits
            else "draining"
            if board.draining
            else "not ready"
            if not board.pool.ready
            else "full"
        )
        body = {"state": state, "active": board.active, "live": board.live, "slots": board.slots}
        return JSONResponse(body, 200 if board.admits else 503)

    async def _scrape(self, request: Request) -> Response:
        body, content_type = self._metrics.exposition(request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    # --- webhooks

    def _webhook(self, provider: WebhookProvider, webhook: Webhook) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            started = asyncio.get_running_loop().time()
            try:
                response = await self._answer(provider, webhook, await self._carrier_request(request))
            except _TooLargeError:
                response = PlainTextResponse("body too large\n", 413)
            except CarrierAuthError as error:
                self._unauthorized(provider, webhook.path, request.client, error)
                response = PlainTextResponse("forbidden\n", 403)
            except CarrierProtocolError as error:
                log.warning("bad webhook", carrier=provider.name, path=webhook.path, error=str(error))
                response = PlainTextResponse(f"{error}\n", 400)
            except ReplayedWebhookError as error:
                log.warning("webhook of a call that is up or over", carrier=provider.name, carrier_call_id=str(error))
                response = PlainTextResponse("this call was answered before\n", 409)
            except DrainingError:
                response = PlainTextResponse("draining\n", 503, headers={"Retry-After": "1"})
            seconds = asyncio.get_running_loop().time() - started
            self._metrics.webhook(provider.name, webhook.kind, response.status_code, seconds)
            return response

        return endpoint

    def _ticket(self, provider: SocketProvider) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                asked = await self._carrier_request(request)
                ticket = provider.ticket(asked, asyncio.get_running_loop().time())
            except _TooLargeError:
                return PlainTextResponse("body too large\n", 413)
            except CarrierAuthError as error:
                self._unauthorized(provider, request.url.path, request.client, error)
                return PlainTextResponse("forbidden\n", 403)
            except CarrierProtocolError as error:
                return PlainTextResponse(f"{error}\n", 400)
            return Response(ticket.body, ticket.status, media_type=ticket.content_type)

        return endpoint

    async def _answer(self, provider: WebhookProvider, webhook: Webhook, request: CarrierRequest) -> Response:
        provider.verify(request)
        if webhook.kind == "incoming":
            incoming = provider.incoming(request)
            answer = await self._board.incoming(provider, incoming)
        elif webhook.kind == "after":
            answer = self._board.after(provider, provider.status(request).carrier_call_id)
        else:
            self._board.status(provider, provider.status(request))
            return Response(status_code=204)
        try:
            markup = provider.answer(answer)
        except ValueError as error:
            log.error("the answer cannot be put in the carrier's markup", carrier=provider.name, error=str(error))
            if webhook.kind == "incoming":
                self._board.unanswerable(provider, incoming, str(error))
            return PlainTextResponse("this call cannot be answered\n", 500)
        return Response(markup.body, markup.status, media_type=markup.content_type)

    async def _carrier_request(self, request: Request) -> CarrierRequest:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise _TooLargeError
        return self._as_carrier_request(request.method, "", request.scope, bytes(body))

    def _as_carrier_request(self, method: str, scheme: str, scope: Scope, body: bytes = b"") -> CarrierRequest:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        url = self._board.config.public_url + scope["raw_path"].decode("latin-1")
        if query := scope["query_string"].decode("latin-1"):
            url += "?" + query
        if scheme:
            url = scheme + url.removeprefix("http")
        return CarrierRequest(method, url, headers, body)

    def _unauthorized(self, provider: Provider, path: str, client: Any, error: CarrierAuthError) -> None:
        self._metrics.unauthorized(provider.name)
        host = client[0] if client else "unknown"
        log.warning("not signed by the carrier", carrier=provider.name, path=path, client=host, error=str(error))

    # --- media sockets

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        path: str = scope["path"]
        for provider in self._direct:
            if path == provider.socket_path or path.startswith(provider.socket_path + "/"):
                await self._direct_socket(provider, scope, send)
                return
        found = next((item for item in self._media if path.startswith(item[0])), None)
        if found is None:
            await send({"type": "websocket.close"})  # before accept: 403
            return
        prefix, carrier = found
        board = self._board
        token = path[len(prefix) :]
        try:
            carrier.verify_upgrade(self._as_carrier_request("GET", "ws", scope))
        except CarrierAuthError as error:
            self._unauthorized(carrier, prefix, scope["client"], error)
            await send({"type": "websocket.close"})
            return
        call = board.redeem(token)
        if call is None or call.provider is not carrier:
            self._metrics.unauthorized(carrier.name)
            log.warning("media socket with an unknown or used token", carrier=carrier.name)
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept", "subprotocol": _subprotocol(carrier, scope)})
        socket: MediaWebSocketProtocol = scope["extensions"][EXTENSION]
        stream = carrier.stream(expect_call_id=call.incoming.carrier_call_id)
        gone = socket.attach(call.connect(socket, stream))

        def no_start() -> None:
            if not call.answered_at:
                socket.close(1008, "no start")
                call.end(EndReason.MEDIA_NEVER_CAME, EndedBy.CARRIER, f"no start within {START_BUDGET:g} s")

        timer = asyncio.get_running_loop().call_later(START_BUDGET, no_start)
        try:
            call.socket_closed(await gone)
        finally:
            timer.cancel()

    async def _direct_socket(self, provider: SocketProvider, scope: Scope, send: Send) -> None:
        """A media socket that is the call itself."""
        request = self._as_carrier_request("GET", "ws", scope)
        try:
            provider.verify_upgrade(request)
        except CarrierAuthError as error:
            self._unauthorized(provider, provider.socket_path, scope["client"], error)
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept", "subprotocol": _subprotocol(provider, scope)})
        socket: MediaWebSocketProtocol = scope["extensions"][EXTENSION]
        line = DirectLine(self._board, provider, provider.open(request), socket)
        line.lost(await socket.attach(line.receive))


def _subprotocol(provider: WebhookProvider | SocketProvider, scope: Scope) -> str | None:
    """Of the subprotocols that the peer offers, the one we like best."""
    return next((name for name in provider.subprotocols if name in scope["subprotocols"]), None)


class _TooLargeError(Exception):
    pass
