"""The gateway as a process of its own, carriers' calls on real sockets, and the faults it must survive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fakes.served import free_port
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offhook.codecs.audio import L16_8K
from offhook.codecs.wav import read_wav
from offhook.providers.twilio.wire import TwilioCarrierSide
from offhook.qa.call import CallOver, SimulatedCall
from offhook.qa.simulator import CarrierSimulator

pytestmark = [pytest.mark.timing, pytest.mark.timeout(120)]

PUBLIC = "https://voice.example.com"
TOKEN = "test-token"
ECHO, TROUBLE, FRESH = "+15550100", "+15550101", "+15550102"

TROUBLE_AGENT = '''
import os, signal, time
from offhook.agents import Agent

class Trouble(Agent):
    """Echoes, until a key makes it misbehave."""
    format = None

    def on_audio(self, audio):
        self.call.stream(audio)

    def on_dtmf(self, digit):
        if digit == "1":
            raise ValueError("one was pressed")
        if digit == "2":
            os._exit(7)
        if digit == "3":
            os.kill(os.getpid(), signal.SIGKILL)
        if digit == "4":
            time.sleep(0.3)
        if digit == "5":
            while True:
                pass
        if digit == "6":
            self.call.transfer("+15550999")
        if digit == "7":
            self.call.hang_up("seven was pressed")
'''


class Gateway:
    """A gateway process and a carrier simulator for each carrier."""

    def __init__(self, folder: Path, simulators: dict[str, CarrierSimulator], port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}"
        self.twilio, self.plivo = simulators["twilio"], simulators["plivo"]
        self.process: subprocess.Popen[bytes] | None = None
        self.path = folder / "config.yaml"
        self.data = folder / "var"

    def configure(self, **more: Any) -> None:
        config: dict[str, Any] = {
            "public_url": PUBLIC,
            "listen": {"host": "127.0.0.1", "port": self.port},
            "data_dir": str(self.data),
            "carriers": {
                "twilio": {
                    "account_sid": self.twilio.carrier.account,
                    "auth_token": TOKEN,
                    "api_base": self.twilio.api_base,
                },
                "plivo": {
                    "auth_id": self.plivo.carrier.account,
                    "auth_token": TOKEN,
                    "api_base": self.plivo.api_base,
                },
            },
            "agents": {"echo": {"kind": "echo"}, "trouble": {"kind": "trouble_agent:Trouble"}},
            "routes": [
                {"number": TROUBLE, "agent": "trouble", "fallback": {"transfer": "+15550999"}},
                {"number": FRESH, "agent": "trouble"},
                {"number": "*", "agent": "echo", "record": True},
            ],
            "agent_hosts": {"hung_after": 2.0, "warm": 1},
        }
        self.path.write_text(json.dumps(config | more))
        (self.folder / "trouble_agent.py").write_text(TROUBLE_AGENT)

    async def start(self) -> None:
        command = [sys.executable, "-m", "offhook.gateway", "serve", "--config", str(self.path)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        async with asyncio.timeout(30), httpx.AsyncClient() as web:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await web.get(f"{self.url}/readyz")).status_code == 200:
                        return
                assert self.process.poll() is None, self.log()
                await asyncio.sleep(0.05)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def exit(self, budget: float = 15.0) -> int:
        assert self.process is not None
        async with asyncio.timeout(budget):
            while (code := self.process.poll()) is None:
                await asyncio.sleep(0.02)
        return code

    def children(self) -> list[int]:
        """Process ids of the gateway's children."""
        assert self.process is not None
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def store(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.data / "calls.db")) as database:
            return database.execute(query).fetchall()

    async def record(self, call: SimulatedCall) -> dict[str, Any]:
        """The call's row, once the call has ended in it."""
        columns = "id, status, reason, ended_by, detail, recording_status, recording_path, transferred_to, faults"
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(sqlite3.OperationalError):
                    rows = self.store(f"select {columns} from calls where carrier_call_id = '{call.card.call_id}'")
                    if rows and rows[0][1] != "live" and rows[0][5] != "recording":
                        return dict(zip(columns.split(", "), rows[0], strict=True))
                await asyncio.sleep(0.05)

    # a caller without a simulator, to misbehave by hand

    async def answer_webhook(self, sid: str, **headers: str) -> httpx.Response:
        form = {"CallSid": sid, "AccountSid": self.twilio.carrier.account, "From": "+15550001", "To": ECHO}
        form |= {"CallStatus": "ringing", "Direction": "inbound", "ApiVersion": "2010-04-01"}
        url = f"{PUBLIC}/twilio/voice"
        signed = self.twilio.carrier.headers("POST", url, form)
        async with httpx.AsyncClient() as web:
            return await web.post(f"{self.url}/twilio/voice", data=form, headers=signed | headers)

    async def stream_url(self, sid: str) -> str:
        answer = await self.answer_webhook(sid)
        assert answer.status_code == 200, answer.text
        return answer.text.partition('url="')[2].partition('"')[0]

    def open(self, url: str, *, signed: bool = True, **options: Any) -> Any:
        headers = self.twilio.carrier.upgrade_headers(url) if signed else {}
        local = url.replace("wss://voice.example.com", f"ws://127.0.0.1:{self.port}")
        return connect(local, additional_headers=headers, **options)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    port = free_port()
    async with (
        CarrierSimulator(
            "twilio",
            f"http://127.0.0.1:{port}/twilio/voice",
            TOKEN,
            public_url=PUBLIC,
            status_url="/twilio/status",
        ) as twilio,
        CarrierSimulator(
            "plivo",
            f"http://127.0.0.1:{port}/plivo/answer",
            TOKEN,
            public_url=PUBLIC,
            status_url="/plivo/hangup",
        ) as plivo,
    ):
        made = Gateway(tmp_path, {"twilio": twilio, "plivo": plivo}, port)
        made.configure()
        await made.start()
        yield made
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def tone(seconds: float, hertz: float = 440) -> Any:
    t = np.arange(int(seconds * 8000)) / 8000
    return np.asarray(8000 * np.sin(2 * np.pi * hertz * t), np.int16)


