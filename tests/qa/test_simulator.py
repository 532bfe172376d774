"""Whole calls over real sockets, against a bot that owes nothing to offhook."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from twilio.request_validator import RequestValidator

from offhook.codecs.wav import read_wav
from offhook.qa.activity import RATE, Samples
from offhook.qa.call import CallOver, NotHeard
from offhook.qa.leg import Callee, RingFailed
from offhook.qa.simulator import CarrierSimulator

TOKEN = "tok-0123456789"
StartBot = Callable[..., AbstractAsyncContextManager[Any]]
PUBLIC = "https://voice.example.com"


def noise(seconds: float, seed: int = 0) -> Samples:
    return np.asarray(np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)), np.int16)


def twilio(bot: Any, **options: Any) -> CarrierSimulator:
    return CarrierSimulator("twilio", bot.origin + "/incoming", TOKEN, **options)


def plivo(bot: Any, **options: Any) -> CarrierSimulator:
    return CarrierSimulator("plivo", bot.origin + "/incoming", TOKEN, **options)


async def api(
    carrier: CarrierSimulator, method: str, path: str, *, token: str = TOKEN, **fields: str
) -> tuple[int, str]:
    """One request to the carrier's API, as a bot would make it."""

    def request() -> tuple[int, str]:
        credentials = base64.b64encode(f"{carrier.carrier.account}:{token}".encode()).decode()
        is_json = carrier.carrier.name == "plivo"
        body = json.dumps(fields).encode() if is_json else urlencode(fields).encode()
        kind = "application/json" if is_json else "application/x-www-form-urlencoded"
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": kind}
        asked = urllib.request.Request(carrier.api_base + path, body if fields else None, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(request)


def call_path(carrier: CarrierSimulator, call_id: str) -> str:
    account = carrier.carrier.account
    if carrier.carrier.name == "plivo":
        return f"/v1/Account/{account}/Call/{call_id}/"
    return f"/2010-04-01/Accounts/{account}/Calls/{call_id}.json"


# --- ringing and carrying ---


async def test_a_call_is_signed_on_the_webhook_and_on_the_upgrade(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        bot.markup = lambda path: (
            '<Response><Connect><Stream url="wss://voice.example.com/some/where"/></Connect></Response>'
        )
        async with twilio(bot, public_url=PUBLIC) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            await call.hang_up()
        [(path, headers, form)] = bot.requests
        assert path == "/incoming"
        assert (form["From"], form["To"], form["CallStatus"]) == ("+15550111", "+15550100", "ringing")
        validator = RequestValidator(TOKEN)
        assert validator.validate(PUBLIC + "/incoming", form, headers["x-twilio-signature"])
        expected = validator.compute_signature("wss://voice.example.com/some/where", {})
        assert bot.upgrades[0]["x-twilio-signature"] == expected
        assert [message["event"] for message in bot.received] == ["connected", "start", "stop"]
        assert call.result().status == "completed"
        assert call.result().ended_by == "caller"


async def test_nothing_is_signed_without_a_token(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        async with CarrierSimulator("twilio", bot.origin + "/incoming", None) as carrier:
            await (await carrier.ring("+15550111", "+15550100")).hang_up()
        assert "x-twilio-signature" not in bot.requests[0][1] | bot.upgrades[0]


@pytest.mark.timing
@pytest.mark.parametrize("name", ["twilio", "plivo"])
async def test_what_the_bot_says_is_heard_on_time(start_bot: StartBot, name: str) -> None:
    greeting, reply = noise(0.4, 1), noise(0.3, 2)
    async with start_bot(carrier=name, greeting=greeting, reply=reply, reply_after=0.4) as bot:
        async with CarrierSimulator(name, bot.origin + "/incoming", TOKEN) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            await call.wait_agent_turn(seconds=0.3)
            await call.say(noise(0.3, 3))
            await call.wait_agent_turn(seconds=0.3)
            await call.hang_up()
            result = call.result()
        assert result.trusted
        assert result.measures.greeting_ms is not None
        assert result.measures.greeting_ms < 200
        assert [made.v2v_ms for made in result.measures.replies] == [pytest.approx(400, abs=20)]
        assert len(result.measures.agent_spans) == 2
        assert result.measures.gaps == []
        played = [message for message in bot.received if message["event"] in ("mark", "playedStream")]
        assert len(played) == 2
        assert result.errors == ()


@pytest.mark.timing
@pytest.mark.parametrize("name", ["twilio", "plivo"])
async def test_an_interruption_is_measured_to_the_clear(start_bot: StartBot, name: str) -> None:
    async with start_bot(carrier=name, greeting=noise(5), clear_after=0.15) as bot:
        async with CarrierSimulator(name, bot.origin + "/incoming", TOKEN) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            await call.wait_agent_speaking(seconds=0.3)
            await call.say(noise(0.4, 3))
            await call.hang_up()
            [barge] = call.result().measures.barge_ins
        assert barge.clear_ms == pytest.approx(150, abs=20)
        assert barge.stop_ms == pytest.approx(150, abs=20)
        assert barge.yielded
        events = [message["event"] for message in bot.received]
        assert ("clearedAudio" in events) == (name == "plivo")
        assert ("mark" in events or "playedStream" in events) == (name == "twilio")


async def test_the_recording_holds_both_sides(start_bot: StartBot, tmp_path: Path) -> None:
    async with start_bot(echo=True) as bot:
        async with twilio(bot) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            where = await call.say(noise(0.3))
            await call.listen(0.1)
            await call.hang_up()
            result = call.result()
        result.save(tmp_path / "call.wav")
        format, channels, data = read_wav(tmp_path / "call.wav")
        assert (format.rate, channels) == (RATE, 2)
        both = np.frombuffer(data, "<i2").reshape(-1, 2)
        assert np.array_equal(both[:, 0], result.caller)
        assert np.array_equal(both[:, 1], result.agent)
        at = round(where.start * RATE)
        assert result.caller[at : at + 2400].any()
        assert json.loads(json.dumps(result.as_dict()))["status"] == "completed"


@pytest.mark.timing
async def test_an_echo_comes_back_a_frame_after_it_was_said(start_bot: StartBot) -> None:
    async with start_bot(echo=True) as bot, twilio(bot) as carrier:
        call = await carrier.ring("+15550111", "+15550100")
        await call.say(noise(0.3))
        await call.listen(0.1)
        await call.hang_up()
        measures = call.result().measures
    [spoken], [heard] = measures.caller_spans, measures.agent_spans
    assert 0.02 <= heard.start - spoken.start <= 0.05


async def test_keys_reach_the_bot_in_order(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        async with twilio(bot) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            await call.dtmf("1*#", gap=0.04)
            await call.hang_up()
        assert [message["dtmf"]["digit"] for message in bot.received if message["event"] == "dtmf"] == ["1", "*", "#"]
        numbers = [int(message["sequenceNumber"]) for message in bot.received if "sequenceNumber" in message]
        assert numbers == sorted(numbers)


async def test_waiting_in_vain_says_what_for(start_bot: StartBot) -> None:
    async with start_bot(greeting=noise(5)) as bot, twilio(bot) as carrier:
        call = await carrier.ring("+15550111", "+15550100")
        with pytest.raises(NotHeard, match="did not fall silent"):
            await call.wait_agent_silent(timeout=0.2)
        with pytest.raises(NotHeard, match="not over within"):
            await call.wait_over(timeout=0.05)
        await call.hang_up()
        with pytest.raises(CallOver, match="the caller hung up"):
            await call.say(noise(0.1))


# --- how calls end ---


async def test_the_bot_closing_its_stream_ends_a_twilio_call(start_bot: StartBot) -> None:
    async with start_bot(hang_up_after=0.1) as bot:
        async with twilio(bot, status_url="/done") as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            await call.wait_over(timeout=2)
        assert (call.card.ended_by, call.closed_by_bot) == ("bot", 1000)
        [callback] = call.callbacks
        assert callback.status == 200
        assert callback.fields["CallStatus"] == "completed"
        path, headers, form = bot.requests[-1]
        assert path == "/done"
        assert RequestValidator(TOKEN).validate(bot.origin + "/done", form, headers["x-twilio-signature"])


async def test_the_bot_closing_its_stream_leaves_a_plivo_caller_in_silence(start_bot: StartBot) -> None:
    async with start_bot(carrier="plivo", hang_up_after=0.1) as bot:
        async with plivo(bot, status_url="/done") as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            with pytest.raises(NotHeard):
                await call.wait_over(timeout=0.3)
            assert "left the caller in silence" in call.errors[0]
            assert (await api(carrier, "DELETE", call_path(carrier, call.card.call_id)))[0] == 204
            await call.wait_over(timeout=2)
        [callback] = call.callbacks
        assert callback.fields["HangupSource"] == "API Request"
        assert callback.fields["HangupCause"] == "NORMAL_CLEARING"


async def test_the_bot_hangs_up_by_the_api(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        async with twilio(bot) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            path = call_path(carrier, call.card.call_id)
            assert (await api(carrier, "POST", path, token="wrong", Status="completed"))[0] == 401
            assert (await api(carrier, "POST", path, Nonsense="1"))[0] == 400
            carrier.api_faults.append(503)
            assert (await api(carrier, "POST", path, Status="completed"))[0] == 503
            status, body = await api(carrier, "POST", path, Status="completed")
            assert (status, json.loads(body)["sid"]) == (200, call.card.call_id)
            await call.wait_over(timeout=2)
            status, body = await api(carrier, "POST", path, Status="completed")
            assert (status, json.loads(body)["code"]) == (404, 20404)
        assert call.card.ended_by == "bot"
        assert bot.received[-1]["event"] == "stop"


async def test_a_transfer_ends_the_stream_and_rings_the_number(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        async with twilio(bot) as carrier:
            carrier.callee = Callee("completed", 0.05)
            call = await carrier.ring("+15550111", "+15550100")
            document = '<Response><Dial callerId="+15550100"><Number>+15550177</Number></Dial></Response>'
            await api(carrier, "POST", call_path(carrier, call.card.call_id), Twiml=document)
            await call.wait_over(timeout=2)
        [transfer] = call.transfers
        assert (transfer.to, transfer.caller_id) == ("+15550177", "+15550100")
        assert bot.received[-1]["event"] == "stop"
        assert call.result().status == "completed"


async def test_a_plivo_transfer_fetches_its_markup(start_bot: StartBot) -> None:
    async with start_bot(carrier="plivo") as bot:
        opening = bot.open_stream
        dial = "<Response><Dial><Number>15550177</Number></Dial></Response>"
        bot.markup = lambda path: dial if path == "/transfer" else opening(path)
        async with plivo(bot) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            path = call_path(carrier, call.card.call_id)
            url = bot.origin + "/transfer"
            status, _ = await api(carrier, "POST", path, legs="aleg", aleg_url=url, aleg_method="POST")
            assert status == 202
            await call.wait_over(timeout=2)
        assert [transfer.to for transfer in call.transfers] == ["15550177"]


async def test_a_caller_who_hangs_up_in_a_transfer_ends_it(start_bot: StartBot) -> None:
    async with start_bot(markup=lambda path: "<Response><Dial>+15550177</Dial></Response>") as bot:
        async with twilio(bot) as carrier:
            carrier.callee = Callee("completed", 60)
            call = await carrier.ring("+15550111", "+15550100")
            await call.hang_up()
        assert call.card.ended_by == "caller"


# --- markup ---


async def test_redirects_are_followed_relative_to_where_they_came_from(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        opening = bot.open_stream
        bot.markup = lambda path: (
            opening(path)
            if path == "/deeper/here"
            else '<Response><Redirect method="GET">deeper/here</Redirect></Response>'
        )
        async with twilio(bot) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            assert call.line is not None
            await call.hang_up()
        assert [path for path, _, _ in bot.requests] == ["/incoming", "/deeper/here"]
        assert bot.requests[1][2]["CallSid"] == call.card.call_id


async def test_after_the_stream_the_action_is_asked(start_bot: StartBot) -> None:
    async with start_bot(hang_up_after=0.05) as bot:
        host = bot.origin.removeprefix("http://")
        bot.markup = lambda path: (
            "<Response><Say>Bye</Say></Response>"
            if path == "/after"
            else f'<Response><Connect action="/after"><Stream url="wss://{host}/some/where"/></Connect></Response>'
        )
        async with twilio(bot) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
            await call.wait_over(timeout=2)
        assert call.carrier_said == ["Bye"]
        assert [path for path, _, _ in bot.requests] == ["/incoming", "/after"]


async def test_a_rejected_call_is_never_answered(start_bot: StartBot) -> None:
    async with start_bot(markup=lambda path: '<Response><Reject reason="busy"/></Response>') as bot:
        async with twilio(bot) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
        assert (call.card.status, call.card.answered) == ("busy", 0)
        assert call.result().measures.greeting_ms is None


@pytest.mark.parametrize("status", [403, 500])
async def test_a_webhook_that_fails_fails_the_call(start_bot: StartBot, status: int) -> None:
    async with start_bot(refuse_with=status) as bot:
        async with twilio(bot) as carrier:
            with pytest.raises(RingFailed, match=str(status)) as failed:
                await carrier.ring("+15550111", "+15550100")
        assert failed.value.status == status


async def test_no_bot_and_no_markup_fail_the_call(start_bot: StartBot) -> None:
    async with CarrierSimulator("twilio", "http://127.0.0.1:9/incoming", TOKEN) as carrier:
        with pytest.raises(RingFailed, match="/incoming"):
            await carrier.ring("+15550111", "+15550100")
    async with start_bot(markup=lambda path: "nonsense") as bot, twilio(bot) as carrier:
        with pytest.raises(RingFailed, match="no markup"):
            await carrier.ring("+15550111", "+15550100")


async def test_endless_redirects_are_given_up(start_bot: StartBot) -> None:
    markup = "<Response><Redirect>/again</Redirect></Response>"
    async with start_bot(markup=lambda path: markup) as bot, twilio(bot) as carrier:
        with pytest.raises(RingFailed, match="more than"):
            await carrier.ring("+15550111", "+15550100")


async def test_a_refused_media_socket_goes_on_to_the_next_verb(start_bot: StartBot) -> None:
    async with start_bot() as bot:
        host = bot.origin.removeprefix("http://")
        bot.markup = lambda path: (
            f'<Response><Connect><Stream url="wss://{host}/no/such"/></Connect><Say>Sorry</Say></Response>'
        )
        async with twilio(bot) as carrier:
            call = await carrier.ring("+15550111", "+15550100")
        assert "media socket refused" in call.errors[0]
        assert call.carrier_said == ["Sorry"]


# --- calls that the bot places ---


async def test_an_outbound_call_is_picked_up_and_asks_for_markup(start_bot: StartBot) -> None:
    async with start_bot(greeting=noise(0.3)) as bot:
        async with twilio(bot) as carrier:
            path = f"/2010-04-01/Accounts/{carrier.carrier.account}/Calls.json"
            url = bot.origin + "/answered"
            status, body = await api(carrier, "POST", path, To="+15550177", From="+15550100", Url=url)
            assert status == 201
            call = await carrier.outgoing.get()
            assert json.loads(body)["sid"] == call.card.call_id
            await carrier.pick_up(call)
            await call.wait_agent_speaking(timeout=2)
            await call.hang_up()
        assert bot.requests[0][0] == "/answered"
        assert bot.requests[0][2]["Direction"] == "outbound-api"


async def test_an_outbound_plivo_call_may_be_refused(start_bot: StartBot) -> None:
    async with start_bot(carrier="plivo") as bot:
        async with plivo(bot) as carrier:
            path = f"/v1/Account/{carrier.carrier.account}/Call/"
            urls = {"answer_url": bot.origin + "/answered", "hangup_url": bot.origin + "/done"}
            fields = {"to": "15550177", "from": "15550100", **urls}
            status, body = await api(carrier, "POST", path, **fields)
            assert status == 201
            call = await carrier.outgoing.get()
            assert json.loads(body)["request_uuid"] == call.card.order_id != call.card.call_id
            await carrier.refuse(call, "busy")
        assert [path for path, _, _ in bot.requests] == ["/done"]
        form = bot.requests[0][2]
        assert (form["HangupCause"], form["RequestUUID"]) == ("USER_BUSY", call.card.order_id)
