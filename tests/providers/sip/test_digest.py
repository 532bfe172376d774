"""Digest authentication: both sides, against each other and against known digests."""

from __future__ import annotations

import itertools

import pytest

from offhook.providers.sip.digest import (
    SUPPORTED,
    BadChallenge,
    Credentials,
    Nonces,
    answer,
    challenge,
    is_stale,
    response_of,
    verify,
)
from offhook.providers.sip.headers import BadHeader, parse_auth

REALM, NONCE, URI = "gw.example.net", "n0nce1234", "sip:+15550001111@trunk.example.net"
SECRET = b"0123456789abcdef"


def password_of(user: str, realm: str) -> str | None:
    return {("agent", REALM): "s3cret"}.get((user, realm))


def answered(challenges: list[str], **more: object) -> str:
    options = {"cnonce": "c0ffee", "count": 1, **more}
    return answer(challenges, "INVITE", URI, "agent", "s3cret", **options)  # type: ignore[arg-type]


def nonces(life: float = 300.0, max_used: int = 10) -> Nonces:
    counter = itertools.count()
    return Nonces(SECRET, life, random_bytes=lambda size: next(counter).to_bytes(size), max_used=max_used)


@pytest.mark.parametrize(
    ("algorithm", "qop", "digest"),
    [
        ("MD5", ', qop="auth"', "8f9e163548011a6ae07cc6741bead0e6"),
        ("SHA-256", ', qop="auth"', "d518a7d69d3854b6cd1a04f68c468b47df3c88dee4812ea51842d80a2e34f710"),
        ("MD5", "", "ee6e61df60b1f9702aef589fe58de044"),
    ],
)
def test_known_digests(algorithm: str, qop: str, digest: str) -> None:
    value = answered([f'Digest realm="{REALM}", nonce="{NONCE}", algorithm={algorithm}{qop}'])
    assert f'response="{digest}"' in value
    assert verify(value, "INVITE", URI, password_of, realm=REALM) == "agent"


def test_rfc_7616_example() -> None:
    """Section 3.9.1: Mufasa's request for /dir/index.html, with both algorithms."""
    for algorithm, digest in [
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
    ]:
        made = Credentials(
            "Mufasa",
            "http-auth@example.org",
            "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            "/dir/index.html",
            "",
            algorithm,
            "auth",
            "00000001",
            "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        )
        assert response_of(made, "GET", "Circle of Life") == digest


def test_what_is_quoted() -> None:
    value = answered([f'Digest realm="{REALM}", nonce="{NONCE}", opaque="o=1", algorithm=MD5, qop="auth,auth-int"'])
    assert value.startswith(f'Digest username="agent", realm="{REALM}", nonce="{NONCE}", uri="{URI}", response="')
    assert value.endswith(', algorithm=MD5, qop=auth, nc=00000001, cnonce="c0ffee", opaque="o=1"')
    assert "nc=0000001f" in answered(challenge(REALM, NONCE), count=31)
    assert (Credentials.parse(value).count, Credentials.parse(value).nc) == (1, "00000001")
    bare = answered([f'Digest realm="{REALM}", nonce="{NONCE}"'])
    assert Credentials.parse(bare).count == 0
    assert not any(word in bare for word in ("algorithm", "qop", "nc=", "cnonce", "opaque"))
    assert len(parse_auth(answered(challenge(REALM, NONCE), cnonce=""))[1]["cnonce"]) == 16


def test_both_sides_for_every_algorithm() -> None:
    for algorithm in SUPPORTED:
        offered = challenge(REALM, NONCE, [algorithm])
        value = answered(offered)
        for text in (value, Credentials.parse(value)):
            assert verify(text, "INVITE", URI, password_of, algorithms=SUPPORTED) == "agent"
            assert verify(text, "BYE", URI, password_of, algorithms=SUPPORTED) is None
        protected = answered([offered[0].replace('"auth"', '"auth-int"')], body=b"v=0")
        assert verify(protected, "INVITE", URI, password_of, algorithms=SUPPORTED, body=b"v=0") == "agent"
        assert verify(protected, "INVITE", URI, password_of, algorithms=SUPPORTED, body=b"v=1") is None


def test_the_strongest_challenge_is_answered() -> None:
    assert [parse_auth(text)[1]["algorithm"] for text in challenge(REALM, NONCE)] == ["SHA-256", "MD5"]
    for offered in (challenge(REALM, NONCE), challenge(REALM, NONCE)[::-1]):
        assert "algorithm=SHA-256," in answered(offered)
    strange = ["Basic realm=x", 'Digest "', 'Digest realm="x", nonce="y", algorithm=SHA-512-256']
    assert "algorithm=MD5," in answered([*strange, *challenge(REALM, NONCE, ["MD5"])])
    for hopeless in ([], strange, ["Digest realm=x"], ['Digest nonce="x", qop="token"']):
        with pytest.raises(BadChallenge):
            answered(hopeless)


def test_stale() -> None:
    assert is_stale(challenge(REALM, NONCE, stale=True))
    assert not is_stale([*challenge(REALM, NONCE), 'Digest "'])


def test_nobody_else_gets_in() -> None:
    value = answered(challenge(REALM, NONCE))
    assert verify(value, "INVITE", URI, lambda user, realm: None) is None
    assert verify(value, "INVITE", URI, lambda user, realm: "") is None
    assert verify(value, "INVITE", URI, lambda user, realm: "wrong") is None
    assert verify(value, "INVITE", URI, password_of, realm="other") is None
    assert verify(value, "INVITE", URI, password_of, algorithms=["MD5"]) is None
    assert verify(value, "INVITE", "sip:+15550002222@trunk.example.net", password_of) is None
    assert verify(value, "INVITE", "nonsense", password_of) is None
    assert verify(value.replace('response="', 'response="ü'), "INVITE", URI, password_of) is None
    assert verify("Digest nonsense", "INVITE", URI, password_of) is None
    unknown = answer(challenge(REALM, NONCE), "INVITE", URI, "nobody", "", cnonce="c")
    assert verify(unknown, "INVITE", URI, password_of) is None


def test_a_proxy_may_change_port_and_parameters() -> None:
    value = answered(challenge(REALM, NONCE))
    assert verify(value, "INVITE", f"{URI}:5060;transport=udp", password_of) == "agent"


def test_names_outside_ascii_and_quotes() -> None:
    offered = challenge('a "b" \\', NONCE, ["SHA-256"])
    value = answer(offered, "REGISTER", URI, 'jö"rg', "pässword", cnonce="c")
    assert verify(value, "REGISTER", URI, lambda user, realm: "pässword", realm='a "b" \\') == 'jö"rg'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Digest", "Basic"),
        ('username="agent", ', ""),
        (", nc=00000001", ""),
        ("nc=00000001", "nc=0000000g"),
        ("nc=00000001", "nc=1"),
        ("nc=00000001", "nc=+0000001"),
        (', cnonce="c0ffee"', ""),
        ("qop=auth", "qop=token"),
        ("algorithm=SHA-256", "algorithm=SHA-1"),
    ],
)
def test_credentials_that_are_refused(old: str, new: str) -> None:
    value = answered(challenge(REALM, NONCE))
    assert old in value
    with pytest.raises(BadHeader):
        Credentials.parse(value.replace(old, new))
    assert verify(value.replace(old, new), "INVITE", URI, password_of) is None