@pytest.mark.parametrize("carrier", ["twilio", "plivo"])
async def test_an_echo_call_from_webhook_to_record(gateway: Gateway, carrier: str) -> None:
    simulator = getattr(gateway, carrier)
    call = await simulator.ring("+15550001", ECHO)
    await call.say(tone(2.0))
    await call.listen(0.3)
    await call.hang_up()
    await call.wait_over()
    result = call.result()
    assert not result.errors
    heard = result.agent[np.abs(result.agent) > 1000]
    assert len(heard) > 1.7 * 8000 * 0.9
    assert not [gap for gap in result.measures.gaps if gap.end - gap.start > 0.06]
    record = await gateway.record(call)
    assert (record["status"], record["reason"]) == ("completed", "caller_hangup")
    assert record["recording_status"] == "complete"
    format, channels, pcm = read_wav(Path(record["recording_path"]))
    assert (format, channels) == (L16_8K, 2)
    both = np.frombuffer(pcm, "<i2").reshape(-1, 2)
    assert all((np.abs(both[:, side]) > 1000).sum() > 8000 for side in (0, 1))


# --- who may call


async def test_an_unsigned_or_forged_webhook_is_refused_and_starts_nothing(gateway: Gateway) -> None:
    for forged in ("", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="):
        answer = await gateway.answer_webhook("CA" + "1" * 32, **{"X-Twilio-Signature": forged})
        assert answer.status_code == 403
        assert "forbidden" in answer.text
    assert (await gateway.answer_webhook("CA" + "1" * 32)).status_code == 200


async def test_an_upgrade_needs_its_signature_and_its_token_works_once(gateway: Gateway) -> None:
    url = await gateway.stream_url("CA" + "1" * 32)
    for bad, signed in ((url, False), (url + "x", True), (url.replace("/twilio/media", "/nowhere"), True)):
        with pytest.raises(InvalidStatus) as refused:
            async with gateway.open(bad, signed=signed):
                pass
        assert refused.value.response.status_code == 403
    async with gateway.open(url) as socket:
        with pytest.raises(InvalidStatus) as refused:
            async with gateway.open(url):
                pass
        assert refused.value.response.status_code == 403
        await socket.close()


async def test_a_replayed_webhook_starts_no_second_call(gateway: Gateway) -> None:
    call = await gateway.twilio.ring("+15550001", ECHO)
    reply = await call.repeat_webhook()
    assert reply.status == 409
    await call.hang_up()
    await call.wait_over()
    await gateway.record(call)
    assert len(gateway.store("select id from calls")) == 1


async def test_a_slow_request_head_is_dropped(gateway: Gateway) -> None:
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    assert 4 < time.monotonic() - started < 8
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


async def test_a_body_too_large_is_refused(gateway: Gateway) -> None:
    async with httpx.AsyncClient() as web:
        answer = await web.post(f"{gateway.url}/twilio/voice", content=b"x" * 200_000)
    assert answer.status_code == 413


# --- bad input on the media socket


@contextlib.asynccontextmanager
async def started(gateway: Gateway, sid: str) -> AsyncIterator[tuple[ClientConnection, TwilioCarrierSide]]:
    side = TwilioCarrierSide(account_sid=gateway.twilio.carrier.account, call_sid=sid)
    async with gateway.open(await gateway.stream_url(sid)) as media:
        for message in side.open(time.monotonic()):
            await media.send(message.decode())
        yield media, side


async def echoes(media: ClientConnection, side: TwilioCarrierSide) -> bool:
    """Whether the call still lives: what is said comes back."""
    await media.send(side.media(b"\x21" * 160).decode())
    async with asyncio.timeout(2):
        while True:
            message = json.loads(await media.recv())
            if message["event"] == "media":
                return True


JUNK: list[str | bytes] = [
    "not json",
    "[]",
    "null",
    '{"event": 7}',
    '{"event": "future"}',
    '{"event":"media","streamSid":"@","media":null}',
    '{"event":"media","streamSid":"@","media":{"payload":null}}',
    '{"event":"media","streamSid":"@","media":{"payload":"%%%"}}',
    '{"event":"media","streamSid":"@","media":{"payload":17}}',
    '{"event":"media","streamSid":"MZother","media":{"payload":"//8="}}',
    '{"event":"mark","streamSid":"@","mark":{"name":"never sent"}}',
    '{"event":"dtmf","streamSid":"@","dtmf":{"digit":"ab"}}',
    '{"event":"start","streamSid":"@","start":{}}',
    b"\x00\x01 binary instead of text",
    '{"event":' * 2000,
    '{"event":"media","sequenceNumber":' + "9" * 5000 + "}",
]


async def test_junk_is_counted_and_the_call_goes_on(gateway: Gateway) -> None:
    async with started(gateway, "CA" + "1" * 32) as (media, side):
        assert await echoes(media, side)
        for junk in JUNK:
            await media.send(junk.replace("@", side.stream_id) if isinstance(junk, str) else junk)
        assert await echoes(media, side)
    async with httpx.AsyncClient() as web:
        metrics = (await web.get(f"{gateway.url}/metrics")).text
    counted = sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("offhook_carrier_faults_total{")
    )
    assert counted >= len(JUNK) - 1  # a mark that was never sent is merely ignored
    warned = [line for line in gateway.log().splitlines() if "carrier protocol fault" in line]
    kinds = [json.loads(line)["kind"] for line in warned]
    assert len(kinds) == len(set(kinds)), "each kind is logged once a call"


