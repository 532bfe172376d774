"""Orders to Asterisk by its REST interface (ARI).

A caller's channel is either in a Stasis application or in the dialplan, and ARI can do little with the latter. So a
transfer first tries to send the channel to the dialplan; where Asterisk answers that it is there already (409), the
number is left in a global variable named after the channel, and the call is given back: the dialplan then reads
the variable and dials (docs/asterisk.md).

Source: Asterisk's documentation of ARI, resources channels and asterisk.
"""

from __future__ import annotations

import asyncio
import random
import re
import uuid
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import aiohttp
import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from offhook.providers.base import CarrierControl, CarrierRefused, CarrierUnavailable, DialAnswer
from offhook.providers.orders import CONNECT_TIMEOUT, PAUSES
from offhook.providers.settings import Secret

NEXT_VARIABLE: Final = "OFFHOOK_NEXT_"
"""Begins the global variable that tells the dialplan where a call goes on; the caller's channel id ends it."""

MAX_ANSWER: Final = 256 * 1024
"""Bytes of an answer. Ours are under 10 kB; the rest is somebody else's server."""

STASIS_ERRORS: Final = (409, 412)
"""Not in a Stasis application; or in one, but in no state for this."""

_DIALLABLE: Final = re.compile(r"[0-9A-Za-z*#+._@:-]{1,128}", re.ASCII)
"""What a number may be of. A comma, `&` or `$` in a dialplan means more than a number."""


class AriSettings(BaseModel):
    """The section `carriers.asterisk.ari`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

    url: str
    "Where Asterisk's HTTP server is, such as http://127.0.0.1:8088; `/ari` is added where it is missing."
    username: str = Field(min_length=1)
    "A user of ari.conf that is not read_only."
    password: Secret
    "Its password."
    app: str = ""
    "Stasis application that gets the calls we place; unset: they go to `context` in the dialplan."
    endpoint: str = "PJSIP/{number}@trunk"
    "How a number is dialled; `{number}` stands for it."
    context: str = "offhook-placed"
    "Dialplan context that connects a call we placed, once it is answered, to its extension `s`."
    transfer_context: str = "offhook-transfer"
    "Dialplan context to which a channel in a Stasis application is sent; the extension is the number."

    @field_validator("url")
    @classmethod
    def _with_scheme(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("write it with its scheme, such as http://127.0.0.1:8088")
        url = url.rstrip("/")
        return url if url.endswith("/ari") else url + "/ari"

    @field_validator("endpoint")
    @classmethod
    def _has_number(cls, endpoint: str) -> str:
        if "{number}" not in endpoint:
            raise ValueError("has no {number}: write it like PJSIP/{number}@trunk")
        return endpoint


class Line(Protocol):
    """A call's media stream, as far as orders need it."""

    channel: str
    "The caller's channel; empty when the dialplan has not told."
    media_channel: str
    "The channel that carries the audio; empty where there is none of its own."

    def leave(self) -> None:
        """Give the call back to the dialplan."""


