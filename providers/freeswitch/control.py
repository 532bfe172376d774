"""Orders to FreeSWITCH by its event socket.

Source: https://developer.signalwire.com/freeswitch, mod_event_socket. Lines of headers, an empty line, and a body
where there is a `Content-Length`. FreeSWITCH speaks first (`auth/request`); then every command gets one reply.

A connection is made for every order and let go after it: an order is rare, a connection on the same network costs a
millisecond, and nothing has to be kept alive. What goes into a command is checked against a closed alphabet first,
for a line break in a number would be another command.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import uuid4

from offhook.providers.base import CarrierControl, CarrierRefused, CarrierUnavailable, DialAnswer
from offhook.providers.json_stream import DTMF_DIGITS

MAX_HEADERS: Final = 64
"""Header lines of one reply; FreeSWITCH sends two or three."""

MAX_LINE: Final = 8192
"""Bytes of one header line."""

MAX_BODY: Final = 64 * 1024
"""Bytes of a reply's body that are read; `status` is about 500."""

WORKERS: Final = 4
"""Orders at the same time."""

MAX_TARGET: Final = 255
"""Characters of a number or SIP URI."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_NUMBER = re.compile(r"\+?[A-Za-z0-9*#._-]+", re.ASCII)
_SIP = re.compile(r"sips?:[A-Za-z0-9+*#._@:;=\[\]-]+", re.ASCII)
_GONE = "no such channel"


class EventSocketError(Exception):
    """The peer is no event socket, or broke its protocol."""


class EventSocket:
    """One connection, from the password to the last command."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def authenticate(self, password: str) -> bool:
        """Give the password; False when it is wrong."""
        headers, _ = await self._read()
        if headers.get("content-type") != "auth/request":
            raise EventSocketError("the peer does not ask for a password: is this FreeSWITCH's event socket?")
        reply, _ = await self._ask(f"auth {password}")
        return reply.get("reply-text", "").startswith("+OK")

    async def api(self, command: str) -> str:
        """Run an API command; what it printed."""
        _, body = await self._ask(f"api {command}")
        return body.strip()

    async def background(self, command: str) -> str:
        """Start an API command without waiting for its end; the reply to that."""
        headers, _ = await self._ask(f"bgapi {command}")
        return headers.get("reply-text", "")

    async def _ask(self, line: str) -> tuple[dict[str, str], str]:
        self._writer.write(line.encode() + b"\n\n")
        await self._writer.drain()
        while True:
            headers, body = await self._read()
            kind = headers.get("content-type", "")
            if kind in ("command/reply", "api/response"):
                return headers, body
            if kind == "text/disconnect-notice":
                raise EventSocketError("FreeSWITCH closed the event socket")

    async def _read(self) -> tuple[dict[str, str], str]:
        headers: dict[str, str] = {}
        for _ in range(MAX_HEADERS):
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError as error:
                raise EventSocketError(f"a header line of over {MAX_LINE} bytes") from error
            text = line.decode("utf-8", "replace").strip()
            if text:
                name, _, value = text.partition(":")
                headers[name.strip().lower()] = value.strip()
            elif headers:
                break
        else:
            raise EventSocketError(f"over {MAX_HEADERS} header lines")
        size = headers.get("content-length", "0")
        if not size.isascii() or not size.isdigit() or len(size) > 9 or int(size) > MAX_BODY:
            raise EventSocketError(f"content-length {size[:20]!a}: limit {MAX_BODY}")
        return headers, (await self._reader.readexactly(int(size))).decode("utf-8", "replace")


