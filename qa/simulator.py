"""A carrier on this machine: rings bots through their webhook, carries the calls, and answers to its own API.

    async with CarrierSimulator("twilio", "http://127.0.0.1:8080/twilio/voice", auth_token,
                                public_url="https://voice.example.com") as carrier:
        call = await carrier.ring("+15550111", "+15550100")
        await call.wait_agent_turn()
        await call.say("What are your opening hours?")
        await call.wait_agent_turn()
        await call.hang_up()
        print(call.result().measures.replies)

It works against any bot that speaks the carrier's protocol. For hanging up and transfers the bot's API base must
point at `api_base`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Self
from urllib.parse import urljoin

from starlette.applications import Starlette

from offhook.qa.call import SimulatedCall
from offhook.qa.carrier import CallCard, Carrier, Status
from offhook.qa.leg import Callee
from offhook.qa.listener import Listener
from offhook.qa.plivo import Plivo
from offhook.qa.twilio import Twilio
from offhook.qa.voice import Voice
from offhook.qa.web import BotAddress, WebClient

CARRIERS: Final[dict[str, type[Carrier]]] = {"twilio": Twilio, "plivo": Plivo}

ACCOUNTS: Final = {"twilio": "AC" + "0" * 31 + "1", "plivo": "MA" + "0" * 17 + "1"}
"""Account ids that look like the carriers' own."""


class CarrierSimulator:
    """One carrier account with one bot behind its numbers.

    Args:
        carrier: `twilio` or `plivo`.
        webhook_url: where the bot's incoming-call webhook is served.
        auth_token: signs webhooks and upgrades, and must come with API requests; None: nothing is signed.
        public_url: the origin that the bot believes to be reached at. Signatures cover it, and what the markup
            addresses to it is dialled at the origin of webhook_url. By default that origin itself.
        account: account id.
        status_url: where the end of a call is called back, absolute or from webhook_url on; none by default.
        voice: what callers speak with when they say text; by default what is installed.
    """

    def __init__(
        self,
        carrier: str,
        webhook_url: str,
        auth_token: str | None,
        *,
        public_url: str | None = None,
        account: str = "",
        status_url: str = "",
        voice: Voice | None = None,
    ) -> None:
        if carrier not in CARRIERS:
            raise ValueError(f"carrier {carrier!r} is not one of {', '.join(CARRIERS)}")
        self.carrier = CARRIERS[carrier](account or ACCOUNTS[carrier], auth_token)
        self.web = WebClient()
        self.callee = Callee()
        "Who picks up when the bot transfers a caller."
        self.calls: list[SimulatedCall] = []
        "Every call there was."
        self.outgoing: asyncio.Queue[SimulatedCall] = asyncio.Queue()
        "Calls that the bot placed by the API: `pick_up` or `refuse` them."
        self.api_faults: deque[int] = deque()
        "HTTP statuses with which the next API requests fail."
        self._address = BotAddress(webhook_url, public_url or "")
        self.webhook_url = self._address.webhook_url
        self._status_url = urljoin(self.webhook_url, status_url) if status_url else ""
        self._voice = voice
        self._listener = Listener(Starlette(routes=self.carrier.api(self)))
        self._tasks: dict[asyncio.Task[None], SimulatedCall] = {}
        self._crashes: list[BaseException] = []

    async def __aenter__(self) -> Self:
        await self._listener.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Hang up what is left and stop."""
        for call in self._tasks.values():
            call.order_hang_up("the carrier stopped", by="carrier")
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await self._listener.__aexit__(*exc)
        await self.web.close()
        if self._crashes:
            raise self._crashes[0]

    @property
    def api_base(self) -> str:
        """Root of the carrier's API, to be given to the bot instead of the real one; no slash at the end."""
        return self._listener.url

    async def ring(self, from_number: str, to_number: str) -> SimulatedCall:
        """Ring the bot; returns when its media stream is open, or when it has done something else with the call.

        Raises:
            RingFailed: the webhook was not answered with markup.
        """
        card = CallCard(self.carrier.new_call_id(), from_number, to_number, "inbound", "ringing")
        card.status_url = self._status_url
        call = self._call(card)
        self._conduct(call, self.webhook_url, "POST")
        await call.settled.wait()
        if call.failure is not None and call.line is None:
            raise call.failure
        return call

    async def pick_up(self, call: SimulatedCall) -> None:
        """Answer a call that the bot placed; returns as `ring` does."""
        card = call.card
        self._conduct(call, card.answer_url, card.answer_method, card.answer_document)
        await call.settled.wait()
        if call.failure is not None and call.line is None:
            raise call.failure

    async def refuse(self, call: SimulatedCall, status: Status = "busy") -> None:
        """Do not answer a call that the bot placed: `busy`, `no-answer` or `failed`."""
        await call.decline(status)

    # --- for the calls and the API ---

    def reach(self, url: str) -> str:
        """Where a public URL is served: what is addressed to the bot's public name goes to where the bot is."""
        return self._address.reach(url)

    def find(self, call_id: str) -> SimulatedCall | None:
        """A call that is not over, by its own id or by the order's."""
        ids = ((call, (call.card.call_id, call.card.order_id)) for call in self.calls)
        return next((call for call, known in ids if call_id in known and not call.card.ended), None)

    def place(self, card: CallCard) -> SimulatedCall:
        """An outbound call that the bot ordered: it waits in `outgoing`."""
        call = self._call(card)
        self.outgoing.put_nowait(call)
        return call

    def outage(self) -> int:
        """The status that this API request is to fail with; 0: none."""
        return self.api_faults.popleft() if self.api_faults else 0

    def _call(self, card: CallCard) -> SimulatedCall:
        call = SimulatedCall(self, card, self._speaker)
        self.calls.append(call)
        return call

    def _conduct(self, call: SimulatedCall, url: str, method: str, document: str = "") -> None:
        task = asyncio.create_task(call.conduct(url, method, document), name=f"qa-call-{call.card.call_id}")
        self._tasks[task] = call
        task.add_done_callback(self._concluded)

    def _concluded(self, task: asyncio.Task[None]) -> None:
        call = self._tasks.pop(task)
        call.settled.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashes.append(error)

    def _speaker(self) -> Voice:
        if self._voice is None:
            self._voice = Voice()
        return self._voice