async def test_media_before_the_start_is_ignored(gateway: Gateway) -> None:
    sid = "CA" + "1" * 32
    side = TwilioCarrierSide(account_sid=gateway.twilio.carrier.account, call_sid=sid)
    first, second = side.open(time.monotonic())
    async with gateway.open(await gateway.stream_url(sid)) as media:
        await media.send(first.decode())
        await media.send(side.media(b"\x21" * 160).decode())
        await media.send(second.decode())
        assert await echoes(media, side)


async def close_code(media: ClientConnection, budget: float = 10.0) -> int:
    async with asyncio.timeout(budget):
        with contextlib.suppress(ConnectionClosed):
            async for _ in media:
                pass
    assert media.close_code is not None
    return media.close_code


async def test_an_oversize_message_ends_that_call_alone(gateway: Gateway) -> None:
    async with started(gateway, "CA" + "1" * 32) as (other, other_side):
        async with started(gateway, "CA" + "2" * 32) as (media, _):
            await media.send("x" * 70_000)
            assert await close_code(media) == 1009
        assert await echoes(other, other_side)


async def test_a_stream_that_never_starts_is_closed(gateway: Gateway) -> None:
    async with gateway.open(await gateway.stream_url("CA" + "1" * 32)) as media:
        at = time.monotonic()
        assert await close_code(media) == 1008
        assert 4 < time.monotonic() - at < 7


