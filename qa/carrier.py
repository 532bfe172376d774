"""What the simulator must know of a carrier beyond the wire: its webhooks' fields, its signatures, its API."""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import time
from typing import ClassVar, Literal, Protocol
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from offhook.providers.carrier_side import CarrierSide
from offhook.providers.markup import Markup, OpenStream

Status = Literal["queued", "ringing", "in-progress", "completed", "busy", "failed", "no-answer", "canceled"]
"""Where a call stands, in the words that both carriers use."""


@dataclass(slots=True)
class CallCard:
    """What the carrier has on file about a call."""

    call_id: str
    from_number: str
    to_number: str
    direction: Literal["inbound", "outbound"]
    status: Status
    created: float = field(default_factory=time)
    "Unix seconds, as the other times here."
    answered: float = 0.0
    ended: float = 0.0
    ended_by: Literal["", "caller", "bot", "carrier"] = ""
    "Who ended it; empty while it lives."
    order_id: str = ""
    "The id that the API gave for an outbound call, where that is not the call's own."
    answer_url: str = ""
    answer_method: str = "POST"
    answer_document: str = ""
    "Markup given inline instead of answer_url."
    status_url: str = ""
    status_events: Sequence[str] = ()
    "Statuses that are called back before the last one."

    @property
    def seconds(self) -> int:
        """How long it was up, as it is billed: begun seconds."""
        return -int(-(self.ended - self.answered) // 1) if self.answered and self.ended else 0


class ApiCall(Protocol):
    """A call as the carrier's API sees it."""

    card: CallCard

    def order_hang_up(self, how: str) -> None:
        """The bot ended the call by the API."""

    def order_markup(self, *, document: str = "", url: str = "", method: str = "POST") -> None:
        """The bot gave the call new markup, or where to fetch it."""

    def play_digits(self, digits: str) -> None:
        """The bot played keys by the API."""


class Desk(Protocol):
    """The simulator, as the carrier's API sees it."""

    def find(self, call_id: str) -> ApiCall | None:
        """A call that is not over, by the call's id or by the order's."""

    def place(self, card: CallCard) -> ApiCall:
        """An outbound call that the bot ordered."""

    def outage(self) -> int:
        """The HTTP status that this request is to fail with; 0: none."""


async def read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a form, every value of a repeated one."""
    return parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)


Endpoint = Callable[[Request, Desk], Awaitable[Response]]
"""Answers one kind of API request."""


class Carrier(ABC):
    """One carrier's manners. `account` and `secret` are its account id and auth token; no secret: nothing is signed."""

    name: ClassVar[str]

    def __init__(self, account: str, secret: str | None) -> None:
        self.account, self.secret = account, secret

    @abstractmethod
    def new_call_id(self) -> str:
        """A fresh id for a call."""

    @abstractmethod
    def fields(self, card: CallCard) -> dict[str, str]:
        """What every webhook about the call says, blank fields included."""

    @abstractmethod
    def status_fields(self, card: CallCard, sequence: int) -> dict[str, str]:
        """What a status callback says; once the call is over that includes how it ended."""

    @abstractmethod
    def dial_fields(self, outcome: Status, seconds: int) -> dict[str, str]:
        """What is added when the markup's Dial is over."""

    @abstractmethod
    def stream_fields(self, event: Literal["started", "stopped", "failed"], stream_id: str, url: str) -> dict[str, str]:
        """What is added to the call's fields in a callback about its stream."""

    @abstractmethod
    def headers(self, method: str, url: str, fields: dict[str, str]) -> dict[str, str]:
        """Headers of a webhook, its signature over the public URL among them."""

    @abstractmethod
    def upgrade_headers(self, url: str) -> dict[str, str]:
        """Headers of the media socket's upgrade; `url` as the markup named it."""

    @abstractmethod
    def parse(self, document: bytes | str, base_url: str) -> Markup:
        """What the carrier would do with the markup."""

    @abstractmethod
    def side(self, card: CallCard, stream: OpenStream) -> CarrierSide:
        """The carrier's side of the media socket."""

    @abstractmethod
    def outlives_stream(self, stream: OpenStream) -> bool:
        """Whether a call with no markup left stays up, silent, when the bot has closed its stream."""

    @abstractmethod
    def endpoints(self) -> list[tuple[str, str, Endpoint]]:
        """Method, path and handler of the orders that the carrier's API takes."""

    @abstractmethod
    def error(self, status: int, message: str) -> Response:
        """How the API refuses: 401, 404, or the status of a simulated outage."""

    def api(self, desk: Desk) -> list[Route]:
        """The routes of the carrier's API; every request must carry the account's secret."""

        def guarded(handler: Endpoint) -> Callable[[Request], Awaitable[Response]]:
            async def endpoint(request: Request) -> Response:
                if status := desk.outage():
                    return self.error(status, "simulated outage")
                if not self.authorized(request):
                    return self.error(401, "authenticate")
                if request.path_params["account"] != self.account:
                    return self.error(404, "no such account")
                return await handler(request, desk)

            return endpoint

        return [Route(path, guarded(handler), methods=[method]) for method, path, handler in self.endpoints()]

    def authorized(self, request: Request) -> bool:
        """Whether an API request carries the account's secret (or that of one of its keys)."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            _, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        return self.secret is None or password == self.secret
