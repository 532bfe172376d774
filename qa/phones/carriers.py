"""Calls the way Twilio and Plivo make them: the bot's webhook is asked, and its media stream opened.

Theory of operation
-------------------
A `CarrierPhone` is a carrier with one bot: it works through the bot's markup as `qa.leg` does, and serves the part of
the carrier's API by which bots hang up and transfer. The caller's line lives as long as the call, not the stream: when
the bot ends its stream to connect the caller to somebody else, the caller goes on listening and hears silence.

The line opens with the first media stream. `answered_at` lies a little before: the webhook was answered then, and a
caller begins to wait for a greeting.

What the carrier itself would play (`<Say>`, `<Play>`) is not heard, and is noted among the faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from typing import Final, Literal, Self

from starlette.applications import Starlette

from offhook.providers.carrier_side import CarrierSide
from offhook.providers.markup import OpenStream
from offhook.qa.carrier import CallCard, Carrier
from offhook.qa.leg import Callee, CarrierLeg
from offhook.qa.line import Line
from offhook.qa.listener import Listener
from offhook.qa.phones.base import Ability, CallLog, CallOrder, LineEvent, Operator, Phone, Unable, Unreachable
from offhook.qa.phones.stream import NotedWeb, Notes, write_log
from offhook.qa.result import Transfer
from offhook.qa.scenario.model import Target
from offhook.qa.session import MediaSession
from offhook.qa.simulator import ACCOUNTS, CARRIERS
from offhook.qa.web import BotAddress, Requests, WebClient
from offhook.qa.websocket import MediaSocket, SocketRefused

ABILITIES: Final[frozenset[Ability]] = frozenset({"transfer", "rfc4733", "inband"})

REPLAY_PATIENCE_S: Final = 1.0
"""How long a bot has to close a second socket that came with a used token, if it accepted the upgrade."""

TAKEN: Final = 101
"""Status of a replayed token that the bot took."""

REFUSED: Final = 403
"""Status of a replayed token whose socket the bot accepted and then closed."""

BROKEN_OFF: Final = 1006
"""RFC 6455 section 7.1.5: the connection was lost without a close frame."""


@dataclass(slots=True)
class _Exchange:
    """What a leg sees of the phone; see `qa.leg.Exchange`."""

    carrier: Carrier
    web: Requests
    callee: Callee
    address: BotAddress

    @property
    def webhook_url(self) -> str:
        return self.address.webhook_url

    def reach(self, url: str) -> str:
        return self.address.reach(url)


class CarrierPhone(Phone):
    """Calls a bot as Twilio or Plivo does.

    Args:
        target: `twilio+http(s)://host/webhook` or `plivo+http(s)://host/webhook`.
        auth_token: of the carrier's account; empty: nothing is signed, and the API takes any secret.
        account: its id; empty: one that looks like the carrier's own.
        api_listen: `host:port` of the carrier's API, which the bot must use instead of the real one for hanging up and
            transfers by API; empty: a free port of 127.0.0.1, see `api_base`.
        callee: who picks up when the bot transfers the caller.

    Raises:
        Unable: the target is none of these, or `api_listen` no address.
    """

    abilities = ABILITIES

    def __init__(
        self,
        target: Target,
        *,
        auth_token: str = "",
        account: str = "",
        api_listen: str = "",
        callee: Callee | None = None,
    ) -> None:
        name, plus, self._webhook = target.to.partition("+")
        if name not in CARRIERS or not plus:
            raise Unable(f"{target.to!r} is no carrier's bot; write twilio+http://host/webhook or plivo+http://…")
        self.way: Literal["twilio", "plivo"] = "twilio" if name == "twilio" else "plivo"
        self._public_url = target.public_url
        self.auth_token = auth_token
        self.account = account or ACCOUNTS[name]
        self.carrier = CARRIERS[name](self.account, auth_token or None)
        self.impostor = CARRIERS[name](self.account, f"not {auth_token}")
        "Signs with another key than the bot has."
        self.web = WebClient()
        self.callee = callee or Callee()
        self._calls: dict[str, CarrierCall] = {}
        self._declined: set[asyncio.Task[None]] = set()
        host, colon, port = api_listen.rpartition(":")
        if api_listen and not (colon and port.isdigit() and int(port) < 1 << 16):
            raise Unable(f"{api_listen!r} is no address for the carrier's API; write host:port, such as 127.0.0.1:8090")
        self._listener = Listener(Starlette(routes=self.carrier.api(self)), host or "127.0.0.1", int(port or 0))

    @property
    def api_base(self) -> str:
        """Root of the carrier's API while the phone is open; no slash at the end."""
        return self._listener.url

    async def __aenter__(self) -> Self:
        try:
            await self._listener.__aenter__()
        except OSError as error:
            raise Unable(f"the carrier's API cannot listen at {self.api_base}: {error}") from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._declined:
            await asyncio.wait(self._declined)
        await self._listener.__aexit__(*exc)
        await self.web.close()

    async def carry(self, order: CallOrder, operator: Operator) -> CallLog:
        """Make a call; see `Phone.carry`. Its way to the API leads by `api_base`."""
        if order.media.srtp:
            raise Unable("media.srtp: a carrier's stream is protected by TLS; use a target of https, or a sip: one")
        target = order.target
        notes = Notes(order.keep_packets, self.auth_token)
        webhook = target.to.partition("+")[2] or self._webhook
        exchange = _Exchange(
            self.impostor if target.tamper == "wrong_signature" else self.carrier,
            NotedWeb(self.web, notes),
            self.callee,
            BotAddress(webhook, target.public_url or self._public_url),
        )
        card = CallCard(self.carrier.new_call_id(), target.from_, target.number, "inbound", "ringing")
        call = CarrierCall(exchange, card, order, operator, notes, self.way)
        self._calls[card.call_id] = call
        try:
            return await call.make()
        finally:
            del self._calls[card.call_id]

    # --- for the carrier's API: see `qa.carrier.Desk` ---

    def find(self, call_id: str) -> CarrierCall | None:
        """A call that is not over."""
        call = self._calls.get(call_id)
        return call if call is not None and not call.card.ended else None

    def place(self, card: CallCard) -> CarrierLeg:
        """A call that the bot ordered: nobody picks up."""
        address = BotAddress(self._webhook, self._public_url)
        leg = CarrierLeg(_Exchange(self.carrier, self.web, self.callee, address), card)
        task = asyncio.create_task(leg.decline("no-answer"), name=f"qa-declined-{card.call_id}")
        self._declined.add(task)
        task.add_done_callback(self._declined.discard)
        return leg

    def outage(self) -> int:
        """The API always works."""
        return 0


