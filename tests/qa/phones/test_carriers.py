"""Calls as Twilio and Plivo make them, over real sockets, against a bot that owes nothing to offhook."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest
from fakes.operators import Acting, listen
from numpy.testing import assert_array_equal
from twilio.request_validator import RequestValidator

from offhook.codecs.g711 import pcm_to_ulaw, ulaw_to_pcm
from offhook.qa.activity import RATE, Samples, speech_spans
from offhook.qa.phones.base import CallerLine, CallLog, CallOrder, Unable, Unreachable
from offhook.qa.phones.carriers import CarrierPhone
from offhook.qa.scenario.model import Media, Target
from offhook.qa.session import MediaSession
from offhook.qa.websocket import MediaSocket

TOKEN = "tok-0123456789"
StartBot = Callable[..., AbstractAsyncContextManager[Any]]
CARRIERS = pytest.mark.parametrize("name", ["twilio", "plivo"])


def noise(seconds: float, seed: int = 0) -> Samples:
    return np.asarray(np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)), np.int16)


def order_for(bot: Any, *, media: dict[str, Any] | None = None, timeout: float = 20.0, **target: Any) -> CallOrder:
    to = f"{bot.carrier}+{bot.origin}/incoming"
    return CallOrder(
        Target.model_validate({"to": to, **target}), Media.model_validate(media or {}), "call-1", timeout=timeout
    )


async def carry(bot: Any, caller: Acting, **options: Any) -> CallLog:
    order = order_for(bot, **options)
    async with CarrierPhone(order.target, auth_token=TOKEN) as phone:
        log = await phone.carry(order, caller)
    assert caller.over
    return log


@pytest.mark.timing
@CARRIERS
async def test_what_is_said_and_heard_is_in_the_log_to_the_sample(start_bot: StartBot, name: str) -> None:
    greeting, reply, speech = noise(0.4, 1), noise(0.3, 2), noise(0.3, 3)

    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield from self.turn(line)
        line.press("5", "rfc4733", 0.1, 0.1)
        yield from self.say(speech)
        yield from self.turn(line)

    caller = Acting(act)
    async with start_bot(carrier=name, greeting=greeting, reply=reply, reply_after=0.4) as bot:
        log = await carry(bot, caller)
        keys = [message["dtmf"]["digit"] for message in bot.received if message["event"] == "dtmf"]
    assert (log.way, log.status, log.answered, log.ended_by, log.codec) == (name, 200, True, "caller", "PCMU")
    assert keys == [key for _, key in log.pressed] == ["5"]
    assert len(log.caller) == len(log.agent) == round(log.seconds * RATE)
    assert len(log.left_at) == len(log.lateness) == round(log.seconds * 50) == caller.frames
    assert log.due - len(log.left_at) in (0, 1)
    [said] = speech_spans(log.caller)
    assert_array_equal(log.caller[round(log.pressed[0][0] * RATE) :][:160].any(), True)
    start = int(np.flatnonzero(log.caller)[0])
    assert_array_equal(
        log.caller[start : start + len(speech) - 1], speech[np.flatnonzero(speech)[0] :][: len(speech) - 1]
    )
    heard = speech_spans(log.agent)
    assert [span.seconds for span in heard] == [pytest.approx(0.4, abs=0.011), pytest.approx(0.3, abs=0.011)]
    first = np.frombuffer(ulaw_to_pcm(pcm_to_ulaw(greeting.tobytes())), np.int16)
    at = int(np.flatnonzero(log.agent)[0])
    assert_array_equal(log.agent[at : at + 1600], first[np.flatnonzero(first)[0] :][:1600])
    assert (heard[1].start - said.end) * 1000 == pytest.approx(400, abs=40)
    assert log.setup_ms is not None
    assert -0.5 < log.answered_at <= 0
    assert log.faults == []
    assert [event.kind for event in log.events] == ["answered", "ended"]
    titles = [(rung.out, rung.title) for rung in log.ladder]
    assert titles[:2] == [(True, "POST /incoming"), (False, "200")]
    assert (True, "start") in titles
    assert (True, "dtmf") in titles
    assert not any(TOKEN in rung.text for rung in log.ladder)


async def test_a_webhook_signed_with_another_key_is_refused(start_bot: StartBot) -> None:
    async with start_bot(refuse_with=403) as bot:
        log = await carry(bot, Acting(listen(1.0)), tamper="wrong_signature")
        signature = bot.requests[0][1]["x-twilio-signature"]
    async with start_bot() as bot:
        await carry(bot, Acting(listen(0.1)))
        assert bot.requests[0][1]["x-twilio-signature"] != signature
    assert (log.answered, log.status, log.seconds) == (False, 403, 0.0)
    assert (log.events[0].kind, log.events[0].detail) == ("refused", "403")


async def test_a_used_token_that_is_taken_again_is_a_fault(start_bot: StartBot) -> None:
    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield from self.until(lambda: self.saw("fault"), 3.0, line)

    async with start_bot() as bot:
        log = await carry(bot, Acting(act), tamper="replayed_token")
        assert len(bot.upgrades) == 2
    assert (log.answered, log.status) == (True, 101)
    assert log.faults == ["the bot took a second media socket with a used token"]


async def test_the_answer_to_a_used_token_is_waited_for_after_the_call(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        log = await carry(bot, Acting(listen(0.1)), tamper="replayed_token")
    assert log.status == 101


async def test_a_bot_slow_to_close_costs_the_caller_no_frames(
    start_bot: StartBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = MediaSocket.close

    async def slow(self: MediaSocket) -> None:
        await asyncio.sleep(0.2)
        await close(self)

    monkeypatch.setattr(MediaSocket, "close", slow)
    async with start_bot() as bot:
        log = await carry(bot, Acting(listen(0.2)))
    assert log.due - len(log.left_at) in (0, 1)
    assert log.events[-1].at < log.seconds + 0.1


async def test_why_a_stream_was_not_opened_is_why_the_call_ended(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        bot.markup = lambda path: '<Response><Connect><Stream url="ws://127.0.0.1/media"/></Connect></Response>'
        log = await carry(bot, Acting(listen(0.1)))
    assert not log.answered
    assert log.ended_how.startswith("no markup left: 31922")


async def test_a_loop_whose_timers_do_not_tell_when_they_ring_will_do(
    start_bot: StartBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare:
        """What uvloop gives for a moment that has come."""

        def __init__(self, timer: asyncio.TimerHandle) -> None:
            self.cancel = timer.cancel

    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def bare(when: float, act: Callable[..., None], *args: Any, **more: Any) -> Any:
        timer = call_at(when, act, *args, **more)
        return Bare(timer) if isinstance(getattr(act, "__self__", None), MediaSession) else timer

    async with start_bot(echo=True) as bot:
        monkeypatch.setattr(loop, "call_at", bare)
        log = await carry(bot, Acting(listen(0.3)))
        monkeypatch.undo()
    assert len(log.left_at) >= 14


async def test_the_caller_hears_silence_and_lives_on_while_somebody_else_is_rung(start_bot: StartBot) -> None:
    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield from self.until(lambda: self.saw("transfer"), 5.0, line)
        yield from self.until(lambda: False, 5.0, line)

    async with start_bot(greeting=noise(0.3), hang_up_after=0.5) as bot:
        stream = bot.open_stream

        def markup(path: str) -> str:
            return str(stream(path).replace("</Connect>", "</Connect><Dial><Number>+15550155</Number></Dial>"))

        bot.markup = markup
        log = await carry(bot, Acting(act))
    [transfer] = [event for event in log.events if event.kind == "transfer"]
    assert transfer.detail == "+15550155"
    assert log.seconds >= transfer.at + 0.15
    assert log.ended_by == "agent"
    assert not log.agent[round(transfer.at * RATE) :].any()
    assert len(log.caller) == len(log.agent)


async def test_the_bot_may_end_the_call_by_the_api(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        order = order_for(bot)
        async with CarrierPhone(order.target, auth_token=TOKEN, account="AC7") as phone:
            call = asyncio.create_task(phone.carry(order, Acting(listen(5.0))))
            while not bot.received:
                await asyncio.sleep(0.01)
            sid = bot.requests[0][2]["CallSid"]
            credentials = base64.b64encode(f"AC7:{TOKEN}".encode()).decode()
            url = f"{phone.api_base}/2010-04-01/Accounts/AC7/Calls/{sid}.json"
            asked = urllib.request.Request(url, b"Status=completed", {"Authorization": f"Basic {credentials}"})

            def ask() -> Any:
                with urllib.request.urlopen(asked, timeout=5) as answer:
                    return json.loads(answer.read())

            assert (await asyncio.to_thread(ask))["sid"] == sid
            log = await call
    assert (log.ended_by, log.ended_how) == ("agent", "API: Status=completed")
    assert "API: hang up" in [rung.title for rung in log.ladder]


async def test_headers_become_parameters_of_the_stream(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        await carry(bot, Acting(listen(0.1)), headers={"tier": "gold"}, **{"from": "+15550123", "number": "+15550188"})
        [start] = [message["start"] for message in bot.received if message["event"] == "start"]
        assert start["customParameters"] == {"tier": "gold"}
        assert (bot.requests[0][2]["From"], bot.requests[0][2]["To"]) == ("+15550123", "+15550188")


async def test_signatures_cover_the_public_url(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        bot.markup = lambda path: (
            '<Response><Connect><Stream url="wss://voice.example.com/some/where"/></Connect></Response>'
        )
        log = await carry(bot, Acting(listen(0.1)), public_url="https://voice.example.com")
        [(_, headers, form)] = bot.requests
    validator = RequestValidator(TOKEN)
    assert validator.validate("https://voice.example.com/incoming", form, headers["x-twilio-signature"])
    assert log.answered


async def test_what_keeps_a_bot_from_being_reached_is_said(start_bot: StartBot) -> None:
    nobody = Target.model_validate({"to": "twilio+http://127.0.0.1:1/voice"})
    caller = Acting(listen(1.0))
    async with CarrierPhone(nobody) as phone:
        with pytest.raises(Unreachable, match="is the bot running"):
            await phone.carry(CallOrder(nobody, Media(), "c"), caller)
    assert caller.over
    async with start_bot() as bot:
        bot.markup = lambda path: '<Response><Connect><Stream url="wss://127.0.0.1:1/media"/></Connect></Response>'
        with pytest.raises(Unreachable, match="give its origin as target"):
            await carry(bot, Acting(listen(1.0)))


async def test_a_host_without_a_name_server_entry_is_unreachable() -> None:
    nowhere = Target.model_validate({"to": "twilio+http://no-such-host.invalid/voice"})
    async with CarrierPhone(nowhere) as phone:
        with pytest.raises(Unreachable, match=r"no-such-host\.invalid"):
            await phone.carry(CallOrder(nowhere, Media(), "c"), Acting(listen(1.0)))


async def test_a_call_is_over_when_its_time_is(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        log = await carry(bot, Acting(listen(10.0)), timeout=0.5)
    assert (log.ended_by, log.ended_how) == ("timeout", "not over within 0.5 s")
    assert 0.2 < log.seconds < 0.7


async def test_the_network_delays_both_ways_and_resets(start_bot: StartBot) -> None:
    network = {"delay": "100ms", "reset": "900ms"}
    async with start_bot(greeting=noise(0.3)) as bot:
        log = await carry(bot, Acting(listen(5.0)), media={"network": network})
    [heard] = speech_spans(log.agent)
    assert 0.19 < heard.start < 0.3
    assert log.network_s == pytest.approx(0.1, abs=0.001)
    assert log.ended_by == "network"
    assert 0.85 < log.seconds < 1.0


async def test_a_rejected_call_is_refused(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        bot.markup = lambda path: '<Response><Reject reason="busy"/></Response>'
        log = await carry(bot, Acting(listen(1.0)))
    assert (log.answered, log.status, log.ended_how) == (False, 200, "rejected: busy")


async def test_an_operator_that_breaks_is_heard_of(start_bot: StartBot) -> None:
    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        yield
        raise RuntimeError("the caller has a mistake")

    async with start_bot() as bot:
        with pytest.raises(RuntimeError, match="has a mistake"):
            await carry(bot, Acting(act))


async def test_a_carrier_has_no_hold_and_no_other_codec(start_bot: StartBot) -> None:
    refused: list[str] = []

    def act(self: Acting, line: CallerLine) -> Iterator[None]:
        for order in (line.hold, lambda: line.change_codec("PCMA"), lambda: line.press("1", "info", 0.1, 0.1)):
            with pytest.raises(Unable) as error:
                order()
            refused.append(str(error.value))
        yield

    async with start_bot() as bot:
        await carry(bot, Acting(act))
    assert [text.partition(";")[0] for text in refused] == [
        "this way of calling has no hold",
        "this way of calling has one codec only",
        "a carrier's stream has no keys by info",
    ]


async def test_no_ladder_is_kept_when_nobody_wants_it(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        order = order_for(bot)
        order = CallOrder(order.target, order.media, "c", keep_packets=False)
        async with CarrierPhone(order.target) as phone:
            log = await phone.carry(order, Acting(listen(0.1)))
    assert log.ladder == []
    assert log.answered