async def test_an_unknown_encoding_is_never_decoded_as_something_else(gateway: Gateway) -> None:
    sid = "CA" + "1" * 32
    side = TwilioCarrierSide(account_sid=gateway.twilio.carrier.account, call_sid=sid)
    async with gateway.open(await gateway.stream_url(sid)) as media:
        for message in side.open(time.monotonic()):
            await media.send(message.decode().replace("audio/x-mulaw", "audio/x-opus"))
        assert await close_code(media) in (1003, 1011)


# --- agents that misbehave


@pytest.mark.parametrize(
    ("key", "reason", "transferred"),
    [
        ("1", "agent_crashed", True),
        ("2", "agent_crashed", True),
        ("3", "agent_crashed", True),
        ("4", "caller_hangup", False),
        ("5", "agent_hung", True),
    ],
    ids=["raises", "exits", "killed", "blocks", "spins"],
)
async def test_a_misbehaving_agent_is_heard_by_its_own_caller_only(
    gateway: Gateway, key: str, reason: str, transferred: bool
) -> None:
    other = await gateway.twilio.ring("+15550001", ECHO)
    same_agent = await gateway.twilio.ring("+15550002", FRESH)
    call = await gateway.twilio.ring("+15550003", TROUBLE)
    talking = [asyncio.create_task(quiet.say(tone(6.5, 300))) for quiet in (other, same_agent)]
    await call.say(tone(1.0))
    await call.dtmf(key)
    if transferred:
        async with asyncio.timeout(12):
            while not call.result().transfers:
                await asyncio.sleep(0.1)
    else:
        await call.say(tone(1.0))
    await asyncio.gather(*talking)
    for one in (call, other, same_agent):
        await one.hang_up()
        await one.wait_over()
    for quiet in (other, same_agent):
        torn = [gap.end - gap.start for gap in quiet.result().measures.gaps]
        assert max(torn, default=0.0) <= 0.06
        assert (await gateway.record(quiet))["reason"] == "caller_hangup"
    record = await gateway.record(call)
    assert record["reason"] == reason
    if transferred:
        assert [transfer.to for transfer in call.result().transfers] == ["+15550999"]
        words = call.result().agent[-12 * 8000 :]
        assert (np.abs(words) > 500).sum() > 4000, "the apology was heard"
        assert record["detail"]


