"""What strangers, guessers and forgers get out of a gateway at its SIP port: little, and always the same."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.served import free_port
from fakes.sip_gateway import SipGateway, loopback, sip_gateway
from fakes.strangers import Place, good_call, hand, lines, request, sdp, sockets, until

from offhook.providers.sip.digest import answer
from offhook.providers.sip.message import Response, parse

USER, PASSWORD = "alice", "correct horse"

GOOD, OTHER = 2, 3
"""Addresses of the trunk that is known by its address; all others are strangers."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SipGateway]:
    """One for all tests that leave it as it was; each test is another stranger."""
    port = free_port()
    with asyncio.Runner() as runner:
        up = sip_gateway(
            tmp_path_factory.mktemp("abuse"),
            http_port=port,
            trunks={
                "pbx": {"sources": [loopback(port, GOOD), loopback(port, OTHER)], "numbers": ["+15550100"]},
                "phone": {"auth": "digest", "username": USER, "password": PASSWORD, "numbers": ["+15550101"]},
            },
        )
        yield runner.run(up.__aenter__())
        runner.run(up.__aexit__(None, None, None))


def place(gateway: SipGateway) -> Place:
    return gateway.host, gateway.udp


# --- amplification ---------------------------------------------------------------------


async def test_an_invite_that_nobody_acknowledges_is_answered_once(gateway: SipGateway) -> None:
    with lines(gateway.peer(10)) as (stranger,):
        here = (stranger.host, stranger.port)
        stranger.send(request("INVITE", place(gateway), here, body=sdp(stranger.host, 4000)), place(gateway))
        found = [parse(data) for data in await stranger.listen(2.5)]
        assert [message.status for message in found if isinstance(message, Response)] == [401]
        assert stranger.got <= 1.3 * stranger.sent, f"{stranger.got} bytes for {stranger.sent}"


async def test_no_flood_is_reflected(gateway: SipGateway) -> None:
    """The shortest request there is gets more bytes than it has, so few of them are answered."""
    with lines(gateway.peer(11)) as (stranger,):
        for number in range(400):
            stranger.send(
                f"INVITE sip:1@h SIP/2.0\r\nv:SIP/2.0/UDP {stranger.host}:{stranger.port};branch=z9hG4bK{number}\r\n"
                f"f:<sip:a>;tag=1\r\nt:<sip:1@h>\r\ni:{number}\r\nm:<sip:a@b>\r\nCSeq:1 INVITE\r\n\r\n".encode(),
                place(gateway),
            )
        answers = await stranger.listen(1.5)
        assert 1 <= len(answers) <= 15
        assert stranger.got <= 0.2 * stranger.sent, f"{stranger.got} bytes for {stranger.sent}"


@pytest.mark.parametrize(("policy", "statuses"), [("refuse", [403]), ("drop", [])])
async def test_where_no_password_helps_a_stranger_gets_less_than_he_sent(
    tmp_path: Path, policy: str, statuses: list[int]
) -> None:
    port = free_port()
    trunk = {"sources": [loopback(port, GOOD)]}
    async with sip_gateway(tmp_path, trunk=trunk, http_port=port, sip={"strangers": policy}) as gateway:
        with lines(gateway.peer(10)) as (stranger,):
            here = (stranger.host, stranger.port)
            for method in ("INVITE", "OPTIONS"):
                stranger.send(request(method, place(gateway), here, body=sdp(here[0], 4000)), place(gateway))
                found = [parse(data) for data in await stranger.listen(0.7)]
                assert [message.status for message in found if isinstance(message, Response)] == statuses
            assert stranger.got <= stranger.sent
        assert not gateway.calls()


async def test_requests_of_no_dialog_are_answered_once_and_shortly(gateway: SipGateway) -> None:
    with lines(gateway.peer(12)) as (stranger,):
        here = (stranger.host, stranger.port)
        for method in ("INVITE", "BYE", "UPDATE", "CANCEL", "ACK", "PRACK"):
            stranger.send(request(method, place(gateway), here, to_tag="guessed"), place(gateway))
        found = [parse(data) for data in await stranger.listen(1.5)]
        assert sorted(m.status for m in found if isinstance(m, Response)) == [481] * 5  # never for the ACK
        assert stranger.got <= 1.2 * stranger.sent


# --- passwords -------------------------------------------------------------------------


