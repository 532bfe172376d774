"""What a user agent tells its owner, past tense. `UserAgent.receive` and `UserAgent.tick` give these in order.

Whatever happens, a session ends with exactly one of `Ended`, `Refused` (an outbound call that was not answered)
and `Cancelled` (an inbound call whose caller gave up before the answer); nothing about it comes after that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from offhook.providers.sip.headers import NameAddr
    from offhook.providers.sip.hop import Hop
    from offhook.providers.sip.invite import InviteSession
    from offhook.providers.sip.message import Headers, Request, Response
    from offhook.providers.sip.transaction import ServerTransaction

EndedBy = Literal["caller", "callee", "timer", "transport", "protocol"]
"""Who ended a call. `caller` and `callee` are the two parties (one of them is us: see InviteSession.direction);
`timer`: a session timer or the wait for an ACK ran out; `transport`: the peer cannot be reached any more;
`protocol`: the peer broke the rules in a way that leaves no call."""


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A new request outside any dialog. Nothing has been answered: admit it, challenge it or refuse it.

    An INVITE that is admitted goes to `UserAgent.take_invite`; everything is refused or answered with
    `UserAgent.respond`; `UserAgent.dismiss` answers what is admitted but not served.
    """

    tx: ServerTransaction
    request: Request
    hop: Hop


@dataclass(frozen=True, slots=True)
class Progressed:
    """Outbound: a provisional response other than 100. Several may come, and from several phones (forking)."""

    session: InviteSession
    status: int
    sdp: bytes | None
    "Early media: an answer to our offer, firm if it came reliably, else a preview of the one in Answered."
    headers: Headers


@dataclass(frozen=True, slots=True)
class Answered:
    """Outbound: the call is answered, and acknowledged unless `is_offer`."""

    session: InviteSession
    sdp: bytes | None
    "The answer to our offer (from the 2xx, or what a reliable provisional response brought before)."
    headers: Headers
    is_offer: bool = False
    "We called without an offer: `sdp` is theirs, and InviteSession.acknowledge(answer) must follow at once."


@dataclass(frozen=True, slots=True)
class Refused:
    """Outbound: the call was not answered.

    Without headers, 408 stands for no response, 502 for one that cannot be read, 503 for a peer out of reach.
    """

    session: InviteSession
    status: int
    reason: str
    headers: Headers | None
    "None when no response came."


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Inbound: the caller gave up before the answer. The INVITE has been answered with 487."""

    session: InviteSession
    headers: Headers
    "Of the CANCEL (or early BYE): Reason tells whether another phone has picked up."


@dataclass(frozen=True, slots=True)
class Acked:
    """Inbound: the caller has our answer; the call is up at both ends."""

    session: InviteSession
    sdp: bytes | None
    "The answer to the offer that our 2xx made, for an INVITE that came without one; else None."


@dataclass(frozen=True, slots=True)
class OfferReceived:
    """The peer wants to change the media (re-INVITE, UPDATE, PRACK): InviteSession.answer_offer must follow."""

    session: InviteSession
    sdp: bytes | None
    "None: the peer asks for a full offer of ours; its answer comes as OfferAnswered."


@dataclass(frozen=True, slots=True)
class OfferAnswered:
    """Our offer (InviteSession.offer, or the one that the peer asked for) has been answered.

    A session refresh is reported only when the peer's description differs from the one before.
    """

    session: InviteSession
    sdp: bytes | None
    "None when the offer failed: the media stay as they were."
    status: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over."""

    session: InviteSession
    by: EndedBy
    cause: str
    "The peer's or our Reason (`Q.850;cause=16`), or what happened in words."
    headers: Headers | None
    "Of the BYE, when the peer sent one."


@dataclass(frozen=True, slots=True)
class InfoReceived:
    """An INFO within the call; already answered with 200."""

    session: InviteSession
    body: bytes
    content_type: str
    "Lower case, without parameters: `application/dtmf-relay`."


@dataclass(frozen=True, slots=True)
class ReferReceived:
    """The peer asks us to transfer the call: accept_refer or refuse_refer of the session must follow."""

    session: InviteSession
    tx: ServerTransaction
    target: NameAddr
    "Whom to call: its URI has no headers left."
    replaces: str
    "Value of the Replaces header that the new INVITE must carry (attended transfer), or empty."
    referred_by: str


@dataclass(frozen=True, slots=True)
class ReferProgressed:
    """Our REFER goes on: what the peer says of the call that it makes."""

    session: InviteSession
    status: int
    "Of the new call (100, 180, 200, 486 …), or of the REFER itself when it was refused; 408: nothing heard in time."
    final: bool
    "True exactly once. 202 here means that the peer took over and will report nothing (RFC 4488)."


@dataclass(frozen=True, slots=True)
class RequestDone:
    """The final answer to UserAgent.request; without headers, the status means what it does in `Refused`."""

    id: int
    status: int
    headers: Headers | None
    response: Response | None = None
    "None when no response came."


UaEvent = (
    RequestArrived
    | Progressed
    | Answered
    | Refused
    | Cancelled
    | Acked
    | OfferReceived
    | OfferAnswered
    | Ended
    | InfoReceived
    | ReferReceived
    | ReferProgressed
    | RequestDone
)
