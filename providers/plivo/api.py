"""Orders to Plivo's REST API, through its own SDK.

Source: Plivo's documentation of the Call resource, and plivo-python.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, TypeVar

from offhook.providers.base import CarrierControl, CarrierRefused, DialAnswer
from offhook.providers.orders import CONNECT_TIMEOUT, Failed, Orders

T = TypeVar("T")

MAX_REMEMBERED: Final = 10_000
"""Outbound calls whose request id we remember."""


class PlivoControl(CarrierControl):
    """Calls under one account."""

    def __init__(self, *, auth_id: str, auth_token: str, api_base: str = "", timeout: float = 8.0) -> None:
        """Prepare the SDK; no connection is made yet.

        Args:
            auth_id, auth_token: of the account. The SDK takes ids of 20 characters beginning MA or SA.
            api_base: replaces https://api.plivo.com, for tests and proxies.
            timeout: seconds to wait for an answer.
        """
        self._requests: OrderedDict[str, str] = OrderedDict()
        "Request id of a call we dialled → its call id, empty until a webhook names it."
        self._orders = Orders("plivo")
        self._api_base, self._timeout = api_base.rstrip("/"), (CONNECT_TIMEOUT, timeout)
        # Imported here and not above: 24 MB and 0.2 s that reading a configuration does not need, and that a
        # running call must not meet.
        sdk: Any = import_module("plivo")
        self._error: Any = import_module("plivo.exceptions").PlivoRestError
        self._refusal = ""
        try:
            self._client: Any = sdk.RestClient(auth_id, auth_token)
        except self._error as error:
            # Calls can be answered all the same; whoever gives an order is told.
            self._client, self._refusal = None, f"auth_id: {error}"
        else:
            self._client.send_request = self._send

    def connected(self, request_id: str, carrier_call_id: str) -> None:
        """Note the call id of a call we dialled: Plivo tells it only when the call is answered."""
        if request_id in self._requests:
            self._requests[request_id] = carrier_call_id

    async def hang_up(self, carrier_call_id: str) -> None:
        """End the call; also takes the id that `dial` returned, answered or not."""

        def order() -> None:
            call_id = self._requests.get(carrier_call_id, carrier_call_id)
            if call_id:
                self._client.calls.delete(call_id)
            else:
                self._client.calls.cancel(carrier_call_id)

        try:
            await self._orders.run(self._translated(order))
        except CarrierRefused as error:
            if error.status != 404:
                raise

    async def transfer(self, carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        """Have Plivo fetch `fetch_url`, which must serve the markup of `answer`."""

        def order() -> None:
            self._client.calls.update(carrier_call_id, legs="aleg", aleg_url=fetch_url, aleg_method="POST")

        await self._orders.run(self._translated(order))

    async def dial(self, to: str, from_number: str, *, answer_url: str, status_url: str, ring_timeout: int = 60) -> str:
        """Place a call; gives Plivo's request id, which is not the call id that its webhooks carry."""

        def order() -> str:
            created = self._client.calls.create(
                from_number.removeprefix("+"),
                to.removeprefix("+"),
                answer_url,
                hangup_url=status_url,
                ring_timeout=ring_timeout,
            )
            request_id = created["request_uuid"]
            return str(request_id[0] if isinstance(request_id, list) else request_id)

        request_id = await self._orders.run(self._translated(order), repeatable=False)
        self._requests[request_id] = ""
        if len(self._requests) > MAX_REMEMBERED:
            self._requests.popitem(last=False)
        return request_id

    async def send_dtmf(self, carrier_call_id: str, digits: str) -> bool:
        def order() -> None:
            self._client.calls.send_digits(carrier_call_id, digits=digits, leg="aleg")

        await self._orders.run(self._translated(order), repeatable=False)
        return True

    async def check(self) -> str:
        def order() -> str:
            account = self._client.account.get()
            return f"{account.name} ({account.account_type} account)"

        return await self._orders.run(self._translated(order))

    async def close(self) -> None:
        await self._orders.close()
        if self._client is not None:
            self._client.session.close()
            self._client.multipart_session.close()

    def _translated(self, order: Callable[[], T]) -> Callable[[], T]:
        """The same order, with the SDK's own refusals translated into Failed."""

        def translated() -> T:
            if self._client is None:
                raise Failed(self._refusal, status=401, taken=False)
            try:
                return order()
            except self._error as error:  # found by the SDK before anything was sent, such as a bad number
                raise Failed(str(error), status=400, taken=False) from error

        return translated

    def _send(self, request: Any, *, session: Any, **options: Any) -> Any:
        """Send what the SDK has prepared, in place of its own method.

        That one prints to the terminal and repeats whatever failed with 5xx, dialling included.
        """
        if self._api_base:
            request.url = self._api_base + "/" + request.url.partition("://")[2].partition("/")[2]
        response = session.send(request, timeout=self._timeout, **options)
        if response.status_code >= 400:
            raise Failed(_error_text(response), status=response.status_code, taken=response.status_code != 429)
        return response


def _error_text(response: Any) -> str:
    """What Plivo says went wrong, short."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    said = answer.get("error") if isinstance(answer, dict) else None
    return f"HTTP {response.status_code}" + (f": {str(said)[:200]}" if said else "")
