"""Header values: addresses, Via, CSeq, Reason, lists, parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.providers.sip.headers import (
    MAX_AUTH,
    MAX_MARKS,
    BadHeader,
    CSeq,
    NameAddr,
    Reason,
    Via,
    format_params,
    parse_auth,
    parse_number,
    parse_params,
    quote,
    split_list,
    unquote,
)
from offhook.providers.sip.uri import Uri


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("  ", []),
        ("a", ["a"]),
        ("a, b ,c", ["a", "b", "c"]),
        ("a,,b,", ["a", "", "b", ""]),
        ('"x, \\", y" <sip:a,b@c>, <sip:d>', ['"x, \\", y" <sip:a,b@c>', "<sip:d>"]),
        ('"x\\\\", y', ['"x\\\\"', "y"]),
        ('a, "never closed, b', ["a", '"never closed, b']),
        ("<sip:a, b", ["<sip:a, b"]),
        ('<sip:a"b>, c', ['<sip:a"b>', "c"]),
    ],
)
def test_split_list(text: str, pieces: list[str]) -> None:
    assert split_list(text) == pieces


def test_split_list_is_bounded() -> None:
    assert split_list("a,b,c,d", limit=2) == ["a", "b,c,d"]
    assert split_list('"a",b,c,d', limit=3) == ['"a"', "b", "c,d"]
    assert split_list("<>," * MAX_MARKS, limit=1000)[-1] == ""
    assert len(split_list("<>," * (MAX_MARKS + 1), limit=1000)) == 1


@pytest.mark.parametrize(
    ("text", "display", "user", "params"),
    [
        ("sip:a@b;tag=1", "", "a", {"tag": "1"}),
        ("<sip:a@b;lr>;tag=1", "", "a", {"tag": "1"}),
        ('"A \\"B\\" \\\\" <sip:a@b>', 'A "B" \\', "a", {}),
        ("Anna Berg<sip:a@b> ; Tag = x", "Anna Berg", "a", {"tag": "x"}),
        ("Grün <sip:a@b>", "Grün", "a", {}),
        ('<sip:a@b>;x="q;\\"r";lr', "", "a", {"x": 'q;"r', "lr": ""}),
        ('"" <sip:a@b>;', "", "a", {}),
        ("<tel:+1555>", "", "+1555", {}),
        ('"x<y>" <sip:a@b>', "x<y>", "a", {}),
    ],
)
def test_name_addr(text: str, display: str, user: str, params: dict[str, str]) -> None:
    address = NameAddr.parse(text)
    assert (address.display, address.uri.user, dict(address.params)) == (display, user, params)
    again = NameAddr.parse(str(address))
    assert (again, again.params) == (address, address.params)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        '"A <sip:a@b>',
        '"A"',
        '"A" sip:a@b',
        'A "B" <sip:a@b>',
        "<sip:a@b",
        "<sip:a@b> tag=1",
        "sip:a@b?x=y",
        "sip:a,b@c",
        "<sip:a@b>;;tag=1",
        "<sip:a@b>;tag=1;tag=2",
        "<sip:a@b>;tag=a b",
        "<sip:a@b>;tag=1, <sip:c@d>",
        "<sip:a@b>;t<g=1",
        "<>",
        "<sip:a@b>" + "".join(f";p{index}" for index in range(65)),
    ],
)
def test_bad_name_addr(text: str) -> None:
    with pytest.raises(BadHeader):
        NameAddr.parse(text)


def test_tag() -> None:
    address = NameAddr("Ann", Uri("sip", "a", "b"), {})
    assert address.tag == ""
    assert str(address.with_tag("7")) == '"Ann" <sip:a@b>;tag=7'


def test_via() -> None:
    via = Via.parse("SIP/2.0/udp [2001:db8::9]:5070;branch=z9hG4bK1;rport;received=2001:db8::1")
    assert (via.transport, via.host, via.port, via.branch) == ("UDP", "2001:db8::9", 5070, "z9hG4bK1")
    assert via.params["received"] == "2001:db8::1"
    assert str(via) == "SIP/2.0/UDP [2001:db8::9]:5070;branch=z9hG4bK1;rport;received=2001:db8::1"
    assert str(via.with_params(rport="5")).endswith("rport=5;received=2001:db8::1")
    assert Via.parse("SIP / 2.0 / TCP  h : 5060 ; branch = x").port == 5060
    assert Via.parse("SIP/2.0/WSS h").branch == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UDP h",
        "SIP/2.0/UDP",
        "SIP/3.0/UDP h",
        "HTTP/2.0/UDP h",
        "SIP/2.0/U(P h",
        "SIP/2.0/UDP h:x",
        "SIP/2.0/UDP a b",
    ],
)
def test_bad_via(text: str) -> None:
    with pytest.raises(BadHeader):
        Via.parse(text)


def test_cseq() -> None:
    assert CSeq.parse("0009  INVITE") == (9, "INVITE")
    assert str(CSeq(4, "BYE")) == "4 BYE"
    assert CSeq.parse(f"{2**31 - 1} BYE").number == 2**31 - 1


@pytest.mark.parametrize(
    "text", ["", "1", "INVITE", "x INVITE", "-1 BYE", f"{2**31} BYE", "1 B(E", "1 BYE x", "٣ BYE", "9" * 5000 + " BYE"]
)
def test_bad_cseq(text: str) -> None:
    with pytest.raises(BadHeader):
        CSeq.parse(text)


def test_reason() -> None:
    reason = Reason.parse('Q.850 ;cause=16;text="Normal call clearing"')
    assert reason == ("Q.850", 16, "Normal call clearing")
    assert Reason.parse(str(reason)) == reason
    assert str(Reason("Q.850", 17)) == "Q.850;cause=17"
    assert Reason.parse("SIP") == ("SIP", 0, "")
    for text in ("", ";cause=16", "Q.850;cause=x", "Q.850;cause=9999"):
        with pytest.raises(BadHeader):
            Reason.parse(text)


def test_params() -> None:
    assert parse_params("") == {}
    assert parse_params(";a=1;B") == {"a": "1", "b": ""}
    assert parse_params('a="x;y"') == {"a": "x;y"}
    assert format_params({"a": "x y", "b": "", "c": "[::1]:5"}) == ';a="x y";b;c=[::1]:5'
    for text in (";;", "=1", "a b", 'a="x', 'a="x"y', "a=1;a=2", "a=x\x00"):
        with pytest.raises(BadHeader):
            parse_params(text)


def test_auth() -> None:
    assert parse_auth('Digest realm="a, b", nonce=x ,qop="auth,auth-int"') == (
        "digest",
        {"realm": "a, b", "nonce": "x", "qop": "auth,auth-int"},
    )
    assert parse_auth("Bearer") == ("bearer", {})
    for text in (
        "Digest a=" + "b" * MAX_AUTH,
        "",
        "   ",
        "Di(gest a=b",
        "Digest =b",
        'Digest a="b',
        "Digest a=b, Digest c=d",
    ):
        with pytest.raises(BadHeader):
            parse_auth(text)


def test_number() -> None:
    assert parse_number("0068", 256, "it") == 68
    for text in ("", "+1", "1.5", "256", " 1", "1" * 21):
        with pytest.raises(BadHeader, match="it is not"):
            parse_number(text, 256, "it")


@given(st.text(max_size=30))
def test_quotes_both_ways(text: str) -> None:
    plain = "".join(sign for sign in text if sign >= " " and sign != "\x7f")
    assert unquote(quote(text)) == plain


@given(st.text(max_size=20), st.dictionaries(st.text("ab-", min_size=1, max_size=3), st.text(max_size=6), max_size=3))
def test_what_is_written_is_read_back(display: str, params: dict[str, str]) -> None:
    plain = {name: "".join(sign for sign in value if sign >= " " and sign != "\x7f") for name, value in params.items()}
    address = NameAddr(display, Uri("sip", "a", "b"), params)
    read = NameAddr.parse(str(address))
    assert (read.uri.user, dict(read.params)) == ("a", plain)


@given(st.text('"\\<>;,=:@?[]% ax1\t', max_size=40), st.sampled_from(["", "sip:", "SIP/2.0/UDP "]))
def test_anything_is_read_or_refused(text: str, start: str) -> None:
    for read in (NameAddr.parse, Via.parse, CSeq.parse, Reason.parse, parse_params, parse_auth, unquote):
        try:
            read(start + text)
        except BadHeader:
            continue
