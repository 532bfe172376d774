"""Orders by ARI, against a server that knows which channels are where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.asterisk import FakeAri

from offhook.providers.asterisk.ari import AriSettings, AsteriskControl
from offhook.providers.base import CarrierRefused, CarrierUnavailable, DialAnswer

pytestmark = pytest.mark.own_tasks("the connections of the fake end with it")

URLS = {"answer_url": "", "status_url": ""}
CALL = "media:b7c1"


class Line:
    """A media stream, as orders know it."""

    def __init__(self, channel: str = "17.1", media_channel: str = "17.2") -> None:
        self.channel, self.media_channel = channel, media_channel
        self.left = False

    def leave(self) -> None:
        self.left = True


@pytest.fixture
async def ari() -> AsyncIterator[FakeAri]:
    async with FakeAri(stasis={"17.1", "17.2"}, dialplan={"18.1", "18.2"}) as fake:
        yield fake


def control_of(url: str, **settings: Any) -> AsteriskControl:
    made = AriSettings.model_validate({"url": url, "username": "offhook", "password": "secret"} | settings)
    return AsteriskControl(made, timeout=0.5, pauses=(0.0, 0.0))


@pytest.fixture
async def control(ari: FakeAri) -> AsyncIterator[AsteriskControl]:
    made = control_of(ari.url)
    yield made
    await made.close()


@pytest.fixture
def line(control: AsteriskControl) -> Line:
    found = Line()
    control.lines[CALL] = found
    return found


async def test_hang_up(control: AsteriskControl, ari: FakeAri, line: Line) -> None:
    await control.hang_up(CALL)
    assert ari.stasis == {"17.2"}
    assert ari.requests[0].path == "/ari/channels/17.1?reason=normal"
    await control.hang_up(CALL)  # over already
    await control.hang_up("18.1")  # a call that was placed and rings
    assert ari.dialplan == {"18.2"}
    line.channel = ""
    await control.hang_up(CALL)
    assert line.left


async def test_a_channel_in_stasis_is_sent_to_the_dialplan(control: AsteriskControl, ari: FakeAri, line: Line) -> None:
    await control.transfer(CALL, DialAnswer("+15550003333"), fetch_url="")
    assert ari.continued == {"17.1": ("offhook-transfer", "+15550003333")}
    assert not ari.globals
    assert "17.2" not in ari.stasis  # the media is let go of
    assert line.left


async def test_a_channel_in_the_dialplan_finds_the_number_there(control: AsteriskControl, ari: FakeAri) -> None:
    line = Line("18.1", "")
    control.lines[CALL] = line
    await control.transfer(CALL, DialAnswer("+15550003333"), fetch_url="")
    assert ari.globals == {"OFFHOOK_NEXT_18.1": "+15550003333"}
    assert ari.dialplan == {"18.1", "18.2"}
    assert line.left


async def test_a_caller_who_leaves_in_the_midst_of_a_transfer(control: AsteriskControl, ari: FakeAri) -> None:
    lines = [Line("18.1")]
    control.lines[CALL] = lines[0]
    order = asyncio.ensure_future(control.transfer(CALL, DialAnswer("100"), fetch_url=""))
    await asyncio.sleep(0)
    lines.clear()
    await order
    assert CALL not in control.lines


async def test_transfers_that_cannot_be(control: AsteriskControl, ari: FakeAri, line: Line) -> None:
    for number in ("1,2", "1&PJSIP/2", "${X}", "", "1" * 200, "1 2", "1\n"):
        with pytest.raises(CarrierRefused, match="is no number"):
            await control.transfer(CALL, DialAnswer(number), fetch_url="")
    assert not ari.requests
    line.channel = "99.9"
    with pytest.raises(CarrierRefused, match="Channel not found") as caught:
        await control.transfer(CALL, DialAnswer("100"), fetch_url="")
    assert caught.value.status == 404
    line.channel = ""
    with pytest.raises(CarrierRefused, match=r"channel=\$\{UNIQUEID\}"):
        await control.transfer(CALL, DialAnswer("100"), fetch_url="")
    assert not line.left


async def test_keys(control: AsteriskControl, ari: FakeAri, line: Line) -> None:
    assert await control.send_dtmf(CALL, "12w#")
    assert ari.keys == [("17.1", "12w#")]
    line.channel = "18.1"
    assert await control.send_dtmf(CALL, "1") is False
    ari.faults.append(503)
    line.channel = "17.1"
    with pytest.raises(CarrierUnavailable, match="503 as told"):
        await control.send_dtmf(CALL, "1")  # pressing a key twice does harm
    assert len(ari.keys) == 1


async def test_dial_into_the_dialplan(control: AsteriskControl, ari: FakeAri) -> None:
    id = await control.dial("+15550003333", "+15550002222", **URLS, ring_timeout=25)
    ((query, body),) = ari.originated
    assert query == {
        "endpoint": "PJSIP/+15550003333@trunk",
        "callerId": "+15550002222",
        "timeout": "25",
        "channelId": id,
        "context": "offhook-placed",
        "extension": "s",
        "priority": "1",
    }
    assert body["variables"] == {
        "__OFFHOOK_DIRECTION": "outbound",
        "__OFFHOOK_CHANNEL": id,
        "__OFFHOOK_FROM": "+15550002222",
        "__OFFHOOK_TO": "+15550003333",
    }


async def test_dial_into_an_app(ari: FakeAri) -> None:
    control = control_of(ari.url + "/ari/", app="pbx", endpoint="Local/{number}@out")
    await control.dial("100", "", **URLS)
    ((query, _),) = ari.originated
    assert (query["app"], query["endpoint"]) == ("pbx", "Local/100@out")
    assert "context" not in query
    await control.close()


async def test_never_dials_twice(control: AsteriskControl, ari: FakeAri) -> None:
    ari.lose_answers = True  # it was dialled, and we do not know
    await control.dial("100", "", **URLS)
    assert len(ari.requests) == 2
    assert len(ari.originated) == 1
    ari.faults.append(409)  # somebody else's id, then; not the echo of our own
    with pytest.raises(CarrierRefused, match="409"):
        await control.dial("100", "", **URLS)
    with pytest.raises(CarrierRefused, match="is no number"):
        await control.dial("100&200", "", **URLS)


async def test_trouble_is_tried_again_then_told(control: AsteriskControl, ari: FakeAri, line: Line) -> None:
    ari.faults.extend([503, 0])
    await control.hang_up(CALL)
    assert len(ari.requests) == 3
    ari.faults.extend([500, 429, 500])
    with pytest.raises(CarrierUnavailable, match="500 as told"):
        await control.check()
    ari.faults.append(400)
    with pytest.raises(CarrierRefused, match="400 as told"):
        await control.check()


async def test_check(control: AsteriskControl, ari: FakeAri, unused_url: str) -> None:
    assert await control.check() == "Asterisk 22.6.0"
    wrong = control_of(ari.url, password="wrong")
    with pytest.raises(CarrierRefused, match="401 Authentication required"):
        await wrong.check()
    await wrong.close()
    nobody = control_of(unused_url)
    with pytest.raises(CarrierUnavailable, match="no connection"):
        await nobody.check()
    await nobody.close()
    await nobody.close()


async def test_without_ari() -> None:
    control = AsteriskControl(None)
    line = Line()
    control.lines[CALL] = line
    await control.hang_up(CALL)
    assert line.left
    for order in (
        control.transfer(CALL, DialAnswer("100"), fetch_url=""),
        control.dial("100", "", **URLS),
        control.send_dtmf(CALL, "1"),
        control.hang_up("unknown"),
    ):
        with pytest.raises(CarrierRefused, match=r"set carriers\.asterisk\.ari"):
            await order
    assert "no ari configured" in await control.check()
    await control.close()