@pytest.mark.parametrize("carrier", ["twilio", "plivo"])
async def test_a_call_that_the_agent_ends_or_loses_ends_at_the_carrier_too(gateway: Gateway, carrier: str) -> None:
    simulator: CarrierSimulator = getattr(gateway, carrier)
    done = await simulator.ring("+15550001", FRESH)
    with contextlib.suppress(CallOver):  # as soon as the key is pressed
        await done.dtmf("7")
    await done.wait_over(timeout=10)
    assert done.result().ended_by == "bot"
    record = await gateway.record(done)
    assert (record["reason"], record["ended_by"], record["detail"]) == ("agent_hangup", "agent", "seven was pressed")
    lost = await simulator.ring("+15550002", TROUBLE)
    await lost.dtmf("1")
    async with asyncio.timeout(10):
        while not lost.result().transfers:
            await asyncio.sleep(0.05)
    assert [transfer.to.lstrip("+") for transfer in lost.result().transfers] == ["15550999"]
    await lost.hang_up()
    await lost.wait_over()
    assert (await gateway.record(lost))["reason"] == "agent_crashed"


async def test_a_call_costs_one_task_of_the_media_process(gateway: Gateway) -> None:
    async def tasks() -> float:
        async with httpx.AsyncClient() as web:
            page = (await web.get(f"{gateway.url}/metrics")).text
        return next(float(line.split()[1]) for line in page.splitlines() if line.startswith("offhook_tasks "))

    before = await tasks()
    calls = [await gateway.twilio.ring(f"+1555000{i}", ECHO) for i in range(8)]
    assert await tasks() - before <= 8
    for call in calls:
        await call.hang_up()
        await call.wait_over()


async def test_an_agent_may_transfer_only_where_the_route_allows(gateway: Gateway) -> None:
    call = await gateway.twilio.ring("+15550003", FRESH)
    await call.dtmf("6")
    await call.say(tone(0.5))
    await call.hang_up()
    await call.wait_over()
    record = await gateway.record(call)
    assert (record["reason"], record["transferred_to"]) == ("caller_hangup", "")
    assert not call.result().transfers


# --- the process


async def test_sigterm_lets_calls_run_to_their_end(gateway: Gateway) -> None:
    call = await gateway.twilio.ring("+15550001", ECHO)
    await call.say(tone(0.5))
    gateway.signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    async with httpx.AsyncClient() as web:
        ready = await web.get(f"{gateway.url}/readyz")
    assert (ready.status_code, ready.json()["state"]) == (503, "draining")
    assert (await gateway.answer_webhook("CA" + "2" * 32)).status_code == 503
    await call.say(tone(1.5))
    heard = call.result().agent[-8000:]
    assert (np.abs(heard) > 1000).mean() > 0.5
    await call.hang_up()
    await call.wait_over()
    assert await gateway.exit() == 0
    assert (await gateway.record(call))["reason"] == "caller_hangup"


async def test_a_second_sigterm_apologises_and_ends(gateway: Gateway) -> None:
    call = await gateway.twilio.ring("+15550001", ECHO)
    gateway.signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit(8) == 0
    await call.wait_over()
    record = await gateway.record(call)
    assert (record["status"], record["reason"], record["ended_by"]) == ("failed", "operator_kill", "operator")
    assert (np.abs(call.result().agent) > 500).sum() > 4000


async def test_a_drain_ends_at_its_deadline(gateway: Gateway) -> None:
    gateway.signal(signal.SIGTERM)
    await gateway.exit()
    gateway.configure(drain={"deadline": 1})
    await gateway.start()
    call = await gateway.twilio.ring("+15550001", ECHO)
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit(12) == 0
    await call.wait_over()
    record = await gateway.record(call)
    assert (record["status"], record["reason"], record["ended_by"]) == ("completed", "drain_deadline", "gateway")


