"""Orders to Twilio through its own SDK, against an API on loopback."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from twilio.base.exceptions import TwilioException

from offhook.providers import orders
from offhook.providers.base import CarrierRefused, CarrierUnavailable, DialAnswer
from offhook.providers.markup import Dial
from offhook.providers.twilio.answer import parse
from offhook.providers.twilio.api import TwilioControl

ACCOUNT, CALL = "AC" + "0" * 32, "CA" + "1" * 32
CALL_PATH = f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json"
GONE = {"code": 20404, "message": "The requested resource was not found", "status": 404}


@pytest.fixture
async def control(api: Any) -> AsyncIterator[TwilioControl]:
    made = TwilioControl(account_sid=ACCOUNT, username=ACCOUNT, password="token", api_base=api.url, timeout=0.2)
    made._orders = orders.Orders("twilio", pauses=(0.0, 0.0))
    yield made
    await made.close()


async def test_hang_up(control: TwilioControl, api: Any, reply: Any) -> None:
    api.answer(reply(200, {"sid": CALL, "status": "completed"}))
    await control.hang_up(CALL)
    (request,) = api.requests
    assert (request.method, request.path, request.form) == ("POST", CALL_PATH, {"Status": ["completed"]})
    scheme, _, credentials = request.headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(credentials)) == ("Basic", f"{ACCOUNT}:token".encode())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, GONE),
        (404, b"<html>not found</html>"),
        (400, {"code": 21220, "message": "Call is not in-progress. Cannot redirect.", "status": 400}),
    ],
)
async def test_case_19_hanging_up_an_ended_call_is_success(
    control: TwilioControl, api: Any, reply: Any, status: int, body: object
) -> None:
    api.answer(reply(status, body))
    await control.hang_up(CALL)
    assert len(api.requests) == 1


async def test_case_19_trouble_is_tried_again_then_told(control: TwilioControl, api: Any, reply: Any) -> None:
    api.answer(reply(503, b"down"), reply(0, None, hang_up=True), reply(200, {"sid": CALL}))
    await control.hang_up(CALL)
    assert len(api.requests) == 3
    api.answer(reply(500, {"code": 20500, "message": "Internal error", "status": 500}))
    with pytest.raises(CarrierUnavailable, match="Internal error"):
        await control.hang_up(CALL)
    assert len(api.requests) == 6


async def test_case_19_no_answer_is_tried_again_then_told(control: TwilioControl, api: Any, reply: Any) -> None:
    control._http._client.timeout = (1.0, 0.02)
    api.answer(reply(200, {"sid": CALL}, delay=0.1))
    with pytest.raises(CarrierUnavailable, match="no answer"):
        await control.hang_up(CALL)
    assert len(api.requests) == 3


async def test_refusals_are_told(control: TwilioControl, api: Any, reply: Any) -> None:
    api.answer(reply(401, {"code": 20003, "message": "Authenticate", "status": 401}))
    with pytest.raises(CarrierRefused, match="Authenticate") as caught:
        await control.hang_up(CALL)
    assert (caught.value.status, caught.value.code) == (401, "20003")
    problem = {"type": "https://t/x", "title": "Bad thing", "status": 422, "code": 70001}
    api.answer(reply(422, problem))
    with pytest.raises(CarrierRefused, match="Bad thing") as caught:
        await control.check()
    assert (caught.value.status, caught.value.code) == (422, "70001")


async def test_what_the_sdk_refuses_by_itself(control: TwilioControl, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(method: str, url: str, **options: Any) -> None:
        raise TwilioException("no credentials")

    monkeypatch.setattr(control._http._client, "request", request)
    with pytest.raises(CarrierRefused, match="no credentials"):
        await control.check()


async def test_transfer(control: TwilioControl, api: Any, reply: Any) -> None:
    api.answer(reply(200, {"sid": CALL}))
    await control.transfer(CALL, DialAnswer("+15550001111", caller_id="+15550002222"), fetch_url="https://unused")
    (request,) = api.requests
    assert request.path == CALL_PATH
    ((name, (twiml,)),) = request.form.items()
    assert name == "Twiml"
    assert parse(twiml).verbs == (Dial(("+15550001111",), "+15550002222"),)
    with pytest.raises(ValueError, match="4000 inline"):
        await control.transfer(CALL, DialAnswer("sip:" + "x" * 4000), fetch_url="")
    api.answer(reply(404, GONE))
    with pytest.raises(CarrierRefused):
        await control.transfer(CALL, DialAnswer("+15550001111"), fetch_url="")


async def test_dial(control: TwilioControl, api: Any, reply: Any) -> None:
    api.answer(reply(201, {"sid": CALL, "status": "queued"}))
    url = {"answer_url": "https://gw/twilio/voice", "status_url": "https://gw/twilio/status"}
    assert await control.dial("+15550001111", "+15550002222", **url, ring_timeout=25) == CALL
    (request,) = api.requests
    assert request.path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"
    assert request.form == {
        "To": ["+15550001111"],
        "From": ["+15550002222"],
        "Url": ["https://gw/twilio/voice"],
        "StatusCallback": ["https://gw/twilio/status"],
        "StatusCallbackEvent": ["initiated", "ringing", "answered", "completed"],
        "Timeout": ["25"],
    }


async def test_never_dials_twice(control: TwilioControl, api: Any, reply: Any) -> None:
    url = {"answer_url": "https://gw/a", "status_url": "https://gw/s"}
    for trouble in (reply(500, {}), reply(0, None, hang_up=True), reply(201, b"no json")):
        api.requests.clear()
        api.answer(trouble)
        with pytest.raises(CarrierUnavailable):
            await control.dial("+15550001111", "+15550002222", **url)
        assert len(api.requests) == 1
    api.requests.clear()
    api.answer(reply(429, {"code": 20429, "message": "Too many requests", "status": 429}), reply(201, {"sid": CALL}))
    assert await control.dial("+15550001111", "+15550002222", **url) == CALL
    assert len(api.requests) == 2


async def test_sub_accounts_calls_are_ordered_under_their_account(control: TwilioControl, api: Any, reply: Any) -> None:
    api.answer(reply(200, {"sid": CALL}))
    sub = "AC" + "9" * 32
    control.remember_account(CALL, sub)
    control.remember_account("CA2", ACCOUNT)
    await control.hang_up(CALL)
    assert api.requests[0].path == f"/2010-04-01/Accounts/{sub}/Calls/{CALL}.json"
    for number in range(10_000):
        control.remember_account(f"CA{number}", sub)
    assert CALL not in control._accounts


async def test_check_and_dtmf(control: TwilioControl, api: Any, reply: Any) -> None:
    api.answer(reply(200, {"sid": ACCOUNT, "friendly_name": "Acme", "type": "Full", "status": "active"}))
    assert await control.check() == "Acme (Full account, active)"
    assert api.requests[0].path == f"/2010-04-01/Accounts/{ACCOUNT}.json"
    assert await control.send_dtmf(CALL, "12") is False
    assert len(api.requests) == 1


async def test_nothing_listens(unused_url: str) -> None:
    control = TwilioControl(account_sid=ACCOUNT, username=ACCOUNT, password="token", api_base=unused_url)
    control._orders = orders.Orders("twilio", pauses=())
    with pytest.raises(CarrierUnavailable, match="no connection"):
        await control.dial("+15550001111", "+15550002222", answer_url="https://gw/a", status_url="https://gw/s")
    await control.close()


async def test_region_and_edge_make_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    control = TwilioControl(account_sid=ACCOUNT, username="SK1", password="secret", region="ie1", edge="dublin")
    seen: list[tuple[str, Any]] = []

    class Answer:
        status_code, text = 200, '{"sid":"AC","friendly_name":"a","type":"b","status":"c"}'
        headers: ClassVar[dict[str, str]] = {}

    def request(method: str, url: str, **options: Any) -> Answer:
        seen.append((url, options["auth"]))
        return Answer()

    monkeypatch.setattr(control._http._client, "request", request)
    await control.check()
    await control.close()
    assert seen == [(f"https://api.dublin.ie1.twilio.com/2010-04-01/Accounts/{ACCOUNT}.json", ("SK1", "secret"))]


async def test_the_loop_goes_on_and_nothing_is_logged(
    control: TwilioControl, api: Any, reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.answer(reply(200, {"sid": CALL}, delay=0.05))
    started = time.perf_counter()
    await control.hang_up(CALL)  # the API runs on this very loop: had the order blocked it, it would never end
    assert time.perf_counter() - started < 0.2
    assert "AC0" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("twilio"))