async def guess(
    gateway: SipGateway, line_at: str, user: str, password: str, times: int
) -> list[tuple[int, int, float]]:
    """Try to log in; gives status (0: no answer), bytes and seconds of each answer to a guess."""
    found = []
    with lines(line_at) as (line,):
        here = (line.host, line.port)
        line.send(request("INVITE", place(gateway), here), place(gateway))
        challenge = parse((await line.receive())[0])
        for count in range(1, times + 1):
            challenges = challenge.headers.lines("WWW-Authenticate")
            uri = f"sip:100@{gateway.host}:{gateway.udp}"
            credentials = answer(challenges, "INVITE", uri, user, password, cnonce="c", count=count)
            began = time.perf_counter()
            headers = [f"Authorization: {credentials}"]
            line.send(request("INVITE", place(gateway), here, headers=headers), place(gateway))
            try:
                data = (await line.receive(0.4))[0]
            except TimeoutError:
                found.append((0, 0, 0.0))
            else:
                message = parse(data)
                assert isinstance(message, Response)
                found.append((message.status, len(re.sub(rb"\d+", b"", data)), time.perf_counter() - began))
                challenge = message
    return found


async def test_guessing_is_stopped_and_the_owner_is_not(gateway: SipGateway) -> None:
    outcomes = [status for status, _, _ in await guess(gateway, gateway.peer(13), USER, "wrong", 12)]
    assert outcomes == [401] * 9 + [0] * 3
    with lines(gateway.peer(13)) as (blocked,):
        blocked.send(request("OPTIONS", place(gateway), (blocked.host, blocked.port)), place(gateway))
        assert await blocked.listen(0.3) == []
    await good_call(gateway.peer(14), place(gateway), credentials=(USER, PASSWORD))


async def test_an_unknown_user_looks_as_a_wrong_password_does(gateway: SipGateway) -> None:
    kinds: dict[str, list[tuple[int, int, float]]] = {USER: [], "mallo": []}  # names of one length
    for which in range(15, 19):
        for user in kinds:
            kinds[user] += await guess(gateway, gateway.peer(which), user, "wrong", 3)
    (wrong, unknown) = kinds.values()
    assert {status for status, _, _ in wrong} == {status for status, _, _ in unknown} == {401}
    sizes = [statistics.median(size for _, size, _ in found) for found in (wrong, unknown)]
    assert abs(sizes[0] - sizes[1]) <= 8  # digits of chance were taken out
    times = [statistics.median(seconds for _, _, seconds in found) for found in (wrong, unknown)]
    assert abs(times[0] - times[1]) < 0.01, times


async def test_a_nonce_is_worth_nothing_elsewhere(gateway: SipGateway) -> None:
    with lines(gateway.peer(20), gateway.peer(21)) as (owner, thief):
        owner.send(request("INVITE", place(gateway), (owner.host, owner.port)), place(gateway))
        challenges = parse((await owner.receive())[0]).headers.lines("WWW-Authenticate")
        uri = f"sip:100@{gateway.host}:{gateway.udp}"
        headers = [f"Authorization: {answer(challenges, 'INVITE', uri, USER, PASSWORD, cnonce='c')}"]
        thief.send(request("INVITE", place(gateway), (thief.host, thief.port), headers=headers), place(gateway))
        found = parse((await thief.receive())[0])
        assert isinstance(found, Response)
        assert found.status == 401
        assert "stale=true" not in str(found.headers.lines("WWW-Authenticate"))


# --- forged requests -------------------------------------------------------------------


async def test_a_call_is_not_touched_by_one_who_knows_its_call_id(gateway: SipGateway) -> None:
    async with hand(gateway.peer(GOOD), place(gateway)) as caller:
        await caller.up()
        await caller.talk(10)
        with lines(gateway.peer(22), gateway.peer(GOOD), gateway.peer(OTHER)) as forgers:
            for forger in forgers:
                here = (forger.host, forger.port)
                for from_tag, to_tag in ((caller.from_tag, "guess"), ("guess", caller.to_tag), ("guess", "")):
                    for method in ("BYE", "INVITE", "CANCEL", "UPDATE", "REFER", "INFO"):
                        if method == "INVITE" and not to_tag:
                            continue  # that is a call of his own
                        data = request(
                            method,
                            place(gateway),
                            here,
                            call_id=caller.call_id,
                            from_tag=from_tag,
                            to_tag=to_tag,
                            cseq=50,
                            headers=["Refer-To: <sip:900@198.51.100.1>"] if method == "REFER" else [],
                            body=sdp(forger.host, forger.port) if method in ("INVITE", "UPDATE") else b"",
                        )
                        forger.send(data, place(gateway))
                answers = [parse(data) for data in await forger.listen(0.2)]
                assert not [m.status for m in answers if isinstance(m, Response) and m.status < 400]
        caller.heard.clear()
        await caller.talk(25)
        assert caller.level(440) > 0.3
        assert await caller.hang_up() == 200
        assert caller.statuses[-1] == 200


