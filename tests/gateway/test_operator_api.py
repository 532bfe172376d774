"""The HTTP interface for the operator's programs: who may use it, what it takes, what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette

from offhook.gateway.call_state import CallState
from offhook.gateway.operator_api import MAX_BODY, BadOrder, OperatorApi, PlaceCall
from offhook.gateway.reasons import EndedBy, EndReason
from offhook.providers.base import CarrierRefused, CarrierUnavailable

TOKEN = "0123456789abcdef"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


class Dialling:
    """Notes what is to be placed."""

    def __init__(self) -> None:
        self.placed: list[PlaceCall] = []
        self.error: Exception | None = None

    async def place(self, order: PlaceCall) -> dict[str, str]:
        if self.error is not None:
            raise self.error
        self.placed.append(order)
        return {"id": "c1", "carrier": "sip"}


class Call:
    """One that is up."""

    def __init__(self) -> None:
        self.id = "c1"
        self.provider = SimpleNamespace(name="sip")
        self.incoming = SimpleNamespace(
            carrier_call_id="x", direction="outbound", from_number="+15550100", to_number="+15550199"
        )
        self.plan = SimpleNamespace(agent="echo")
        self.state = CallState.LIVE
        self.left: list[tuple[EndReason, EndedBy]] = []
        self.ended: list[tuple[EndReason, EndedBy]] = []

    def end(self, reason: EndReason, by: EndedBy) -> None:
        self.ended.append((reason, by))

    def leave(self, reason: EndReason, by: EndedBy) -> None:
        self.left.append((reason, by))


class Desk:
    """The interface over a switchboard of one call."""

    def __init__(self, token: str | None = TOKEN) -> None:
        self.call = Call()
        self.dialling = Dialling()
        self.board: Any = SimpleNamespace(
            config=SimpleNamespace(
                api=SimpleNamespace(token=SecretStr(token) if token else None), agents={"echo": object()}
            ),
            admits=True,
            calls=[self.call],
            call={"c1": self.call}.get,
        )
        routes = OperatorApi(self.board, self.dialling).routes()  # type: ignore[arg-type]
        app = Starlette(routes=list(routes))
        self.web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://offhook")


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    await made.web.aclose()


async def test_without_a_token_there_is_no_interface() -> None:
    desk = Desk(token=None)
    assert (await desk.web.get("/v1/calls", headers=AUTH)).status_code == 404
    await desk.web.aclose()


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer ü"])
async def test_only_the_token_lets_in(desk: Desk, header: str) -> None:
    headers = {"Authorization": header.encode("latin-1")} if header else {}
    for method, path in (("POST", "/v1/calls"), ("GET", "/v1/calls"), ("DELETE", "/v1/calls/c1")):
        answer = await desk.web.request(method, path, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 401
    assert not desk.dialling.placed
    assert not desk.call.left


async def test_a_call_is_placed(desk: Desk) -> None:
    body = {"to": "+15550199", "from": "+15550100", "agent": "echo", "attributes": {"X-A": "1"}, "ring_timeout": 20}
    answer = await desk.web.post("/v1/calls", json=body, headers=AUTH)
    assert answer.status_code == 202
    assert answer.json() == {"id": "c1", "carrier": "sip"}
    placed = PlaceCall("+15550199", "+15550100", agent="echo", attributes={"X-A": "1"}, ring_timeout=20)
    assert desk.dialling.placed == [placed]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "truncated"),
        (b"[]", "array"),
        (b"{}", "`to`"),
        (b'{"to": 1}', "$.to"),
        (b'{"to": "+1", "frm": "+2"}', "frm"),
        (b'{"to": "+1", "agent": "nobody"}', "agent: there is no 'nobody'"),
        (b'{"to": "+1", "ring_timeout": 0}', "ring_timeout: 0"),
        (b'{"to": "+1", "ring_timeout": 301}', "ring_timeout: 301"),
        (b'{"to": "+1", "attributes": {"a": 1}}', "attributes"),
    ],
)
async def test_a_bad_order_is_told(desk: Desk, body: bytes, said: str) -> None:
    answer = await desk.web.post("/v1/calls", content=body, headers=AUTH)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert not desk.dialling.placed


@pytest.mark.parametrize(
    ("error", "status"),
    [(BadOrder("trunk: no"), 400), (CarrierRefused("no", status=404), 422), (CarrierUnavailable("away"), 502)],
)
async def test_what_the_carrier_does_not_do_is_told(desk: Desk, error: Exception, status: int) -> None:
    desk.dialling.error = error
    answer = await desk.web.post("/v1/calls", json={"to": "+1"}, headers=AUTH)
    assert (answer.status_code, answer.json()["error"]) == (status, str(error))


async def test_too_much_and_no_room(desk: Desk) -> None:
    answer = await desk.web.post("/v1/calls", content=b" " * (MAX_BODY + 1), headers=AUTH)
    assert answer.status_code == 413
    desk.board.admits = False
    answer = await desk.web.post("/v1/calls", json={"to": "+1"}, headers=AUTH)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_calls_are_listed_and_hung_up(desk: Desk) -> None:
    (shown,) = (await desk.web.get("/v1/calls", headers=AUTH)).json()
    assert (shown["id"], shown["direction"], shown["state"]) == ("c1", "outbound", "live")
    assert (await desk.web.delete("/v1/calls/c9", headers=AUTH)).status_code == 404
    assert (await desk.web.delete("/v1/calls/c1", headers=AUTH)).status_code == 204
    assert desk.call.left == [(EndReason.OPERATOR_HANGUP, EndedBy.OPERATOR)]
    assert not desk.call.ended
    assert (await desk.web.delete("/v1/calls/c1?now=true", headers=AUTH)).status_code == 204
    assert desk.call.ended == desk.call.left
