"""A peer's messages and ours for tests of SIP transactions, and a clock that runs from timer to timer."""

from __future__ import annotations

from itertools import count

from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Headers, Request, Response, parse, respond
from offhook.providers.sip.transaction import (
    ClientTransaction,
    RequestReceived,
    ServerTransaction,
    Transactions,
    TxEvent,
)

PEER = Hop("udp", "192.0.2.9", 5060, "192.0.2.1", 5060)
TCP_PEER = PEER._replace(transport="tcp", port=40123)


def transactions() -> Transactions:
    numbers = count(1)
    return Transactions(new_branch=lambda: f"z9hG4bK{next(numbers)}")


def asked(
    method: str = "INVITE", *, branch: str = "z9hG4bKpeer", via: str = "", to_tag: str = "", cseq: int = 1
) -> Request:
    """What the peer sends."""
    to = f"<sip:agent@192.0.2.1>{f';tag={to_tag}' if to_tag else ''}"
    headers = Headers(
        [
            ("Via", via or f"SIP/2.0/UDP 192.0.2.9:5060;branch={branch};rport"),
            ("From", "<sip:caller@192.0.2.9>;tag=f1"),
            ("To", to),
            ("Call-ID", "one@192.0.2.9"),
            ("CSeq", f"{cseq} {method}"),
            ("Contact", "<sip:caller@192.0.2.9>"),
        ]
    )
    return Request(method, "sip:agent@192.0.2.1", headers)


def ours(method: str = "INVITE") -> Request:
    """What we want to send."""
    headers = Headers(
        [
            ("Route", "<sip:proxy@192.0.2.7;lr>"),
            ("From", "<sip:agent@192.0.2.1>;tag=a1"),
            ("To", "<sip:callee@192.0.2.9>"),
            ("Call-ID", "two@192.0.2.1"),
            ("CSeq", f"7 {method}"),
        ]
    )
    return Request(method, "sip:callee@192.0.2.9", headers)


def sent(txs: Transactions) -> list[str]:
    """Drain the outbox: the first word or the status of each message."""
    lines = [data.split(b"\r\n")[0].decode().split() for data, _ in txs.outbox]
    txs.outbox.clear()
    return [line[1] if line[0] == "SIP/2.0" else line[0] for line in lines]


def begun(events: object) -> ServerTransaction:
    assert isinstance(events, tuple)
    (event,) = events
    assert isinstance(event, RequestReceived)
    return event.tx


def answer(tx: ClientTransaction, status: int, tag: str = "b1") -> Response:
    """What the peer answers us, as it would come off the wire."""
    message = parse(respond(tx.request, status, to_tag=tag).encode())
    assert isinstance(message, Response)
    return message


def run(txs: Transactions, until: float) -> tuple[list[tuple[float, str]], list[TxEvent]]:
    """Tick at every timer: what was sent when, and the events."""
    wire: list[tuple[float, str]] = []
    events: list[TxEvent] = []
    while (at := txs.next_timer()) is not None and at <= until:
        events += txs.tick(at)
        wire += [(at, what) for what in sent(txs)]
    return wire, events