async def test_ringing_is_not_cancelled_by_another(tmp_path: Path) -> None:
    """The agent never comes, so it rings for as long as it may."""
    with socket.create_server(("127.0.0.1", 0)) as deaf, lines("127.0.0.1") as (line,):
        agent = {"kind": "remote", "url": f"ws://127.0.0.1:{deaf.getsockname()[1]}/"}
        async with sip_gateway(tmp_path, agent=agent) as gateway, hand(gateway.peer(GOOD), place(gateway)) as caller:
            invite = caller.request("INVITE", cseq=1, branch="ring", body=sdp(caller.rtp.host, caller.rtp.port))
            caller.sip.send(invite, place(gateway))
            ringing = [parse((await caller.sip.receive())[0]) for _ in range(2)]
            assert [message.status for message in ringing if isinstance(message, Response)] == [100, 180]
            line.send(caller.request("CANCEL", cseq=1, branch="ring"), place(gateway))
            line.send(caller.request("CANCEL", cseq=1, branch="other"), place(gateway))
            found = [parse(data) for data in await line.listen(0.2)]
            assert [message.status for message in found if isinstance(message, Response)] == [481, 481]
            with pytest.raises(TimeoutError):
                await caller.sip.receive(0.5)
            cancel = caller.request("CANCEL", cseq=1, branch="ring")
            caller.sip.send(cancel, place(gateway))
            ended = [parse((await caller.sip.receive())[0]) for _ in range(2)]
            assert sorted(message.status for message in ended if isinstance(message, Response)) == [200, 487]


# --- the truth about room --------------------------------------------------------------


async def options(gateway: SipGateway, host: str) -> Response:
    async with hand(host, place(gateway)) as asking:
        return await asking.final(asking.request("OPTIONS"))


async def test_options_tells_when_a_trunk_is_full(tmp_path: Path) -> None:
    async with sip_gateway(tmp_path, trunk={"max_calls": 1}) as gateway:
        assert (await options(gateway, gateway.peer(4))).status == 200
        async with hand(gateway.peer(GOOD), place(gateway)) as caller, hand(gateway.peer(5), place(gateway)) as second:
            await caller.up()
            full = await options(gateway, gateway.peer(4))
            assert (full.status, full.headers.get("Retry-After")) == (503, "5")
            refused = await second.invite()
            assert (refused.status, refused.headers.get("Retry-After")) == (503, "5")
            assert await caller.hang_up() == 200
        assert (await options(gateway, gateway.peer(4))).status == 200


async def test_options_tells_when_it_drains(tmp_path: Path) -> None:
    async with sip_gateway(tmp_path) as gateway, hand(gateway.peer(GOOD), place(gateway)) as caller:
        await caller.up()
        gateway.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(4):
            while (told := await options(gateway, gateway.peer(4))).status == 200:
                await asyncio.sleep(0.05)
        assert told.status == 503
        assert told.headers.get("Retry-After")
        async with hand(gateway.peer(5), place(gateway)) as second:
            assert (await second.invite()).status == 503
        await caller.talk(10)
        assert caller.level(440) > 0.1  # who was there before is still served
        assert await caller.hang_up() == 200
        await until(lambda: gateway.process.poll() is not None, "the end of the gateway")
        assert gateway.process.returncode == 0


async def test_nothing_was_left_behind(gateway: SipGateway) -> None:
    """After all of the above, where they came to the same gateway."""
    await gateway.until(lambda: all(row["status"] != "live" for row in gateway.calls()), "the end of all calls")
    before = sockets(gateway.process.pid)
    await good_call(gateway.peer(GOOD), place(gateway))
    await until(lambda: sockets(gateway.process.pid) <= before, "sockets to be closed")
    assert '"level": "error"' not in gateway.log
    assert "Traceback" not in gateway.log
