"""The doorman: who is let in, what strangers get, and what they may cost."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import pytest

from offhook.providers.sip.digest import Nonces, answer
from offhook.providers.sip.hop import Hop
from offhook.providers.sip.message import Headers, Request
from offhook.providers.sip.settings import SipSettings
from offhook.providers.sip.trunks import Admitted, Challenge, Doorman, Dropped, Refused, Slot, Verdict

TARGET = "sip:+15550100@gw.example.net"
LIMITS = {
    "stranger_requests_per_second": 2,
    "strangers_per_second": 10,
    "failures": 3,
    "block": 100,
    "failure_window": 60,
}


def doorman(trunks: dict[str, Any], *, tables: int = 100, **settings: Any) -> Doorman:
    section = SipSettings.model_validate({"trunks": trunks, "limits": LIMITS} | settings)
    counter = iter(range(10**9))
    nonces = Nonces(b"n" * 32, random_bytes=lambda size: next(counter).to_bytes(size))
    return Doorman(section, nonces, secret=b"s" * 32, max_sources=tables)


def invite(method: str = "INVITE", *, uri: str = TARGET, agent: str = "", credentials: str | list[str] = "") -> Request:
    headers = Headers([("From", "<sip:a@b>;tag=1"), ("To", f"<{uri}>"), ("Call-ID", "x"), ("CSeq", f"1 {method}")])
    if agent:
        headers.add("User-Agent", agent)
    for one in [credentials] if isinstance(credentials, str) else credentials:
        if one:
            headers.add("Authorization", one)
    return Request(method, uri, headers)


def hop(host: str = "192.0.2.10", port: int = 5060) -> Hop:
    return Hop("udp", host, port)


def challenges(verdict: Verdict) -> list[str]:
    assert isinstance(verdict, Challenge)
    assert {name for name, _ in verdict.headers} == {"WWW-Authenticate"}
    return [value for _, value in verdict.headers]


def login(
    door: Doorman, user: str, password: str, host: str = "192.0.2.10", now: float = 0.0, **request: Any
) -> Verdict:
    """Ask, be challenged, answer."""
    asked = challenges(door.admit(invite(**request), hop(host), now))
    credentials = answer(asked, request.get("method", "INVITE"), TARGET, user, password)
    return door.admit(invite(credentials=credentials, **request), hop(host), now)


PBX = {"sources": ["192.0.2.0/28", "2001:db8:1::/48"]}
AGENT = {"auth": "digest", "username": "agent", "password": "s3cret"}
BOTH = {"auth": "both", "username": "carrier", "password": "pw", "sources": ["198.51.100.0/24"]}


# --- by address --------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["192.0.2.10", "192.0.2.0", "::ffff:192.0.2.10", "2001:db8:1::7", "2001:db8:1::7%eth0"]
)
def test_an_address_on_the_list(host: str) -> None:
    door = doorman({"pbx": PBX})
    verdict = door.admit(invite(), hop(host), 0.0)
    assert isinstance(verdict, Admitted)
    assert verdict.trunk == "pbx"
    assert verdict.settings.sources
    assert isinstance(verdict.slot, Slot)
    assert door.knows(host)


@pytest.mark.parametrize("host", ["192.0.2.16", "192.0.3.1", "2001:db8:2::1", "::ffff:192.0.2.16"])
def test_an_address_of_no_trunk_gets_403(host: str) -> None:
    door = doorman({"pbx": PBX})
    assert door.admit(invite(), hop(host), 0.0) == Refused(403, "Forbidden")
    assert not door.knows(host)


def test_or_nothing_at_all() -> None:
    door = doorman({"pbx": PBX}, strangers="drop")
    assert door.admit(invite(), hop("203.0.113.1"), 0.0) == Dropped("stranger")


def test_without_trunks_nobody_comes_in() -> None:
    door = doorman({})
    assert door.admit(invite(), hop(), 0.0) == Refused(403, "Forbidden")


def test_a_host_that_is_no_address() -> None:
    assert doorman({"pbx": PBX}).admit(invite(), hop("pbx.example.net"), 0.0) == Dropped("stranger")
    assert not doorman({"pbx": PBX}).knows("pbx.example.net")


def test_the_smallest_network_counts() -> None:
    door = doorman(
        {
            "wide": {"sources": ["192.0.0.0/16"]},
            "narrow": {"sources": ["192.0.2.0/24"]},
            "one": {"sources": ["192.0.2.7"]},
            "all": {"sources": ["0.0.0.0/0"]},
        }
    )

    def trunk(host: str) -> str:
        verdict = door.admit(invite(), hop(host), 0.0)
        assert isinstance(verdict, Admitted)
        return verdict.trunk

    assert [trunk(host) for host in ("192.0.2.7", "192.0.2.8", "192.0.3.1", "203.0.113.1")] == [
        *("one", "narrow", "wide", "all")
    ]


def test_a_registrar_may_call_what_registered() -> None:
    one = {"register": {"registrars": ["pbx.example.net"], "user": "100"}}
    two = {"register": {"registrars": ["pbx.example.net"]}, "username": "200", "password": "x"}
    door = doorman({"one": one, "two": two, "pbx": PBX})
    assert isinstance(door.admit(invite(), hop("203.0.113.5"), 0.0), Refused)
    door.learn("one", ["203.0.113.5", "192.0.2.1", "no-address"])
    door.learn("two", ["203.0.113.5"])

    def trunk(host: str, uri: str) -> str:
        verdict = door.admit(invite(uri=uri), hop(host), 0.0)
        return verdict.trunk if isinstance(verdict, Admitted) else ""

    # one address, two extensions: the one that is called counts, and the first where that says nothing
    assert trunk("203.0.113.5", "sip:200@gw") == "two"
    assert trunk("203.0.113.5", "sip:100@gw;ob") == "one"
    assert trunk("203.0.113.5", "sip:300@gw") == "one"
    assert trunk("203.0.113.5", "nonsense") == "one"
    assert trunk("192.0.2.1", "sip:100@gw") == "pbx"  # the configuration goes before
    door.learn("one", ["203.0.113.6"])
    assert trunk("203.0.113.5", "sip:100@gw") == "two"
    door.learn("two", [])
    assert trunk("203.0.113.5", "sip:200@gw") == ""
    assert door.knows("203.0.113.6")


# --- by password -------------------------------------------------------------------


def test_the_right_password() -> None:
    door = doorman({"agents": AGENT, "pbx": PBX})
    verdict = login(door, "agent", "s3cret", "203.0.113.9")
    assert isinstance(verdict, Admitted)
    assert verdict.trunk == "agents"
    assert door.calls("agents") == door.calls() == 1


def test_the_challenge() -> None:
    values = challenges(doorman({"agents": AGENT}, realm="gw").admit(invite(), hop(), 0.0))
    assert [value.partition("algorithm=")[2].partition(",")[0] for value in values] == ["SHA-256", "MD5"]
    assert all(value.startswith('Digest realm="gw", nonce="') for value in values)
    # nothing to amplify: two headers shorter than any INVITE with SDP
    assert sum(len(value) for value in values) < 450


def test_a_peer_that_knows_only_md5() -> None:
    old = AGENT | {"username": "old", "digest": ["MD5"]}
    door = doorman({"old": old, "new": AGENT | {"realm": "new", "digest": ["SHA-256"]}})
    values = challenges(door.admit(invite(), hop(), 0.0))
    assert [value.partition("algorithm=")[2].partition(",")[0] for value in values] == ["MD5", "SHA-256"]
    proof = answer(values[:1], "INVITE", TARGET, "old", "s3cret")
    assert isinstance(door.admit(invite(credentials=proof), hop(), 0.0), Admitted)
    forged = [value.replace("SHA-256", "MD5") for value in values if 'realm="new"' in value]
    proof = answer(forged, "INVITE", TARGET, "agent", "s3cret")
    assert challenges(door.admit(invite(credentials=proof), hop(), 0.0))  # SHA-256 cannot be talked down


def test_a_realm_offers_what_all_its_trunks_take() -> None:
    door = doorman({"new": AGENT, "old": AGENT | {"username": "old", "digest": ["MD5"]}})
    [value] = challenges(door.admit(invite(), hop(), 0.0))
    assert "algorithm=MD5" in value
    with pytest.raises(ValueError, match=r"old: trunks of realm 'offhook' share no algorithm under `digest`"):
        doorman({"new": AGENT | {"digest": ["SHA-256"]}, "old": AGENT | {"username": "old", "digest": ["MD5"]}})


def test_unknown_users_and_wrong_passwords_look_the_same() -> None:
    def blank(verdict: Verdict) -> list[str]:
        return [re.sub('nonce="[^"]*"', "", value) for value in challenges(verdict)]

    door = doorman({"agents": AGENT})
    assert blank(login(door, "agent", "wrong")) == blank(login(door, "nobody", "wrong"))
    assert blank(login(door, "nobody", "", "203.0.113.78")) == blank(door.admit(invite(), hop("203.0.113.77"), 5.0))


def test_who_gave_a_wrong_password_is_told() -> None:
    door = doorman({"agents": AGENT})
    first = door.admit(invite(), hop(), 0.0)
    assert isinstance(first, Challenge)
    assert first.wrong is None
    for verdict in (login(door, "agent", "wrong", now=2.0), login(door, "nobody", "wrong", now=4.0)):
        assert isinstance(verdict, Challenge)
        assert verdict.wrong in ("agent", "nobody")
    assert login(door, "agent", "wrong", now=6.0) == Dropped("blocked", "agent")  # LIMITS has three


def test_both_needs_both() -> None:
    door = doorman({"carrier": BOTH, "agents": AGENT})
    verdict = login(door, "carrier", "pw", "198.51.100.3")
    assert isinstance(verdict, Admitted)
    assert verdict.trunk == "carrier"
    assert isinstance(login(door, "carrier", "pw", "203.0.113.3"), Challenge)
    verdict = login(door, "agent", "s3cret", "198.51.100.3")
    assert isinstance(verdict, Admitted)
    assert verdict.trunk == "agents"


def test_an_address_of_the_list_needs_no_password_and_is_not_asked() -> None:
    door = doorman({"agents": AGENT, "pbx": PBX})
    verdict = door.admit(invite(credentials="Digest nonsense"), hop(), 0.0)
    assert isinstance(verdict, Admitted)
    assert verdict.trunk == "pbx"


def test_trunks_with_realms_of_their_own() -> None:
    door = doorman({"a": AGENT | {"realm": "one"}, "b": AGENT | {"realm": "two", "password": "other"}})
    values = challenges(door.admit(invite(), hop(), 0.0))
    assert [value.partition(",")[0] for value in values] == ['Digest realm="one"'] * 2 + ['Digest realm="two"'] * 2
    mine = [value for value in values if '"two"' in value]
    stranger = answer(['Digest realm="three", nonce="x", qop="auth"'], "INVITE", TARGET, "agent", "other")
    verdict = door.admit(
        invite(credentials=["Basic x", stranger, answer(mine, "INVITE", TARGET, "agent", "other")]), hop(), 0.0
    )
    assert isinstance(verdict, Admitted)
    assert verdict.trunk == "b"


def test_credentials_are_good_for_one_request() -> None:
    door = doorman({"agents": AGENT})
    values = challenges(door.admit(invite(), hop(), 0.0))
    credentials = answer(values, "INVITE", TARGET, "agent", "s3cret")
    assert isinstance(door.admit(invite(credentials=credentials), hop(), 0.0), Admitted)
    again = challenges(door.admit(invite(credentials=credentials), hop(), 1.0))
    assert all("stale=true" in value for value in again)
    next_count = answer(values, "INVITE", TARGET, "agent", "s3cret", count=2)
    assert isinstance(door.admit(invite(credentials=next_count), hop(), 2.0), Admitted)
    old = answer(values, "INVITE", TARGET, "agent", "s3cret", count=3)
    assert all("stale=true" in value for value in challenges(door.admit(invite(credentials=old), hop(), 1e6)))


def test_credentials_of_another_method_or_number() -> None:
    door = doorman({"agents": AGENT})
    values = challenges(door.admit(invite(), hop(), 0.0))
    assert isinstance(
        door.admit(invite(credentials=answer(values, "OPTIONS", TARGET, "agent", "s3cret")), hop(), 0.0), Challenge
    )
    elsewhere = answer(values, "INVITE", "sip:+15559999@gw.example.net", "agent", "s3cret")
    assert isinstance(door.admit(invite(credentials=elsewhere), hop(), 0.0), Challenge)


@pytest.mark.parametrize("nonce", ["", ".", "x", "x.y", "é.é", "ü" * 3000 + ".x"])
def test_nonces_that_are_not_ours_cost_no_hashing_and_no_failure(nonce: str) -> None:
    door = doorman({"agents": AGENT}, limits=LIMITS | {"stranger_requests_per_second": 50})
    forged = answer([f'Digest realm="offhook", nonce="{nonce}", qop="auth"'], "INVITE", TARGET, "agent", "s3cret")
    for _ in range(5):
        assert isinstance(door.admit(invite(credentials=forged), hop("203.0.113.1"), 0.0), Challenge)


# --- abuse -------------------------------------------------------------------------


def test_a_flood_of_invites_without_password_opens_nothing() -> None:
    """1,500 INVITEs never acknowledged: no slot, so no socket; a handful of answers; tables that do not grow."""
    door = doorman({"agents": AGENT, "pbx": PBX})
    told = Counter(type(door.admit(invite(), hop(f"203.0.{n // 250}.{n % 250}"), 0.0)).__name__ for n in range(1500))
    assert told == {"Challenge": 10, "Dropped": 1490}
    assert door.calls() == 0
    assert sorted({len(table) for table in _tables(door)}) == [0, 100]


def test_one_address_is_answered_twice_a_second() -> None:
    door = doorman({"agents": AGENT})
    told = Counter(str(door.admit(invite(), hop("203.0.113.1"), n / 100)).partition("(")[0] for n in range(300))
    assert 6 <= told["Challenge"] <= 8
    assert told["Challenge"] + told["Dropped"] == 300
    # and it used up nothing of what is there for all
    assert isinstance(door.admit(invite(), hop("203.0.113.2"), 3.0), Challenge)


def test_a_flood_does_not_shut_out_who_has_logged_in() -> None:
    door = doorman({"agents": AGENT, "pbx": PBX}, tables=10_000)
    assert isinstance(login(door, "agent", "s3cret", "198.51.100.9", now=0.0), Admitted)
    for n in range(500):
        door.admit(invite(), hop(f"203.0.{n // 250}.{n % 250}"), 10.0)
    assert door.admit(invite(), hop("203.0.113.250"), 10.0) == Dropped("flood")
    assert isinstance(login(door, "agent", "s3cret", "198.51.100.9", now=10.0), Admitted)
    assert isinstance(door.admit(invite(), hop(), 10.0), Admitted)


def test_who_was_challenged_may_answer_in_the_midst_of_a_flood() -> None:
    door = doorman({"agents": AGENT})
    values = challenges(door.admit(invite(), hop("198.51.100.9"), 0.0))
    for n in range(200):
        door.admit(invite(), hop(f"203.0.113.{n}"), 0.0)
    credentials = answer(values, "INVITE", TARGET, "agent", "s3cret")
    assert isinstance(door.admit(invite(credentials=credentials), hop("198.51.100.9"), 0.0), Admitted)


def test_guessing_passwords_is_ended() -> None:
    door = doorman({"agents": AGENT})
    told = [type(login(door, "agent", f"guess{n}", now=float(n))).__name__ for n in range(3)]
    assert told == ["Challenge", "Challenge", "Dropped"]
    values = challenges(door.admit(invite(), hop("203.0.113.1"), 3.0))
    right = answer(values, "INVITE", TARGET, "agent", "s3cret")
    assert door.admit(invite(credentials=right), hop(), 3.0) == Dropped("blocked")
    assert door.admit(invite(), hop(), 101.0) == Dropped("blocked")
    assert isinstance(login(door, "agent", "s3cret", now=103.0), Admitted)


def test_guessing_many_users_is_one_guesser() -> None:
    door = doorman({"agents": AGENT})
    assert [type(login(door, f"10{n}", "x", now=float(n))) for n in range(3)] == [Challenge, Challenge, Dropped]


def test_a_mistake_now_and_then_is_forgotten() -> None:
    door = doorman({"agents": AGENT})
    for n in range(10):
        assert isinstance(login(door, "agent", "typo", now=n * 61.0), Challenge)


def test_ipv6_is_counted_by_customer() -> None:
    door = doorman({"agents": AGENT})
    for n in range(3):
        login(door, "agent", "x", f"2001:db8:0:1::{n}", now=float(n))
    assert door.admit(invite(), hop("2001:db8:0:1::ffff"), 3.0) == Dropped("blocked")
    assert isinstance(door.admit(invite(), hop("2001:db8:0:2::1"), 3.0), Challenge)


def test_nobody_gets_another_blocked() -> None:
    """Wrong passwords under a forged address need a nonce that was sent to that address."""
    door = doorman({"agents": AGENT})
    mine = challenges(door.admit(invite(), hop("203.0.113.66"), 0.0))
    wrong = answer(mine, "INVITE", TARGET, "agent", "wrong")
    for n in range(20):
        assert isinstance(door.admit(invite(credentials=wrong), hop("198.51.100.9"), float(n)), Challenge)
    assert isinstance(login(door, "agent", "s3cret", "198.51.100.9", now=21.0), Admitted)


def test_addresses_of_the_list_are_never_blocked() -> None:
    door = doorman({"agents": AGENT, "pbx": PBX})
    for n in range(10):
        verdict = door.admit(invite(credentials='Digest username="x"'), hop(), float(n))
        assert isinstance(verdict, Admitted)


@pytest.mark.parametrize("agent", ["friendly-scanner", "SIPVicious 0.3", "x sipcli/v1.8 y"])
def test_scanners_get_no_answer(agent: str) -> None:
    door = doorman({"agents": AGENT, "pbx": PBX})
    assert door.admit(invite("OPTIONS", agent=agent), hop("203.0.113.1"), 0.0) == Dropped("scanner")
    assert isinstance(door.admit(invite(agent=agent), hop(), 0.0), Admitted)
    assert isinstance(door.admit(invite(agent="x" * 300 + agent), hop("203.0.113.1"), 0.0), Challenge)


def test_tables_keep_their_size_through_every_kind_of_abuse() -> None:
    door = doorman({"agents": AGENT}, limits=LIMITS | {"strangers_per_second": 1e6, "failures": 2}, tables=50)
    for n in range(300):
        host = f"203.0.{n // 250}.{n % 250}"
        login(door, "agent", "s3cret" if n % 3 else "wrong", host)
        if n % 3 == 0:
            login(door, "agent", "wrong", host)
    assert [len(table) <= 50 for table in _tables(door)] == [True] * 6


def test_a_dropped_request_costs_little() -> None:
    door = doorman({"agents": AGENT, "pbx": PBX})
    requests = [(invite(), hop(f"203.0.{n // 250}.{n % 250}")) for n in range(1000)]
    began = time.perf_counter()
    for request, source in requests:
        door.admit(request, source, 0.0)
    assert (time.perf_counter() - began) / 1000 < 0.5e-3  # some ten microseconds; a slow machine is a slow machine


def test_credentials_of_any_length_are_judged_quickly() -> None:
    door = doorman({"agents": AGENT})
    monsters = [
        "Digest " + ",".join(f"p{n}=1" for n in range(5000)),
        'Digest username="' + "\\" * 60_000,
        "Digest " + 'a="b",' * 9000,
        "Digest realm=" + "x" * 60_000,
    ]
    began = time.perf_counter()
    door.admit(invite(credentials=monsters * 10), hop(), 0.0)
    assert time.perf_counter() - began < 0.25


def _tables(door: Doorman) -> list[Any]:
    return [
        *(door._source_calls, door._source_requests, door._stranger),
        *(door._failures, door._blocked, door._proven),
    ]


# --- limits ------------------------------------------------------------------------


def busy(verdict: object) -> bool:
    return isinstance(verdict, Refused) and verdict.status == 503 and verdict.retry_after == 5


def test_slots_are_taken_and_given_back() -> None:
    door = doorman({"pbx": PBX | {"max_calls": 2}, "other": {"sources": ["203.0.113.1"]}}, max_calls=3)
    first, second = (door.admit(invite(), hop(), 0.0) for _ in "ab")
    assert busy(door.admit(invite(), hop(), 0.0))
    assert busy(door.refusal("pbx"))
    assert isinstance(door.admit(invite(), hop("203.0.113.1"), 0.0), Admitted)
    assert busy(door.admit(invite(), hop("203.0.113.1"), 0.0))
    assert busy(door.reserve("other", 0.0))
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert first.slot
    first.slot.release()
    first.slot.release()
    assert (door.calls("pbx"), door.calls("other"), door.calls()) == (1, 1, 2)
    assert door.refusal("pbx") is None
    assert isinstance(door.admit(invite(), hop(), 0.0), Admitted)


def test_calls_of_ours_count_as_well() -> None:
    door = doorman({"pbx": PBX | {"max_calls": 1, "max_cps": 1}})
    slot = door.reserve("pbx", 0.0)
    assert isinstance(slot, Slot)
    assert slot.trunk == "pbx"
    assert busy(door.admit(invite(), hop(), 0.0))
    slot.release()
    assert busy(door.reserve("pbx", 0.5))  # too soon
    assert isinstance(door.reserve("pbx", 1.0), Slot)
    with pytest.raises(KeyError):
        door.reserve("nothing", 0.0)
    door = doorman({"pbx": PBX}, limits=LIMITS | {"calls_per_second": 1})
    assert isinstance(door.reserve("pbx", 0.0), Slot)
    assert busy(door.reserve("pbx", 0.0))


def test_calls_a_second_of_a_trunk() -> None:
    door = doorman({"pbx": PBX | {"max_cps": 5}, "other": {"sources": ["203.0.113.1"]}})
    told = [isinstance(door.admit(invite(), hop(f"192.0.2.{n % 4}"), n / 20), Admitted) for n in range(100)]
    assert 28 <= told.count(True) <= 31  # five at once, and five a second
    assert isinstance(door.admit(invite(), hop("203.0.113.1"), 5.0), Admitted)


def test_calls_a_second_of_an_address_and_in_all() -> None:
    limits = LIMITS | {"calls_per_second": 6, "source_calls_per_second": 4}
    door = doorman({"pbx": PBX}, limits=limits)
    told = [isinstance(door.admit(invite(), hop("192.0.2.1"), 0.0), Admitted) for _ in range(6)]
    assert told == [True] * 4 + [False] * 2
    told = [isinstance(door.admit(invite(), hop("192.0.2.2"), 0.0), Admitted) for _ in range(4)]
    assert told == [True] * 2 + [False] * 2
    assert door.calls() == 6


def test_a_refused_call_uses_up_no_rate() -> None:
    door = doorman({"pbx": PBX | {"max_cps": 1}}, limits=LIMITS | {"calls_per_second": 2})
    assert isinstance(door.admit(invite(), hop(), 0.0), Admitted)
    for _ in range(10):
        assert busy(door.admit(invite(), hop(), 0.0))
    assert isinstance(door.reserve("pbx", 1.0), Slot)


def test_other_requests_have_a_rate_of_their_own() -> None:
    door = doorman({"pbx": PBX}, limits=LIMITS | {"source_requests_per_second": 3})
    told = [door.admit(invite("OPTIONS"), hop(), 0.0) for _ in range(4)]
    assert [isinstance(verdict, Admitted) for verdict in told] == [True] * 3 + [False]
    assert busy(told[3])
    assert isinstance(told[0], Admitted)
    assert told[0].slot is None
    assert isinstance(door.admit(invite(), hop(), 0.0), Admitted)


def test_draining_is_told() -> None:
    door = doorman({"pbx": PBX, "agents": AGENT})
    door.draining = True
    assert busy(door.admit(invite(), hop(), 0.0))
    assert busy(door.refusal("pbx"))
    assert busy(door.reserve("pbx", 0.0))
    # OPTIONS is still judged, so that it can be told 503; strangers learn nothing of it
    assert isinstance(door.admit(invite("OPTIONS"), hop(), 0.0), Admitted)
    assert isinstance(door.admit(invite(), hop("203.0.113.1"), 0.0), Challenge)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing_away() -> None:
    door = doorman({"pbx": PBX | {"max_cps": 1}})
    assert isinstance(door.admit(invite(), hop(), 100.0), Admitted)
    assert busy(door.admit(invite(), hop(), 50.0))
    assert busy(door.admit(invite(), hop(), 50.5))


def test_secrets_are_not_in_what_is_printed() -> None:
    door = doorman({"agents": AGENT})
    verdict = login(door, "agent", "s3cret")
    assert "s3cret" not in repr(verdict)


def test_its_own_secret_by_default() -> None:
    section = SipSettings.model_validate({"trunks": {"agents": AGENT}})
    one, two = (Doorman(section, Nonces(b"n" * 32)) for _ in "ab")
    values = challenges(one.admit(invite(), hop(), 0.0))
    credentials = answer(values, "INVITE", TARGET, "agent", "s3cret")
    assert isinstance(two.admit(invite(credentials=credentials), hop(), 0.0), Challenge)
    assert isinstance(one.admit(invite(credentials=credentials), hop(), 0.0), Admitted)
