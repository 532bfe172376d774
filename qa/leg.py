"""The carrier's part of a simulated call: it works through the bot's markup, verb by verb.

Theory of operation
-------------------
A call is `queued`, `ringing`, `in-progress`, and then over, for good: `completed`, `busy`, `failed`, `no-answer` or
`canceled`. The carrier asks the bot's webhook and does what the markup says, one verb after the other. An order (the
caller hangs up, the bot hangs up or gives new markup by the API) interrupts whatever verb is under way: a media
stream gets its `stop` and is closed. With no verb left the carrier hangs up.

What the carrier itself would play to the caller (`<Say>`, `<Play>`, a callee's voice) is noted, not heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlencode, urlsplit

from offhook.providers.carrier_side import CarrierSide
from offhook.providers.markup import (
    Dial,
    HangUp,
    OpenStream,
    Pause,
    Play,
    PlayDigits,
    Redirect,
    Reject,
    Say,
    Unknown,
    Verb,
)
from offhook.qa.carrier import CallCard, Carrier, Status
from offhook.qa.line import Line
from offhook.qa.result import Callback, Transfer
from offhook.qa.session import MediaSession, SocketRefused
from offhook.qa.web import Reply, Requests, Unreachable

MAX_DOCUMENTS: Final = 30
"""Documents one call may fetch; more is a bot that redirects to itself."""


FORK: Final = "qa-fork"
"""Name of the task of a stream that only listens, while the markup goes on."""


class SimulatorError(Exception):
    """A simulated call did not go as its script demands.

    * SimulatorError
        * RingFailed: the incoming-call webhook was not answered with markup.
        * NotHeard: what the caller waited for did not happen in time.
        * CallOver: the call ended before.
    """


class RingFailed(SimulatorError):
    """The incoming-call webhook failed. `status` is the HTTP status of its answer, 0 if there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Callee:
    """Who picks up when the bot transfers a caller."""

    outcome: Status = "completed"
    "completed: answers; busy, no-answer, failed: does not."
    seconds: float = 0.2
    "How long caller and callee talk, or the phone rings."


class Exchange(Protocol):
    """The simulator, as one of its calls sees it."""

    @property
    def carrier(self) -> Carrier:
        """Its manners."""

    @property
    def web(self) -> Requests:
        """What asks the bot."""

    @property
    def callee(self) -> Callee:
        """Who picks up when the bot transfers a caller."""

    @property
    def webhook_url(self) -> str:
        """Where the bot is asked first, by its public name."""

    def reach(self, url: str) -> str:
        """Where a public URL is really served."""


@dataclass(frozen=True, slots=True)
class _HangUpOrder:
    by: Literal["caller", "bot", "carrier"]
    how: str


@dataclass(frozen=True, slots=True)
class _MarkupOrder:
    document: str
    url: str
    method: str


