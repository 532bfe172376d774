"""Orders by FreeSWITCH's event socket, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fakes.freeswitch import FakeEventSocket

from offhook.providers.base import CarrierRefused, CarrierUnavailable, DialAnswer
from offhook.providers.freeswitch.adapter import FreeswitchProvider, FreeswitchSettings
from offhook.providers.freeswitch.control import FreeswitchControl

CALL = "0a6f1f4e-7f3e-4a55-9a53-0f7b5b1f0001"


def control(port: int, **changes: Any) -> FreeswitchControl:
    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "password": "ClueCon",
        "context": "default",
        "dial_string": "sofia/gateway/provider/{to}",
        "dial_to": "offhook XML default",
        "stop_media": "uuid_audio_fork {uuid} stop offhook",
        "timeout": 2.0,
        "new_id": lambda: "made-1",
    }
    return FreeswitchControl(**(options | changes))


async def order(socket: FakeEventSocket, what: Callable[[FreeswitchControl], Awaitable[Any]]) -> list[str]:
    """What FreeSWITCH was told after the password."""
    async with socket.listening():
        await what(control(socket.port))
    assert socket.commands[0] == "auth ClueCon"
    return [command for command in socket.commands if not command.startswith("auth")]


async def test_hanging_up() -> None:
    assert await order(FakeEventSocket(), lambda c: c.hang_up(CALL)) == [f"api uuid_kill {CALL} NORMAL_CLEARING"]
    gone = FakeEventSocket(replies={"uuid_kill": "-ERR No such channel!\n"})
    assert len(await order(gone, lambda c: c.hang_up(CALL))) == 1


async def test_transferring_to_an_extension() -> None:
    said = await order(FakeEventSocket(), lambda c: c.transfer(CALL, DialAnswer("2000", "+15550100", 20), fetch_url=""))
    assert said == [
        f"api uuid_setvar_multi {CALL} call_timeout=20;effective_caller_id_number=+15550100",
        f"api uuid_transfer {CALL} 2000 XML default",
        f"api uuid_audio_fork {CALL} stop offhook",
    ]
    deaf = FakeEventSocket(replies={"uuid_audio_fork": "-ERR uuid_audio_fork Command not found!"})
    assert len(await order(deaf, lambda c: c.transfer(CALL, DialAnswer("2000"), fetch_url=""))) == 3


async def test_transferring_to_a_sip_uri() -> None:
    said = await order(FakeEventSocket(), lambda c: c.transfer(CALL, DialAnswer("sip:ann@example.net"), fetch_url=""))
    assert said[1] == f"api uuid_transfer {CALL} bridge:sofia/external/ann@example.net inline"


async def test_playing_keys() -> None:
    assert await order(FakeEventSocket(), lambda c: c.send_dtmf(CALL, "12#")) == [f"api uuid_send_dtmf {CALL} 12#"]
    assert await control(1).send_dtmf(CALL, "12w") is False
    assert await control(1).send_dtmf(CALL, "") is False


async def test_dialling_gives_the_id_that_the_media_socket_will_name() -> None:
    socket = FakeEventSocket()
    async with socket.listening():
        dialled = await control(socket.port).dial(
            "+15550123", "+15550100", answer_url="", status_url="", ring_timeout=9
        )
    assert dialled == "made-1"
    assert socket.commands[1] == (
        "bgapi originate {origination_uuid=made-1,origination_caller_id_number=+15550100,originate_timeout=9,"
        "offhook_direction=outbound}sofia/gateway/provider/+15550123 offhook XML default"
    )
    refusing = FakeEventSocket(replies={"originate": "-ERR no"})
    async with refusing.listening():
        with pytest.raises(CarrierRefused, match="originate: -ERR no"):
            await control(refusing.port).dial("1", "", answer_url="", status_url="")
    assert "caller_id" not in refusing.commands[1]


async def test_asking_who_it_is() -> None:
    socket = FakeEventSocket(replies={"status": "UP 0 years, 1 day\nFreeSWITCH (Version 1.10.12)\n"})
    async with socket.listening():
        assert await control(socket.port).check() == "FreeSWITCH UP 0 years, 1 day"


async def test_a_refusal_is_told_with_its_reason() -> None:
    socket = FakeEventSocket(replies={"uuid_setvar_multi": "-ERR No such channel!"})
    async with socket.listening():
        with pytest.raises(CarrierRefused, match="No such channel") as refused:
            await control(socket.port).transfer(CALL, DialAnswer("2000"), fetch_url="")
    assert refused.value.status == 404


async def test_a_wrong_password_is_told() -> None:
    socket = FakeEventSocket(password="other")
    async with socket.listening():
        with pytest.raises(CarrierRefused, match=r"esl\.password is wrong"):
            await control(socket.port).check()


@pytest.mark.parametrize(
    "greeting",
    [
        b"SSH-2.0-OpenSSH_9.2\n\n",
        b"Content-Type: text/rude-rejection\n\n",
        b"x: " + b"y" * 20_000 + b"\n\n",
        b"a: b\n" * 100 + b"\n",
        b"Content-Type: auth/request\nContent-Length: 99999999\n\n",
        b"Content-Type: auth/request\nContent-Length: -1\n\n",
        b"Content-Type: auth/request\n\nContent-Type: text/disconnect-notice\n\n",
    ],
)
async def test_a_peer_that_is_no_event_socket(greeting: bytes) -> None:
    socket = FakeEventSocket(greeting=greeting)
    async with socket.listening():
        with pytest.raises(CarrierUnavailable, match="event socket"):
            await control(socket.port).check()


async def test_silence_ends_with_the_time_limit() -> None:
    socket = FakeEventSocket(mute=True)
    async with socket.listening():
        with pytest.raises(CarrierUnavailable, match="TimeoutError"):
            await control(socket.port, timeout=0.1).check()


async def test_nobody_there(unused_url: str) -> None:
    with pytest.raises(CarrierUnavailable, match="ConnectionRefusedError"):
        await control(int(unused_url.rpartition(":")[2])).check()


@pytest.mark.parametrize(
    "evil", ["1\nuuid_kill all", "1 XML evil", "1\n\napi hupall", "{a=b}1", "1'", "", "1" * 300, "sip:"]
)
async def test_nothing_can_be_smuggled_into_a_command(evil: str) -> None:
    socket = FakeEventSocket()
    async with socket.listening():
        target = control(socket.port)
        with pytest.raises(CarrierRefused, match="neither a number"):
            await target.transfer(CALL, DialAnswer(evil), fetch_url="")
        with pytest.raises(CarrierRefused, match="neither a number"):
            await target.dial(evil, "", answer_url="", status_url="")
        with pytest.raises(CarrierRefused, match="no channel's UUID"):
            await target.hang_up(evil + "\n")
    assert socket.commands == []


async def test_only_so_many_orders_at_once() -> None:
    socket = FakeEventSocket()
    async with socket.listening():
        target = control(socket.port)
        await asyncio.gather(*(target.hang_up(CALL) for _ in range(20)))
    assert len(socket.commands) == 40


async def test_without_an_event_socket_orders_say_what_is_missing() -> None:
    target = FreeswitchProvider(FreeswitchSettings.model_validate({"token": "t"})).control
    await target.hang_up(CALL)
    assert await target.send_dtmf(CALL, "1") is False
    assert "no event socket" in await target.check()
    with pytest.raises(CarrierRefused, match=r"esl\.host"):
        await target.transfer(CALL, DialAnswer("2000"), fetch_url="")
    with pytest.raises(CarrierRefused, match=r"esl\.host"):
        await target.dial("1", "", answer_url="", status_url="")
    await target.close()