async def test_sigkill_leaves_no_call_open_and_no_recording_unreadable(gateway: Gateway) -> None:
    calls = [await gateway.twilio.ring(f"+1555000{i}", ECHO) for i in range(3)]
    await asyncio.gather(*(call.say(tone(2.5)) for call in calls))
    hosts = gateway.children()
    assert hosts
    gateway.signal(signal.SIGKILL)
    assert await gateway.exit() == -signal.SIGKILL
    for call in calls:
        await call.wait_over()
    async with asyncio.timeout(5):
        while any(Path(f"/proc/{pid}").exists() for pid in hosts):  # no agent host outlives its gateway
            await asyncio.sleep(0.02)
    await gateway.start()
    for call in calls:
        record = await gateway.record(call)
        assert (record["status"], record["reason"]) == ("lost", "gateway_died")
        format, channels, pcm = read_wav(Path(record["recording_path"]))
        assert (format, channels) == (L16_8K, 2)
        assert len(pcm) > 1.5 * 32_000
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit() == 0
    await gateway.start()
    ends = gateway.store("select call_id, count(*) from events where event = 'call.ended' group by call_id")
    assert sorted(count for _, count in ends) == [1, 1, 1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    mounted: list[Path] = []

    def mount() -> Path:
        folder = tmp_path / "small"
        folder.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("cannot mount a small disk here: " + made.stderr.decode().strip())
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


async def test_a_full_disk_stops_the_recording_and_not_the_call(
    gateway: Gateway, small_disk: Callable[[], Path]
) -> None:
    gateway.signal(signal.SIGTERM)
    await gateway.exit()
    folder = small_disk()
    gateway.configure(recording={"directory": str(folder / "recordings")})
    await gateway.start()
    call = await gateway.twilio.ring("+15550001", ECHO)
    await call.say(tone(1.0))
    (folder / "ballast").write_bytes(os.urandom(20 << 20))
    await call.say(tone(3.0))
    assert (np.abs(call.result().agent[-4000:]) > 1000).mean() > 0.5
    await call.hang_up()
    await call.wait_over()
    record = await gateway.record(call)
    assert (record["reason"], record["recording_status"]) == ("caller_hangup", "disk_full")
    assert len(read_wav(Path(record["recording_path"]))[2]) > 0
    (folder / "ballast").unlink()
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit() == 0


async def test_a_public_url_that_no_carrier_can_connect_to_ends_the_call_with_a_reason(gateway: Gateway) -> None:
    gateway.signal(signal.SIGTERM)
    await gateway.exit()
    gateway.configure(public_url="http://voice.example.com")
    await gateway.start()
    form = {"CallSid": "CA" + "1" * 32, "From": "+15550001", "To": ECHO, "CallStatus": "ringing"}
    signed = gateway.twilio.carrier.headers("POST", "http://voice.example.com/twilio/voice", form)
    async with httpx.AsyncClient() as web:
        answer = await web.post(f"{gateway.url}/twilio/voice", data=form, headers=signed)
        assert (answer.status_code, answer.text) == (500, "this call cannot be answered\n")
        assert (await web.get(f"{gateway.url}/readyz")).json()["active"] == 0
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit() == 0  # the log is written beside the call: now all of it is there
    assert "wss" in gateway.log()


async def test_a_taken_port_says_so(gateway: Gateway) -> None:
    second = gateway.folder / "second.yaml"
    config = json.loads(gateway.path.read_text())
    second.write_text(json.dumps(config | {"data_dir": str(gateway.folder / "other")}))
    command = [sys.executable, "-m", "offhook.gateway", "serve", "--config", str(second)]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode != 0
    assert f"cannot bind 127.0.0.1:{gateway.port}" in ran.stdout + ran.stderr


async def test_no_secret_and_no_number_reaches_the_log(gateway: Gateway) -> None:
    call = await gateway.twilio.ring("+15557654321", ECHO)
    await call.say(tone(0.3))
    await call.hang_up()
    await call.wait_over()
    await gateway.record(call)
    gateway.signal(signal.SIGTERM)
    assert await gateway.exit() == 0
    log = gateway.log()
    assert "call ended" in log
    for hidden in (TOKEN, "15557654321", "/twilio/media/" + "A"):
        assert hidden not in log
