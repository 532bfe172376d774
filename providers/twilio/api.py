"""Orders to Twilio's REST API, through its own SDK.

Source: Twilio's documentation of the Calls resource, and twilio-python.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, TypeVar

from offhook.providers.base import CarrierControl, CarrierRefused, DialAnswer
from offhook.providers.orders import CONNECT_TIMEOUT, Failed, Orders
from offhook.providers.twilio.answer import MAX_INLINE, build

T = TypeVar("T")

NOT_FOUND: Final = "20404"
"""The call is over and gone, or never was."""
NOT_IN_PROGRESS: Final = "21220"
"""The call is over."""

STATUS_EVENTS: Final = ["initiated", "ringing", "answered", "completed"]
"""What a status callback is wanted for; busy, failed, no-answer and canceled come under completed."""

MAX_REMEMBERED: Final = 10_000
"""Calls of sub-accounts whose account we remember."""


def _quiet_logger() -> logging.Logger:
    """A logger that nobody sees: the SDK writes every URL, with account and call ids, at level info."""
    quiet = logging.Logger("twilio.http_client")  # noqa: LOG001  # meant to be outside the tree of loggers
    quiet.disabled = True
    return quiet


class TwilioControl(CarrierControl):
    """Calls under one account, and under its sub-accounts."""

    def __init__(
        self,
        *,
        account_sid: str,
        username: str,
        password: str,
        region: str = "",
        edge: str = "",
        api_base: str = "",
        timeout: float = 8.0,
    ) -> None:
        """Prepare the SDK; no connection is made yet.

        Args:
            account_sid: the account that owns the calls.
            username, password: account SID and auth token, or an API key and its secret.
            region, edge: as in Twilio's host names, such as ie1 and dublin.
            api_base: replaces https://api.twilio.com, for tests and proxies.
            timeout: seconds to wait for an answer.
        """
        self._account_sid = account_sid
        self._accounts: OrderedDict[str, str] = OrderedDict()
        self._orders = Orders("twilio")
        # Imported here and not above: 16 MB and 0.15 s that reading a configuration does not need, and that a
        # running call must not meet.
        rest: Any = import_module("twilio.rest")
        self._http = _Http(api_base, timeout)
        self._client = rest.Client(username, password, account_sid, region or None, self._http, edge=edge or None)

    def remember_account(self, carrier_call_id: str, account_sid: str) -> None:
        """Note which account a call belongs to, when it is a sub-account."""
        if account_sid and account_sid != self._account_sid:
            self._accounts[carrier_call_id] = account_sid
            if len(self._accounts) > MAX_REMEMBERED:
                self._accounts.popitem(last=False)

    async def hang_up(self, carrier_call_id: str) -> None:
        try:
            await self._orders.run(_translated(lambda: self._call(carrier_call_id).update(status="completed")))
        except CarrierRefused as error:
            if error.status != 404 and error.code not in (NOT_FOUND, NOT_IN_PROGRESS):
                raise

    async def transfer(self, carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        twiml = build(answer)
        if len(twiml) > MAX_INLINE:
            raise ValueError(f"to: the markup has {len(twiml)} characters, Twilio takes {MAX_INLINE} inline")
        await self._orders.run(_translated(lambda: self._call(carrier_call_id).update(twiml=twiml)))

    async def dial(self, to: str, from_number: str, *, answer_url: str, status_url: str, ring_timeout: int = 60) -> str:
        def order() -> str:
            created = self._client.api.v2010.accounts(self._account_sid).calls.create(
                to=to,
                from_=from_number,
                url=answer_url,
                status_callback=status_url,
                status_callback_event=STATUS_EVENTS,
                timeout=ring_timeout,
            )
            return str(created.sid)

        return await self._orders.run(_translated(order), repeatable=False)

    async def send_dtmf(self, carrier_call_id: str, digits: str) -> bool:
        """False: Twilio plays keys by new markup only, and that ends the stream."""
        return False

    async def check(self) -> str:
        def order() -> str:
            account = self._client.api.v2010.accounts(self._account_sid).fetch()
            return f"{account.friendly_name} ({account.type} account, {account.status})"

        return await self._orders.run(_translated(order))

    async def close(self) -> None:
        await self._orders.close()
        self._http.close()

    def _call(self, sid: str) -> Any:
        account = self._accounts.get(sid, self._account_sid)
        return self._client.api.v2010.accounts(account).calls(sid)


class _Http:
    """Twilio's HTTP client, sending to `api_base`, with separate limits for connecting and answering."""

    def __init__(self, api_base: str, timeout: float) -> None:
        module: Any = import_module("twilio.http.http_client")
        self._base = api_base.rstrip("/")
        self._client = module.TwilioHttpClient(logger=_quiet_logger())
        self._client.timeout = (CONNECT_TIMEOUT, timeout)  # its constructor takes one number; requests takes a pair

    def request(self, method: str, url: str, **options: Any) -> Any:
        if self._base:
            url = self._base + "/" + url.partition("://")[2].partition("/")[2]
        return self._client.request(method, url, **options)

    def close(self) -> None:
        self._client.session.close()


def _translated(order: Callable[[], T]) -> Callable[[], T]:
    """The same order, with the SDK's errors translated into Failed."""
    sdk_error: Any = import_module("twilio.base.exceptions").TwilioException

    def translated() -> T:
        try:
            return order()
        except sdk_error as error:
            # Two kinds answer for the API, with `msg` or `title`; one without a status is the SDK's own refusal.
            status, code = getattr(error, "status", 400), getattr(error, "code", None)
            text = getattr(error, "msg", "") or getattr(error, "title", "") or str(error)
            raise Failed(str(text), status=status, code=str(code or ""), taken=status != 429) from error

    return translated
