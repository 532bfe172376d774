"""The small parsers of calls: whatever comes, a result or BadMessage, and soon."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.sip.message import BadMessage, Headers, Request, Response
from offhook.providers.sip.reliable import ReliableReceiver, parse_rack
from offhook.providers.sip.session_timer import parse_min_se, parse_session_expires
from offhook.providers.sip.transfer import Replaces, parse_refer_to, parse_sipfrag


def header(name: str, value: str) -> Headers:
    return Headers([(name, value)])


PARSERS: list[Callable[[str], object]] = [
    parse_session_expires,
    lambda text: parse_min_se(header("Min-SE", text)),
    lambda text: parse_rack(Request("PRACK", "sip:a@b", header("RAck", text))),
    lambda text: ReliableReceiver().take(Response(180, "", header("RSeq", text))),
    Replaces.parse,
    lambda text: parse_refer_to(Request("REFER", "sip:a@b", header("Refer-To", text))),
    lambda text: parse_sipfrag(text.encode()),
]
WORDS = (
    "1800", "90", ";", "refresher=uac", "to-tag=1", "from-tag=2", "call@x", "<", ">", "sip:a@b", "?Replaces=c%3B", '"',
    "SIP/2.0", "200", "INVITE", "=", "%", "early-only", "²", "-1", "99999999999999999999", ",", " ", "\t",
)  # fmt: skip
PIECES = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=PIECES | st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=60))
def test_closed_list_of_outcomes(parse: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(BadMessage):
        parse(text)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("unit", [";", ";a", '"', "<", "a=b;", "%3B", "1 ", " ", ";to-tag="])
def test_long_values_are_read_quickly(parse: Callable[[str], object], unit: str) -> None:
    text = (unit * 8192)[:8192]
    start = time.process_time()
    with contextlib.suppress(BadMessage):
        parse(text)
    assert time.process_time() - start < 0.05