class AsteriskControl(CarrierControl):
    """Calls at one Asterisk. Without `settings` every order that needs ARI is refused."""

    def __init__(
        self, settings: AriSettings | None, *, timeout: float = 8.0, pauses: tuple[float, ...] = PAUSES
    ) -> None:
        """Prepare; no connection is made yet.

        Args:
            settings: of the section `ari`.
            timeout: seconds to wait for an answer.
            pauses: seconds between two tries.
        """
        self._settings, self._timeout, self._pauses = settings, timeout, pauses
        self._session: aiohttp.ClientSession | None = None
        self.lines: WeakValueDictionary[str, Line] = WeakValueDictionary()
        "Media streams by the carrier's id of the call, for as long as somebody holds them."

    async def hang_up(self, carrier_call_id: str) -> None:
        """End the call: the caller's channel, or the one that `dial` made, or else the media stream alone."""
        line = self.lines.get(carrier_call_id)
        channel = line.channel if line is not None else carrier_call_id
        if self._settings is None or not channel:
            if line is None:
                raise self._refused("hang up a call that has no media stream")
            line.leave()
            return
        await self._order("DELETE", f"channels/{channel}", {"reason": "normal"}, fine=(404,))

    async def transfer(self, carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        settings, channel = self._channel(carrier_call_id, "transfer a call")
        number = _checked(answer.to)
        query = {"context": settings.transfer_context, "extension": number, "priority": "1"}
        status, _ = await self._order("POST", f"channels/{channel}/continue", query, fine=STASIS_ERRORS)
        if status in STASIS_ERRORS:
            # The dialplan has it, and looks here when the media is gone.
            await self._order("POST", "asterisk/variable", {"variable": NEXT_VARIABLE + channel, "value": number})
        line = self.lines.get(carrier_call_id)
        if line is not None:
            if line.media_channel:
                await self._order("DELETE", f"channels/{line.media_channel}", {"reason": "normal"}, fine=(404,))
            line.leave()

    async def dial(self, to: str, from_number: str, *, answer_url: str, status_url: str, ring_timeout: int = 60) -> str:
        settings = self._settings
        if settings is None:
            raise self._refused("place a call")
        # An id of ours makes the order repeatable: Asterisk has every id once, and says 409 the second time.
        channel = str(uuid.uuid4())
        query = {
            "endpoint": settings.endpoint.replace("{number}", _checked(to)),
            "callerId": _checked(from_number) if from_number else "",
            "timeout": str(ring_timeout),
            "channelId": channel,
        }
        if settings.app:
            query |= {"app": settings.app, "appArgs": "offhook"}
        else:
            query |= {"context": settings.context, "extension": "s", "priority": "1"}
        variables = {"__OFFHOOK_DIRECTION": "outbound", "__OFFHOOK_CHANNEL": channel}
        variables |= {"__OFFHOOK_FROM": from_number, "__OFFHOOK_TO": to}
        await self._order("POST", "channels", query, json={"variables": variables}, fine=(409,), first=True)
        return channel

    async def send_dtmf(self, carrier_call_id: str, digits: str) -> bool:
        """Press keys on the caller's channel; False when it is in no Stasis application."""
        _, channel = self._channel(carrier_call_id, "send keys")
        status, _ = await self._order(
            "POST", f"channels/{channel}/dtmf", {"dtmf": digits}, fine=STASIS_ERRORS, repeatable=False
        )
        return status not in STASIS_ERRORS

    async def check(self) -> str:
        if self._settings is None:
            return "no ari configured: calls come in, but cannot be transferred or placed"
        _, body = await self._order("GET", "asterisk/info", {"only": "system"})
        system = body.get("system")
        version = system.get("version", "") if isinstance(system, dict) else ""
        return f"Asterisk {version or 'of an unknown version'}"

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _channel(self, carrier_call_id: str, what: str) -> tuple[AriSettings, str]:
        """The settings and the caller's channel. Raises CarrierRefused saying which of them is missing."""
        if self._settings is None:
            raise self._refused(what)
        line = self.lines.get(carrier_call_id)
        channel = line.channel if line is not None else ""
        if not channel:
            text = f"asterisk: cannot {what}: the dialplan has not told its channel; add channel=${{UNIQUEID}}"
            raise CarrierRefused(text, status=0, code="no-channel")
        return self._settings, channel

    @staticmethod
    def _refused(what: str) -> CarrierRefused:
        return CarrierRefused(f"asterisk: cannot {what}: set carriers.asterisk.ari", status=0, code="no-ari")

    async def _order(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        json: Mapping[str, Any] | None = None,
        fine: tuple[int, ...] = (),
        repeatable: bool = True,
        first: bool = False,
    ) -> tuple[int, Mapping[str, Any]]:
        """Carry out an order; gives the status and the answer's object, empty when there is none.

        Args:
            fine: errors that the caller understands.
            repeatable: whether Asterisk may be given the order twice.
            first: an error in `fine` counts only from the second try on, as the work of the first.

        Raises:
            CarrierUnavailable: after the last try.
            CarrierRefused: Asterisk answered 4xx.
        """
        tried = False
        for pause in (*self._pauses, None):
            unsent = False
            try:
                status, body = await self._send(method, path, query, json)
            except aiohttp.ClientConnectorError as error:
                text, unsent = f"no connection ({type(error).__name__})", True
            except (aiohttp.ClientError, TimeoutError) as error:
                text = f"no answer ({type(error).__name__})"
            else:
                if status < 400 or (status in fine and (tried or not first)):
                    return status, body
                text = f"{status} {body.get('message') or body.get('error') or ''}".strip()[:200]
                if status < 500 and status not in (408, 429):
                    raise CarrierRefused(f"asterisk: {text}", status=status)
                unsent = status == 429
            if pause is None or not (repeatable or unsent):
                raise CarrierUnavailable(f"asterisk: {text}")
            tried = True
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311  # no secret
        raise AssertionError("the last try returns or raises")

    async def _send(
        self, method: str, path: str, query: Mapping[str, str], json: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, Any]]:
        assert self._settings is not None
        if self._session is None:
            credentials = f"{self._settings.username}:{self._settings.password.get_secret_value()}"
            self._session = aiohttp.ClientSession(
                headers={"Authorization": "Basic " + b64encode(credentials.encode()).decode()},
                timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_TIMEOUT),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        url = f"{self._settings.url}/{path}"
        async with self._session.request(method, url, params=query, json=json, allow_redirects=False) as response:
            return response.status, _object(await response.content.read(MAX_ANSWER))


def _object(data: bytes) -> Mapping[str, Any]:
    """The JSON object of an answer; empty for anything else, as errors of proxies are."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _checked(number: str) -> str:
    """The number itself. Raises CarrierRefused for one that a dialplan would read as more than a number."""
    if not _DIALLABLE.fullmatch(number):
        raise CarrierRefused(
            f"asterisk: {number[:40]!a} is no number: use digits, letters, * # + . _ @ : and -", status=0, code="number"
        )
    return number