class CarrierCall(CarrierLeg):
    """One call of a `CarrierPhone`."""

    def __init__(
        self,
        exchange: _Exchange,
        card: CallCard,
        order: CallOrder,
        operator: Operator,
        notes: Notes,
        way: Literal["twilio", "plivo"],
    ) -> None:
        super().__init__(exchange, card)
        self._call_order, self._operator, self._notes = order, operator, notes
        self._log = CallLog(order.call_id, way, order.target.to, time.time())
        self._asked_at = time.monotonic()
        self._hung_up_at = 0.0
        "When the caller did; closing the stream takes the time that the bot takes."
        self._ended_at = 0.0
        self._timed_out = False
        self._replayed: int | None = None
        "Status that the replayed token got; None: it was not replayed."
        self._beat_timer: asyncio.TimerHandle | None = None
        self._frames = 0
        "Of the line, that the operator has seen."
        self._operator_error: Exception | None = None
        self._stream: MediaSession | None = None
        track = self._track = Line(keep_media=False, abilities=ABILITIES)
        track.on_hang_up = lambda: self.order_hang_up("the caller hung up", by="caller")
        track.on_event = self._log.events.append
        if order.keep_packets:
            track.on_control, track.on_arrival = notes.sent, notes.arrived

    async def make(self) -> CallLog:
        """See the call through. Raises Unreachable."""
        timer = asyncio.get_running_loop().call_later(self._call_order.timeout, self._time_out)
        try:
            await self.conduct(self._exchange.webhook_url, "POST")
        finally:
            timer.cancel()
            self._rest()
            self._operator.ended()
        if self._operator_error is not None:
            raise self._operator_error
        self._check_reached()
        return self._finish()

    # --- the line ---

    def _time_out(self) -> None:
        self._timed_out = True
        self.order_hang_up(f"not over within {self._call_order.timeout:g} s", by="caller")

    def _moved(self) -> None:
        track = self._track
        if self._frames < len(track.left_at) and not self.card.ended:
            self._frames = len(track.left_at)
            self._operator.frame(track)

    def _beat(self) -> None:
        """A frame while there is no stream: the caller hears nothing, and goes on looking."""
        self._track.frame(time.monotonic())
        try:
            self._moved()
        except Exception as error:  # the root of what runs here: `make` raises it
            self._operator_error = error
            self.order_hang_up("the caller broke down", by="caller")
            return
        self._go_on()

    def _go_on(self) -> None:
        self._beat_timer = asyncio.get_running_loop().call_at(self._track.frame_due, self._beat)

    def _rest(self) -> None:
        if self._beat_timer is not None:
            self._beat_timer.cancel()
            self._beat_timer = None

    # --- what the leg asks for ---

    def _side(self, verb: OpenStream) -> CarrierSide:
        # What the bot put there itself goes before what the scenario gives.
        parameters = {**self._call_order.target.headers, **verb.parameters}
        side = self._exchange.carrier.side(self.card, replace(verb, parameters=parameters))
        if verb.blocking:
            self._log.codec = side.format.encoding.upper()
        return side

    def _line_for(self, side: CarrierSide, verb: OpenStream) -> Line:
        if not verb.blocking:
            return Line(side, keep_media=False)  # it only listens, and gets silence
        self._track.attach(side)
        return self._track

    def _session_for(self, line: Line) -> MediaSession:
        order = self._call_order
        if line is not self._track:
            return MediaSession(line, _nothing)
        self._stream = MediaSession(line, self._moved, network=order.media.network, seed=order.seed)
        return self._stream

    def _streams(self, verb: OpenStream) -> None:
        if not verb.blocking:
            return
        self._notes.note(False, "101", verb.url)
        self._rest()
        if self._call_order.target.tamper == "replayed_token" and self._replayed is None:
            self._replayed = 0
            self._start_aside(self._replay(verb), "qa-replay")

    async def _carry(self, verb: OpenStream) -> bool:
        if not verb.blocking:
            return await super()._carry(verb)
        self._notes.note(True, f"GET {verb.url}", "Upgrade: websocket")
        try:
            return await super()._carry(verb)
        finally:
            if self.socket_failure is not None:
                self._notes.note(False, str(self.socket_failure.status or "no answer"), str(self.socket_failure))
            if self._stream is not None:
                self._log.network_s = self._stream.network_delay
                self._log.added_out, self._log.added_back = self._stream.added_out, self._stream.added_back
            if self.closed_by_bot:
                self._notes.note(False, f"close {self.closed_by_bot}")
            if self._track.opened and self._beat_timer is None:
                self._go_on()

    async def _replay(self, verb: OpenStream) -> None:
        """Open the stream's socket once more, as somebody does who has seen its URL."""
        await self.settled.wait()
        exchange = self._exchange
        try:
            socket = await MediaSocket.connect(exchange.reach(verb.url), exchange.carrier.upgrade_headers(verb.url))
        except SocketRefused as error:
            self._replayed = error.status
            self._track.happened("refused", str(error.status))
            return
        try:
            for message in exchange.carrier.side(self.card, verb).open(time.monotonic()):
                socket.send(message, text=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(socket.closed.wait(), REPLAY_PATIENCE_S)
            code = socket.close_code
        finally:
            await socket.close()
        if code is None:
            self._replayed = TAKEN
            self.errors.append("the bot took a second media socket with a used token")
            self._track.happened("fault", self.errors[-1])
        else:
            self._replayed = REFUSED
            self._track.happened("refused", str(REFUSED))

    def _transferred(self, transfer: Transfer) -> None:
        super()._transferred(transfer)
        if not self._track.opened:  # the caller is connected at once, and no stream was opened before
            self._track.begin(time.monotonic())
            self._go_on()
        self._track.happened("transfer", transfer.to)

    def play_digits(self, digits: str) -> None:
        super().play_digits(digits)
        self._track.happened("dtmf", digits)

    def order_hang_up(self, how: str, by: Literal["caller", "bot", "carrier"] = "bot") -> None:
        if by == "bot":
            self._notes.note(False, "API: hang up", how)
        else:
            self._hung_up_at = self._hung_up_at or time.monotonic()
        super().order_hang_up(how, by)

    def order_markup(self, *, document: str = "", url: str = "", method: str = "POST") -> None:
        self._notes.note(False, "API: markup", document or f"{method} {url}")
        super().order_markup(document=document, url=url, method=method)

    async def _conclude(self) -> None:
        self._ended_at = self._hung_up_at or time.monotonic()
        if self._replayed is not None:
            self.settled.set()  # the answer to the used token is waited for, and the token was on its way
        await super()._conclude()

    # --- afterwards ---

    def _check_reached(self) -> None:
        """Raises Unreachable."""
        to = self._call_order.target.to
        if self._track.opened:
            return
        if self.failure is not None and not self.webhook_status:
            raise Unreachable(f"{to}: nobody answers: {self.failure}; is the bot running, and is this its webhook?")
        if self.socket_failure is not None and not self.socket_failure.status:
            raise Unreachable(
                f"{to}: the bot named a media socket that cannot be reached: {self.socket_failure}; when that is its "
                "public address, give its origin as target.public_url"
            )

    def _finish(self) -> CallLog:
        log, track = self._log, self._track
        write_log(log, track, self._ended_at)
        if self._replayed is not None:
            log.due = len(log.left_at)  # its first stream ended before it had begun to speak
        started = track.started if track.opened else self._asked_at
        log.answered = track.opened
        if self.answered_at and track.opened:
            log.setup_ms = self.webhook_ms
            log.answered_at = min(0.0, self.answered_at - started)
            log.events.insert(0, LineEvent(log.answered_at, "answered"))
        log.status = self.webhook_status
        if self.socket_failure is not None:
            log.status = self.socket_failure.status
        if self._replayed is not None:
            log.status = self._replayed
        log.ended_how = self.ended_how
        log.ended_by = self._ended_by()
        unheard = [f"not heard, for the carrier says it: {said}" for said in self.carrier_said]
        log.faults = list(dict.fromkeys([*self.errors, *unheard]))  # each once, for a bot makes its mistake every frame
        if not log.answered:
            log.events.append(LineEvent(self._ended_at - started, "refused", str(log.status)))
        log.events.append(LineEvent(self._ended_at - started, "ended", self.ended_how))
        log.ladder = self._notes.ladder(started)
        return log

    def _ended_by(self) -> Literal["", "agent", "caller", "network", "timeout"]:
        if self._timed_out:
            return "timeout"
        if self.card.ended_by == "caller":
            return "caller"
        lost = self.closed_by_bot == BROKEN_OFF or (self._stream is not None and self._stream.was_reset)
        return "network" if lost else "agent"


def _nothing() -> None:
    """A stream that only listens moves no caller on."""
