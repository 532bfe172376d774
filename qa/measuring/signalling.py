"""Whether a call's signalling went as it should, by its ladder."""

from __future__ import annotations

from offhook.qa.phones.base import CallLog, Rung


def retransmissions(log: CallLog) -> int | None:
    """SIP messages that either side sent again; None where there is no ladder of SIP."""
    return sum(rung.again for rung in log.ladder) if log.way == "sip" and log.ladder else None


def complete(log: CallLog) -> int | None:
    """1: everything that RFC 3261 asks for was there, 0: something was missing; None without a ladder of SIP.

    Of an answered call: INVITE, its 2xx, ACK, a BYE of either side and its final answer (section 15). Of a refused one:
    INVITE, the final status and its ACK (17.1.1.3). A cancelled one: CANCEL and its answer besides (section 9).
    """
    if log.way != "sip" or not log.ladder:
        return None
    sent = any(_request(rung, "INVITE") and rung.out for rung in log.ladder)
    final = any(_final(rung, "INVITE") and not rung.out for rung in log.ladder)
    acknowledged = any(_request(rung, "ACK") and rung.out for rung in log.ladder)
    closed = all(_answered(log.ladder, method) for method in ("BYE", "CANCEL"))
    if log.answered:
        closed = closed and any(_request(rung, "BYE") for rung in log.ladder)
    return int(sent and final and acknowledged and closed)


def _request(rung: Rung, method: str) -> bool:
    return rung.title.split(" ", 1)[0] == method


def _final(rung: Rung, method: str) -> bool:
    """Whether it is a final answer to such a request, as far as its message tells."""
    status = rung.title.split(" ", 1)[0]
    if not (status.isdigit() and 200 <= int(status) <= 699):
        return False
    sequence = next((line for line in rung.text.splitlines() if line.lower().startswith("cseq:")), "")
    return not sequence or sequence.rstrip().endswith(" " + method)


def _answered(ladder: list[Rung], method: str) -> bool:
    """Whether every direction in which the request went saw a final answer come back afterwards."""
    for out in (True, False):
        asked = next((n for n, rung in enumerate(ladder) if rung.out == out and _request(rung, method)), None)
        if asked is not None and not any(rung.out != out and _final(rung, method) for rung in ladder[asked + 1 :]):
            return False
    return True
