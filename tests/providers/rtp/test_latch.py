"""The latch: who is heard, and what a thief tries in vain."""

from __future__ import annotations

import pytest

from offhook.providers.rtp.latch import PROBATION, Latch
from offhook.providers.rtp.media import Address

SDP = Address("10.0.0.5", 4000)
NAT = Address("198.51.100.7", 61000)
THIEF = Address("203.0.113.66", 4000)


def test_the_sdp_address_latches_at_once_and_locks_the_others_out() -> None:
    latch = Latch(SDP, "198.51.100.7")
    assert latch.accept(SDP, 1)
    assert latch.locked
    assert not any(latch.accept(NAT, 1) for _ in range(10))
    assert latch.peer == SDP


def test_a_peer_behind_nat_latches_after_its_probation() -> None:
    latch = Latch(SDP, "198.51.100.7")
    assert [latch.accept(NAT, 1) for _ in range(PROBATION)] == [False] * (PROBATION - 1) + [True]
    assert latch.peer == NAT
    assert not latch.accept(SDP, 1)


def test_the_first_packet_of_a_stranger_takes_nothing() -> None:
    latch = Latch(SDP, "198.51.100.7")
    assert not any(latch.accept(THIEF, 1) for _ in range(100))
    assert latch.peer == SDP
    assert latch.accept(SDP, 1)


def test_who_is_on_probation_is_no_wrong_source() -> None:
    latch = Latch(SDP, "10.0.0.9")
    nat, stranger = Address("10.0.0.9", 7000), Address("203.0.113.1", 7000)
    assert not latch.accept(nat, 7)
    assert latch.on_probation(nat)
    assert not latch.accept(stranger, 7)
    assert not latch.on_probation(stranger)
    assert not latch.accept(nat, 7)
    assert latch.accept(nat, 7)
    assert not latch.on_probation(nat)
    late = Address("10.0.0.9", 7002)
    assert not latch.accept(late, 7)
    assert not latch.on_probation(late)


def test_probation_is_of_one_source_and_one_ssrc_in_a_row() -> None:
    latch = Latch(SDP, "198.51.100.7")
    other = Address(NAT.host, 61001)
    for source, ssrc in [(NAT, 1), (other, 1), (NAT, 1), (NAT, 2), (NAT, 1), (other, 2)] * 5:
        assert not latch.accept(source, ssrc)
    assert not latch.locked


def test_another_port_of_the_sdp_host_is_plausible() -> None:
    latch = Latch(SDP)
    other = Address(SDP.host, 4002)
    assert [latch.accept(other, 1) for _ in range(3)] == [False, False, True]


def test_without_any_address_nothing_is_sent_until_the_peer_is_known() -> None:
    latch = Latch(None, "198.51.100.7")
    assert latch.peer is None
    for _ in range(3):
        latch.accept(THIEF, 1)
        assert latch.peer is None
    for _ in range(3):
        latch.accept(NAT, 1)
    assert latch.peer == NAT


def test_an_update_opens_the_latch_for_one_more_source() -> None:
    latch = Latch(SDP, "198.51.100.7")
    latch.accept(SDP, 1)
    latch.update(SDP, "198.51.100.7")
    assert not latch.locked
    assert latch.peer == SDP
    assert [latch.accept(NAT, 1) for _ in range(3)] == [False, False, True]
    moved = Address("10.0.0.9", 5000)
    latch.update(moved, "198.51.100.7")
    assert latch.peer == moved
    assert not latch.accept(SDP, 1)
    assert latch.accept(moved, 1)


def test_the_old_peer_is_heard_until_another_has_proved_itself() -> None:
    latch = Latch(SDP, "198.51.100.7")
    for _ in range(3):
        latch.accept(NAT, 1)
    latch.update(SDP, "198.51.100.7")
    assert latch.peer == NAT
    assert all(latch.accept(NAT, 1) for _ in range(5))
    assert latch.locked


def test_what_srtp_has_proved_may_come_from_anywhere_once() -> None:
    latch = Latch(SDP, authenticated=True)
    assert [latch.accept(THIEF, 1) for _ in range(3)] == [False, False, True]
    assert not latch.accept(NAT, 1)
    assert latch.accept_rtcp(NAT)


def test_rtcp_comes_from_the_peers_host() -> None:
    latch = Latch(SDP, "198.51.100.7")
    assert latch.accept_rtcp(Address(SDP.host, 4001))
    assert latch.accept_rtcp(Address(NAT.host, 9))
    assert not latch.accept_rtcp(THIEF)
    latch.accept(SDP, 1)
    assert not latch.accept_rtcp(Address(NAT.host, 9))


def test_loopback_stands_for_loopback_only_when_told() -> None:
    sdp, other = Address("127.0.0.2", 4000), Address("127.0.0.1", 4000)
    assert not any(Latch(sdp).accept(other, 1) for _ in range(3))
    latch = Latch(sdp, loopback=True)
    assert [latch.accept(other, 1) for _ in range(3)] == [False, False, True]
    assert not any(Latch(sdp, loopback=True).accept(THIEF, 1) for _ in range(3))
    assert not any(Latch(SDP, loopback=True).accept(other, 1) for _ in range(3))


def test_names_are_refused_and_change_nothing() -> None:
    with pytest.raises(ValueError, match=r"plan\.remote\.host"):
        Latch(Address("sbc.example", 4000))
    latch = Latch(SDP)
    latch.accept(SDP, 1)
    with pytest.raises(ValueError, match="no IP address"):
        latch.update(Address("sbc.example", 4000))
    assert latch.locked
    assert latch.accept(SDP, 1)


def test_addresses_are_compared_as_addresses() -> None:
    latch = Latch(Address("2001:DB8::0001", 4000))
    assert latch.accept(Address("2001:db8::1", 4000), 1)
