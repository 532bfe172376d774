"""Orders to Plivo through its own SDK, against an API on loopback."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from offhook.providers import orders
from offhook.providers.base import CarrierRefused, CarrierUnavailable, DialAnswer
from offhook.providers.plivo.api import PlivoControl

ACCOUNT, CALL, REQUEST = "MA" + "0" * 18, "c-1", "r-1"
BASE = f"/v1/Account/{ACCOUNT}"
URLS = {"answer_url": "https://gw.example.net/plivo/answer", "status_url": "https://gw.example.net/plivo/hangup"}
QUEUED = {"message": "call fired", "request_uuid": REQUEST, "api_id": "a-1"}


@pytest.fixture
async def control(api: Any) -> AsyncIterator[PlivoControl]:
    made = PlivoControl(auth_id=ACCOUNT, auth_token="token", api_base=api.url, timeout=0.2)
    made._orders = orders.Orders("plivo", pauses=(0.0, 0.0))
    yield made
    await made.close()


async def test_hang_up(control: PlivoControl, api: Any, reply: Any) -> None:
    api.answer(reply(204))
    await control.hang_up(CALL)
    (request,) = api.requests
    assert (request.method, request.path) == ("DELETE", f"{BASE}/Call/{CALL}/")
    assert base64.b64decode(request.headers["authorization"].partition(" ")[2]) == f"{ACCOUNT}:token".encode()


async def test_case_15_hanging_up_an_unknown_call_is_success(control: PlivoControl, api: Any, reply: Any) -> None:
    for body in ({"api_id": "a", "error": "not found"}, b"<html>"):
        api.answer(reply(404, body))
        await control.hang_up(CALL)
    assert len(api.requests) == 2


async def test_case_15_a_call_known_by_its_request_only_is_cancelled(
    control: PlivoControl, api: Any, reply: Any
) -> None:
    api.answer(reply(201, QUEUED), reply(204))
    assert await control.dial("+15550001111", "+15550002222", **URLS) == REQUEST
    await control.hang_up(REQUEST)
    assert (api.requests[-1].method, api.requests[-1].path) == ("DELETE", f"{BASE}/Request/{REQUEST}/")


async def test_case_15_once_the_call_is_known_it_is_hung_up(control: PlivoControl, api: Any, reply: Any) -> None:
    api.answer(reply(201, QUEUED | {"request_uuid": [REQUEST]}), reply(204))
    assert await control.dial("+15550001111", "+15550002222", **URLS) == REQUEST
    control.connected("r-unknown", "c-9")
    control.connected(REQUEST, CALL)
    await control.hang_up(REQUEST)
    assert api.requests[-1].path == f"{BASE}/Call/{CALL}/"


async def test_case_19_ending_a_call_is_an_order_of_its_own(control: PlivoControl, api: Any, reply: Any) -> None:
    # Closing the socket leaves the caller on a live, silent line: what ends the call is this request.
    api.answer(reply(503), reply(0, None, hang_up=True), reply(204))
    await control.hang_up(CALL)
    assert [request.method for request in api.requests] == ["DELETE"] * 3
    api.answer(reply(500, {"error": "internal"}))
    with pytest.raises(CarrierUnavailable, match="internal"):
        await control.hang_up(CALL)


async def test_refusals_are_told(control: PlivoControl, api: Any, reply: Any) -> None:
    for body in ({"error": {"to": "invalid"}}, {"api_id": "a"}, [], b"<html>"):
        api.answer(reply(401, body))
        with pytest.raises(CarrierRefused, match="plivo: HTTP 401") as caught:
            await control.hang_up(CALL)
        assert caught.value.status == 401


async def test_without_an_api_base_it_is_plivos_own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    control = PlivoControl(auth_id=ACCOUNT, auth_token="token")
    seen: list[str] = []

    def send(request: Any, **options: Any) -> Any:
        seen.append(request.url)
        return SimpleNamespace(status_code=204, json=dict)

    monkeypatch.setattr(control._client.session, "send", send)
    await control.hang_up(CALL)
    await control.close()
    assert seen == [f"https://api.plivo.com{BASE}/Call/{CALL}/"]


async def test_transfer(control: PlivoControl, api: Any, reply: Any) -> None:
    api.answer(reply(202, {"message": "call transferred", "api_id": "a"}))
    fetch = "https://gw.example.net/plivo/after"
    await control.transfer(CALL, DialAnswer("+15550001111"), fetch_url=fetch)
    (request,) = api.requests
    assert (request.method, request.path) == ("POST", f"{BASE}/Call/{CALL}/")
    assert {"legs": "aleg", "aleg_url": fetch, "aleg_method": "POST"}.items() <= request.json.items()
    api.answer(reply(404, {"error": "no call"}))
    with pytest.raises(CarrierRefused, match="no call") as caught:
        await control.transfer(CALL, DialAnswer("+15550001111"), fetch_url=fetch)
    assert caught.value.status == 404


async def test_dial(control: PlivoControl, api: Any, reply: Any) -> None:
    api.answer(reply(201, QUEUED))
    assert await control.dial("+15550001111", "+15550002222", **URLS, ring_timeout=25) == REQUEST
    (request,) = api.requests
    assert (request.method, request.path) == ("POST", f"{BASE}/Call/")
    wanted = {
        "from": "15550002222",
        "to": "15550001111",
        "answer_url": URLS["answer_url"],
        "hangup_url": URLS["status_url"],
        "ring_timeout": 25,
    }
    assert wanted.items() <= request.json.items()


async def test_never_dials_twice(control: PlivoControl, api: Any, reply: Any, capsys: Any) -> None:
    for trouble in (reply(500, {}), reply(503, b"down"), reply(0, None, hang_up=True)):
        api.requests.clear()
        api.answer(trouble)
        with pytest.raises(CarrierUnavailable):
            await control.dial("+15550001111", "+15550002222", **URLS)
        assert len(api.requests) == 1
    api.requests.clear()
    api.answer(reply(429, {"error": "slow down"}), reply(201, QUEUED))
    assert await control.dial("+15550001111", "+15550002222", **URLS) == REQUEST
    assert len(api.requests) == 2
    assert capsys.readouterr().out == ""


async def test_what_the_sdk_refuses_by_itself(control: PlivoControl, api: Any) -> None:
    with pytest.raises(CarrierRefused, match="overlap") as caught:
        await control.dial("+15550001111", "+15550001111", **URLS)
    assert caught.value.status == 400
    assert api.requests == []


async def test_an_account_id_that_the_sdk_does_not_take(api: Any) -> None:
    control = PlivoControl(auth_id="acme", auth_token="token", api_base=api.url)
    with pytest.raises(CarrierRefused, match=r"auth_id: .*acme"):
        await control.check()
    await control.close()


async def test_dtmf_and_check(control: PlivoControl, api: Any, reply: Any) -> None:
    api.answer(reply(202, {"message": "digits sent", "api_id": "a"}))
    assert await control.send_dtmf(CALL, "12#") is True
    (request,) = api.requests
    assert request.path == f"{BASE}/Call/{CALL}/DTMF/"
    assert {"digits": "12#", "leg": "aleg"}.items() <= request.json.items()
    api.answer(reply(200, {"name": "Acme", "account_type": "standard", "auth_id": ACCOUNT}))
    assert await control.check() == "Acme (standard account)"
    assert api.requests[-1].path == f"{BASE}/"


async def test_old_requests_are_forgotten(control: PlivoControl, api: Any, reply: Any) -> None:
    control._requests.update((f"r{number}", "") for number in range(10_000))
    api.answer(reply(201, QUEUED), reply(204))
    await control.dial("+15550001111", "+15550002222", **URLS)
    await control.hang_up("r0")
    assert api.requests[-1].path == f"{BASE}/Call/r0/"
    await control.hang_up("r1")
    assert api.requests[-1].path == f"{BASE}/Request/r1/"