def test_a_nonce_lives_and_dies() -> None:
    mine = nonces(life=30.0)
    nonce = mine.make(100.0)
    assert mine.make(100.0) != nonce
    assert mine.check(nonce, 1, 100.0) == "ok"
    assert mine.check(nonce, 2, 130.0) == "ok"
    assert mine.check(nonce, 3, 130.1) == "stale"
    assert mine.check(mine.make(200.0), 1, 100.0) == "stale"  # not made yet: another clock's


def test_a_count_is_good_once() -> None:
    mine = nonces()
    nonce = mine.make(0.0)
    assert [mine.check(nonce, count, 1.0) for count in (1, 1, 5, 3, 6)] == ["ok", "stale", "ok", "stale", "ok"]
    bare = mine.make(0.0)
    assert [mine.check(bare, 0, 1.0) for _ in range(2)] == ["ok", "stale"]  # a client that does not count


def test_the_table_is_bounded_and_forgets_safely() -> None:
    mine = nonces(max_used=3)
    used = [mine.make(float(index)) for index in range(5)]
    unused = mine.make(0.5)
    assert [mine.check(nonce, 1, 5.0) for nonce in used] == ["ok"] * 5
    assert [mine.check(nonce, 1, 5.0) for nonce in used] == ["stale"] * 5  # forgotten or not, none works twice
    assert mine.check(used[4], 2, 5.0) == "ok"
    assert mine.check(unused, 1, 5.0) == "stale"  # as old as one that was forgotten
    assert mine.check(mine.make(5.0), 1, 5.0) == "ok"


def test_nonces_that_are_not_ours() -> None:
    mine, nonce = nonces(), nonces().make(1.0)
    assert mine.check(nonce, 1, 1.0) == "ok"
    swapped = ("A" if nonce[0] != "A" else "B") + nonce[1:]
    for other in ("", "x", "ü", nonce[:-4], nonce + "AAAA", swapped, "A" * 1000, NONCE):
        assert mine.check(other, 1, 1.0) == "bad"
    assert Nonces(b"fedcba9876543210").check(nonce, 1, 1.0) == "bad"
    with pytest.raises(ValueError, match="16 bytes"):
        Nonces(b"short")


def test_a_response_that_is_no_text_is_refused() -> None:
    line = 'Digest username="agent", realm="r", nonce="n", uri="sip:d", response="85cb\udcb8"'
    assert verify(line, "INVITE", "sip:d", lambda user, realm: "s3cret") is None
