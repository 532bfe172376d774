"""Orders to jambonz's REST API.

Source: https://docs.jambonz.org/reference/rest-call-control. jambonz has no SDK for Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final
from urllib.parse import quote

from offhook.providers.base import CarrierControl, CarrierRefused, DialAnswer
from offhook.providers.json_stream import DTMF_DIGITS
from offhook.providers.orders import CONNECT_TIMEOUT, Failed, Orders

DTMF_MS: Final = 250
"""Length of one key, jambonz's own default."""

MAX_DIGITS: Final = 32
"""Keys of one order; each is a request."""


class JambonzControl(CarrierControl):
    """Calls under one account.

    Args:
        account_sid, api_key: of the account. Without the key nothing can be ordered, and whoever does is told.
        api_base: such as https://jambonz.cloud/api.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, *, account_sid: str, api_key: str, api_base: str, timeout: float) -> None:
        self._orders = Orders("jambonz")
        self._calls = f"{api_base.rstrip('/')}/v1/Accounts/{quote(account_sid, safe='')}"
        self._key, self._timeout = api_key, (CONNECT_TIMEOUT, timeout)
        # Imported here: reading a configuration does not need it.
        self._session: Any = import_module("requests").Session()

    async def hang_up(self, carrier_call_id: str) -> None:
        try:
            await self._update(carrier_call_id, {"call_status": "completed"})
        except CarrierRefused as error:
            if error.status != 404:  # already over: success
                raise

    async def transfer(self, carrier_call_id: str, answer: DialAnswer, *, fetch_url: str) -> None:
        """Have jambonz ask `fetch_url`, which must serve the verbs of `answer`."""
        await self._update(carrier_call_id, {"call_hook": {"url": fetch_url, "method": "POST"}})

    async def dial(self, to: str, from_number: str, *, answer_url: str, status_url: str, ring_timeout: int = 60) -> str:
        target = {"type": "sip", "sipUri": to} if to.startswith(("sip:", "sips:")) else {"type": "phone", "number": to}
        order = {
            "from": from_number,
            "to": target,
            "call_hook": {"url": answer_url, "method": "POST"},
            "call_status_hook": {"url": status_url, "method": "POST"},
            "timeout": ring_timeout,
        }
        created = await self._orders.run(lambda: self._ask("POST", "/Calls", order), repeatable=False)
        return str(created.get("sid", ""))

    async def send_dtmf(self, carrier_call_id: str, digits: str) -> bool:
        if not digits or len(digits) > MAX_DIGITS or not DTMF_DIGITS.issuperset(digits):
            return False
        for digit in digits:
            await self._update(carrier_call_id, {"dtmf": {"digit": digit, "duration": DTMF_MS}}, repeatable=False)
        return True

    async def check(self) -> str:
        account = await self._orders.run(lambda: self._ask("GET", ""))
        return f"jambonz account {account.get('name') or account.get('account_sid', '')}"

    async def close(self) -> None:
        await self._orders.close()
        self._session.close()

    async def _update(self, call_id: str, body: dict[str, Any], *, repeatable: bool = True) -> None:
        path = f"/Calls/{quote(call_id, safe='')}"
        await self._orders.run(lambda: self._ask("PUT", path, body), repeatable=repeatable)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if not self._key:
            raise Failed("api_key: not set, so nothing can be ordered", status=401, taken=False)
        headers = {"Authorization": f"Bearer {self._key}"}
        url = self._calls + path
        answer = self._session.request(method, url, json=body, headers=headers, timeout=self._timeout)
        if answer.status_code >= 400:
            raise Failed(f"HTTP {answer.status_code}", status=answer.status_code, taken=answer.status_code != 429)
        found = answer.json() if answer.content else {}
        return found if isinstance(found, dict) else {}