class CarrierLeg:
    """One call as the carrier runs it."""

    def __init__(self, exchange: Exchange, card: CallCard) -> None:
        self.card = card
        self.line: Line | None = None
        "The audio of the latest media stream; None before the first."
        self.errors: list[str] = []
        "What the carrier would have logged."
        self.transfers: list[Transfer] = []
        self.carrier_said: list[str] = []
        self.digits_played: list[str] = []
        "Keys that the bot had played by markup or API."
        self.callbacks: list[Callback] = []
        self.closed_by_bot: int | None = None
        "RFC 6455 code with which the bot closed the latest media stream; None: it did not."
        self.webhook_ms = 0.0
        self.webhook_status = 0
        "HTTP status of the first webhook's answer; 0: none came."
        self.socket_failure: SocketRefused | None = None
        "Why the latest media socket could not be opened; None: it was."
        self.answered_at = 0.0
        "Monotonic seconds at which the webhook was answered."
        self.ended_how = ""
        self.session: MediaSession | None = None
        "The media socket while it is open."
        self.settled = asyncio.Event()
        "Set once the call streams, rings somebody else, or is over."
        self.ended = asyncio.Event()
        "Set once the call is over and its last callback was posted."
        self.tick = asyncio.Event()
        "Set and replaced whenever the line has moved on."
        self.failure: RingFailed | None = None
        self._exchange = exchange
        self._base_url = exchange.webhook_url
        self._order: _HangUpOrder | _MarkupOrder | None = None
        self._ordered = asyncio.Event()
        self._began = time.monotonic()
        self._documents = 0
        self._sequence = 0
        self._aside: set[asyncio.Task[None]] = set()
        "Callbacks under way, and streams that only listen."

    # --- orders ---

    def order_hang_up(self, how: str, by: Literal["caller", "bot", "carrier"] = "bot") -> None:
        """End the call."""
        self._give(_HangUpOrder(by, how))

    def order_markup(self, *, document: str = "", url: str = "", method: str = "POST") -> None:
        """Go on with other markup, given or to be fetched."""
        self._give(_MarkupOrder(document, url, "GET" if method == "GET" else "POST"))

    def play_digits(self, digits: str) -> None:
        """Keys that the caller hears."""
        self.digits_played.append(digits)

    def _give(self, order: _HangUpOrder | _MarkupOrder) -> None:
        if not isinstance(self._order, _HangUpOrder):  # nothing overrules a hang-up
            self._order = order
            self._ordered.set()

    def _take_order(self) -> _HangUpOrder | _MarkupOrder | None:
        order, self._order = self._order, None
        self._ordered.clear()
        return order

    # --- the call ---

    async def decline(self, status: Status) -> None:
        """The callee of a call that the bot placed does not answer."""
        self._end(status, "caller", "the callee did not answer")
        await self._conclude()

    async def conduct(self, url: str, method: str, document: str = "") -> None:
        """Run the whole call: ask `url` (or take the document), do what it says, and post how it ended."""
        self._began = time.monotonic()
        try:
            await self._work_through(url, method, document)
        except RingFailed as error:
            self.failure = error
            self._end("failed", "carrier", str(error))
        finally:
            if not self.card.ended:
                self._end("failed", "carrier", "the simulator was stopped")
            await self._conclude()

    async def _conclude(self) -> None:
        for task in [task for task in self._aside if task.get_name() == FORK]:
            task.cancel()
        await asyncio.gather(*self._aside, return_exceptions=True)
        if self.card.status_url:
            await self._post_status()
        self.settled.set()
        self.ended.set()
        self._moved()

    async def _work_through(self, url: str, method: str, document: str) -> None:
        verbs = deque(self._understood(document) if document else await self._fetch(_MarkupOrder("", url, method)))
        while not self.card.ended:
            order = self._take_order()
            if isinstance(order, _HangUpOrder):
                self._end("completed" if self.card.answered else "canceled", order.by, order.how)
            elif isinstance(order, _MarkupOrder):
                verbs = deque(self._understood(order.document) if order.document else await self._fetch(order))
            elif not verbs:
                closed = [f"the bot closed the stream ({self.closed_by_bot})"] if self.closed_by_bot else []
                self._end("completed", "bot", ": ".join(["no markup left", *closed, *self.errors[-1:]]))
            else:
                more = await self._perform(verbs.popleft(), last=not verbs)
                if more is not None:
                    verbs = deque(more)

    async def _perform(self, verb: Verb, *, last: bool) -> list[Verb] | None:
        """Do one verb; gives the verbs that replace the rest, if any."""
        if isinstance(verb, Redirect):
            return await self._fetch(_MarkupOrder("", verb.url, verb.method))
        if isinstance(verb, Reject):
            self._end("busy" if verb.reason == "busy" else "no-answer", "bot", f"rejected: {verb.reason}")
        elif isinstance(verb, HangUp):
            self._end("completed", "bot", "markup: hang up")
        elif isinstance(verb, Pause):
            await self._wait_ordered(verb.seconds)
        else:
            self._pick_up()
            return await self._perform_answered(verb, last=last)
        return None

    async def _perform_answered(self, verb: Verb, *, last: bool) -> list[Verb] | None:
        match verb:
            case OpenStream() if verb.blocking:
                return await self._connect(verb, last=last)
            case OpenStream():
                self._start_aside(self._carry(verb), FORK)
            case Dial():
                return await self._dial(verb)
            case Say():
                self.carrier_said.append(verb.text)
            case PlayDigits():
                self.play_digits(verb.digits)
            case Play():
                self.carrier_said.append(f"({verb.url})")
            case Unknown():
                self.errors.append(f"<{verb.name}> is not simulated: passed over")
        return None

    def _pick_up(self) -> None:
        if not self.card.answered:
            self.card.status, self.card.answered = "in-progress", time.time()
            if "answered" in self.card.status_events:
                self._start_aside(self._post_status(), "qa-callback")

    def _end(self, status: Status, by: Literal["caller", "bot", "carrier"], how: str) -> None:
        self.card.status, self.card.ended, self.card.ended_by = status, time.time(), by
        self.ended_how = how

    # --- the stream ---

    async def _connect(self, verb: OpenStream, *, last: bool) -> list[Verb] | None:
        carried = await self._carry(verb)
        if self._order is not None or self.card.ended:
            return None
        if verb.after_url:
            return await self._fetch(_MarkupOrder("", verb.after_url, verb.after_method))
        if carried and not verb.keeps_call:
            self._end("completed", "bot", f"the bot closed the stream ({self.closed_by_bot})")
        elif carried and last and self._exchange.carrier.outlives_stream(verb):
            self.errors.append("the bot closed the stream and left the caller in silence")
            await self._wait_ordered(None)
        return None

    async def _carry(self, verb: OpenStream) -> bool:
        """Run one media stream to its end; False when it could not be opened."""
        if verb.refused is not None:
            self.errors.append(f"{verb.refused.code} {verb.refused.detail}".strip())
            return False
        side = self._side(verb)
        line = self._line_for(side, verb)
        session = self._session_for(line)
        try:
            await session.open(self._exchange.reach(verb.url), self._exchange.carrier.upgrade_headers(verb.url))
        except SocketRefused as error:
            self.socket_failure = error
            self.errors.append(f"media socket refused: {error}")
            self._call_back_stream(verb, "failed", side.stream_id)
            return False
        self.socket_failure = None
        self._call_back_stream(verb, "started", side.stream_id)
        self.line, self.session, self.closed_by_bot = line, session, None
        self._streams(verb)
        try:
            await session.run(self._ordered, self.settled)
        finally:
            self.session = None
            self.closed_by_bot = session.close_code or None
            self.errors += [f"{fault.code} {fault.kind}: {fault.detail}".strip() for fault in side.faults]
            self._call_back_stream(verb, "stopped", side.stream_id)
        return True

    def _call_back_stream(
        self, verb: OpenStream, event: Literal["started", "stopped", "failed"], stream_id: str
    ) -> None:
        if verb.status_url:
            carrier = self._exchange.carrier
            fields = carrier.fields(self.card) | carrier.stream_fields(event, stream_id, verb.url)
            self._start_aside(self._call_back(verb.status_url, verb.status_method, fields), "qa-callback")

    def _side(self, verb: OpenStream) -> CarrierSide:
        """The carrier's side of a media stream."""
        return self._exchange.carrier.side(self.card, verb)

    def _line_for(self, side: CarrierSide, verb: OpenStream) -> Line:
        """The audio of a media stream."""
        return Line(side)

    def _session_for(self, line: Line) -> MediaSession:
        """What carries that audio."""
        return MediaSession(line, self._moved)

    def _streams(self, verb: OpenStream) -> None:
        """A media socket was opened."""

    def _moved(self) -> None:
        tick, self.tick = self.tick, asyncio.Event()
        tick.set()

    # --- the callee ---

    async def _dial(self, verb: Dial) -> list[Verb] | None:
        to = verb.targets[0] if verb.targets else ""
        self._transferred(Transfer(to, verb.caller_id, time.monotonic() - self._began))
        self.settled.set()
        callee = self._exchange.callee
        await self._wait_ordered(callee.seconds)
        if self._order is not None or not verb.after_url:
            return None
        fields = self._exchange.carrier.dial_fields(callee.outcome, -int(-callee.seconds // 1))
        return await self._fetch(_MarkupOrder("", verb.after_url, verb.after_method), fields)

    def _transferred(self, transfer: Transfer) -> None:
        """The bot connects the caller to somebody else."""
        self.transfers.append(transfer)

    async def _wait_ordered(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ordered.wait(), seconds)

    # --- asking the bot ---

    async def _fetch(self, order: _MarkupOrder, extra: dict[str, str] | None = None) -> list[Verb]:
        """Ask for markup. Raises RingFailed when there is none to be had."""
        self._documents += 1
        if self._documents > MAX_DOCUMENTS:
            raise RingFailed(f"the bot asked for more than {MAX_DOCUMENTS} documents in one call")
        asked = time.monotonic()
        reply = await self.post(order.url, order.method, self._exchange.carrier.fields(self.card) | (extra or {}))
        if self._documents == 1:
            self.webhook_status = reply.status
        if not 200 <= reply.status < 300:
            raise RingFailed(f"{order.url} answered {reply.status}", reply.status)
        if self._documents == 1:
            self.answered_at = time.monotonic()
            self.webhook_ms = (self.answered_at - asked) * 1000
        self._base_url = order.url
        return self._understood(reply.body)

    def _understood(self, document: str | bytes) -> list[Verb]:
        markup = self._exchange.carrier.parse(document, self._base_url)
        self.errors += [f"{fault.code} {fault.kind}: {fault.detail}".strip() for fault in markup.faults]
        if markup.faults and not markup.verbs:
            raise RingFailed(f"the answer is no markup: {markup.faults[0].detail}", 200)
        return list(markup.verbs)

    async def post(self, url: str, method: str, fields: dict[str, str]) -> Reply:
        """One signed request to the bot. Raises RingFailed when nobody answers."""
        url = urlsplit(url)._replace(fragment="").geturl()
        form = urlencode(fields)
        if method == "GET":
            url += ("&" if urlsplit(url).query else "?") + form
        headers = self._exchange.carrier.headers(method, url, fields)
        if method != "GET":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = b"" if method == "GET" else form.encode()
        try:
            return await self._exchange.web.request(method, self._exchange.reach(url), headers, body)
        except Unreachable as error:
            raise RingFailed(str(error)) from error

    async def _post_status(self) -> None:
        fields = self._exchange.carrier.status_fields(self.card, self._sequence)
        self._sequence += 1
        await self._call_back(self.card.status_url, "POST", fields)

    async def _call_back(self, url: str, method: str, fields: dict[str, str]) -> None:
        try:
            status = (await self.post(url, method, fields)).status
        except RingFailed as error:
            self.errors.append(f"callback: {error}")
            status = 0
        self.callbacks.append(Callback(url, fields, status))

    def _start_aside(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