class FreeswitchControl(CarrierControl):
    """Calls of one FreeSWITCH.

    Args:
        host, port, password: of the event socket; without a host nothing can be ordered, and whoever does is told.
        context: dialplan context that transfers go to.
        dial_string: what `originate` calls, `{to}` is the number.
        dial_to: where an answered outbound call goes: extension, dialplan and context.
        stop_media: command that ends a call's media socket, `{uuid}` is the channel.
        timeout: seconds an order may take in all.
        new_id: names an outbound call.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        password: str,
        context: str,
        dial_string: str,
        dial_to: str,
        stop_media: str,
        timeout: float,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._host, self._port, self._password, self._timeout = host, port, password, timeout
        self._context, self._dial_string, self._dial_to = context, dial_string, dial_to
        self._stop_media, self._new_id = stop_media, new_id
        self._slots = asyncio.Semaphore(WORKERS)

    async def hang_up(self, carrier_call_id: str) -> None:
        """End the call. Without an event socket closing the media socket has to do, and this does nothing."""
        if self._host:
            await self._api(f"uuid_kill {_id(carrier_call_id)} NORMAL_CLEARING", gone_is_fine=True)

    async def transfer(self, carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        """Send the call to an extension of the context, or to a SIP URI."""
        call, target = _id(carrier_call_id), _target(answer.to)
        settings = [f"call_timeout={answer.timeout}"]
        if answer.caller_id and _NUMBER.fullmatch(answer.caller_id):
            settings.append(f"effective_caller_id_number={answer.caller_id}")
        await self._api(f"uuid_setvar_multi {call} {';'.join(settings)}")
        if target.startswith("sip"):
            await self._api(f"uuid_transfer {call} bridge:sofia/external/{target.partition(':')[2]} inline")
        else:
            await self._api(f"uuid_transfer {call} {target} XML {self._context}")
        # The module goes on listening otherwise, and what the caller now says is not for the agent. Whether or not
        # it could be told, the transfer is done.
        with contextlib.suppress(CarrierUnavailable, CarrierRefused):
            await self._api(self._stop_media.replace("{uuid}", call))

    async def dial(self, to: str, from_number: str, *, answer_url: str, status_url: str, ring_timeout: int = 60) -> str:
        """Place a call; the id given is the UUID that its media socket will name. The URLs have no use."""
        call = self._new_id()
        variables = {
            "origination_uuid": call,
            "origination_caller_id_number": _target(from_number) if from_number else "",
            "originate_timeout": str(ring_timeout),
            "offhook_direction": "outbound",
        }
        settings = ",".join(f"{name}={value}" for name, value in variables.items() if value)
        string = self._dial_string.replace("{to}", _target(to).removeprefix("sip:"))
        reply = await self._order(lambda line: line.background(f"originate {{{settings}}}{string} {self._dial_to}"))
        if not reply.startswith("+OK"):
            raise CarrierRefused(f"freeswitch: originate: {reply[:200]}", status=400)
        return call

    async def send_dtmf(self, carrier_call_id: str, digits: str) -> bool:
        if not self._host or not digits or not DTMF_DIGITS.issuperset(digits):
            return False
        await self._api(f"uuid_send_dtmf {_id(carrier_call_id)} {digits}")
        return True

    async def check(self) -> str:
        if not self._host:
            return "no event socket configured: calls come in, but none can be hung up, transferred or dialled"
        lines = (await self._api("status")).splitlines()
        return f"FreeSWITCH {lines[0] if lines else 'answers'}"[:200]

    async def _api(self, command: str, *, gone_is_fine: bool = False) -> str:
        reply = await self._order(lambda line: line.api(command))
        if reply.startswith("-") and not (gone_is_fine and _GONE in reply.lower()):
            status = 404 if _GONE in reply.lower() else 400
            raise CarrierRefused(f"freeswitch: {command.split()[0]}: {reply[:200]}", status=status)
        return reply

    async def _order(self, order: Callable[[EventSocket], Awaitable[str]]) -> str:
        """Carry out one order on a connection of its own."""
        if not self._host:
            raise CarrierRefused(
                "freeswitch: set esl.host: without the event socket nothing can be ordered", status=501
            )
        try:
            async with self._slots, asyncio.timeout(self._timeout):
                return await self._connected(order)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, EventSocketError) as error:
            where = f"event socket {self._host}:{self._port}"
            raise CarrierUnavailable(f"freeswitch: {where}: {type(error).__name__} {error}"[:200]) from error

    async def _connected(self, order: Callable[[EventSocket], Awaitable[str]]) -> str:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=MAX_LINE)
        try:
            line = EventSocket(reader, writer)
            if not await line.authenticate(self._password):
                raise CarrierRefused("freeswitch: esl.password is wrong", status=401)
            return await order(line)
        finally:
            writer.close()


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise CarrierRefused(
            f"freeswitch: call id {text[:60]!a} is no channel's UUID: put ${{uuid}} into the metadata", status=400
        )
    return text


def _target(text: str) -> str:
    if len(text) > MAX_TARGET or not (_NUMBER.fullmatch(text) or _SIP.fullmatch(text)):
        raise CarrierRefused(f"freeswitch: {text[:60]!a} is neither a number nor a SIP URI", status=400)
    return text
