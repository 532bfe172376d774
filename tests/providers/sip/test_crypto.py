"""Keys of SRTP in offers and answers."""

from __future__ import annotations

from typing import Any

import pytest

from offhook.providers.rtp.media import PCMA, PCMU, Address, Codec, MediaPlan
from offhook.providers.sip import crypto
from offhook.providers.sip.negotiation import MediaNegotiator, NotAcceptable
from offhook.providers.sip.sdp import Media, parse

HERE = Address("198.51.100.1", 20000)
KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIz"
OTHER_KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNk"


def ours(*codecs: Codec, **settings: Any) -> MediaNegotiator:
    keys = iter(range(1, 200))
    defaults: dict[str, Any] = {"session_id": 17, "random_bytes": lambda size: bytes([next(keys)]) * size}
    return MediaNegotiator(codecs=codecs or (PCMU, PCMA), **(defaults | settings))


def theirs(*media: str) -> bytes:
    """Their description; `media` is the m= lines and what belongs to them."""
    return "\r\n".join(["v=0", "o=- 99 1 IN IP4 192.0.2.4", "s=-", "c=IN IP4 192.0.2.4", "t=0 0", *media, ""]).encode()


def audio(body: bytes) -> Media:
    return parse(body).media[0]


def answered(offer: bytes, **settings: Any) -> tuple[Media, MediaPlan]:
    body, plan = ours(**settings).answer(offer, HERE)
    return audio(body), plan


# --- a=crypto ----------------------------------------------------------------------

KEY30 = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNk"
KEY28 = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYg=="


@pytest.mark.parametrize(
    "value",
    [
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30}",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30}|2^31",
        f"  1   aes_cm_128_hmac_sha1_80   INLINE:{KEY30}|2^48  ",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30} WSH=64 FEC_ORDER=FEC_SRTP -KDR=3",
    ],
)
def test_crypto_lines_that_can_be_used(value: str) -> None:
    line = crypto.parse(value)
    assert line is not None
    assert (line.tag, line.key.suite, line.key.key) == (1, "AES_CM_128_HMAC_SHA1_80", b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcd")
    assert str(line) == f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30}"


@pytest.mark.parametrize("text", [KEY28, KEY28.rstrip("="), KEY28.rstrip("=") + "="])
def test_padding_may_be_missing(text: str) -> None:
    line = crypto.parse(f"7 AEAD_AES_128_GCM inline:{text}")
    assert line is not None
    assert len(line.key.key) == 28


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1 AES_CM_128_HMAC_SHA1_80",
        f"x AES_CM_128_HMAC_SHA1_80 inline:{KEY30}",
        f"1234567890 AES_CM_128_HMAC_SHA1_80 inline:{KEY30}",
        f"1 F8_128_HMAC_SHA1_80 inline:{KEY30}",
        f"1 AES_256_CM_HMAC_SHA1_80 inline:{KEY30}",
        f"1 AES_CM_128_HMAC_SHA1_80 {KEY30}",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY28}",
        "1 AES_CM_128_HMAC_SHA1_80 inline:not!base64",
        "1 AES_CM_128_HMAC_SHA1_80 inline:A",
        "1 AES_CM_128_HMAC_SHA1_80 inline:Ä",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30}|2^31|1:4",  # packets would carry the key's number
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30}|1:4",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30};inline:{KEY30}",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30} UNENCRYPTED_SRTP",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30} KDR=3",
        f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30} WONDER=1",
    ],
)
def test_crypto_lines_that_cannot_be_used(value: str) -> None:
    assert crypto.parse(value) is None


def test_keys_stay_out_of_logs() -> None:
    line = crypto.parse(f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30}")
    assert "ABCDEF" not in repr(line)
    assert KEY30 not in repr(line)


def test_only_so_many_crypto_lines_are_looked_at() -> None:
    good = f"1 AES_CM_128_HMAC_SHA1_80 inline:{KEY30}"
    assert len(crypto.usable(["bad", good, good])) == 2
    assert crypto.usable(["bad"] * crypto.MAX_LINES + [good]) == []


# --- offer and answer --------------------------------------------------------------------------

SAVP = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"


def crypto_of(media: Media) -> list[crypto.CryptoLine]:
    return crypto.usable(media.every("crypto"))


@pytest.mark.parametrize("policy", ["allowed", "required"])
@pytest.mark.parametrize("proto", ["RTP/SAVP", "RTP/AVP", "RTP/SAVPF"])
def test_keys_are_answered_by_the_profile_and_tag_offered(policy: str, proto: str) -> None:
    offer = theirs(
        f"m=audio 1000 {proto} 0",
        f"a=crypto:3 AES_256_CM_HMAC_SHA1_80 inline:{KEY}",
        f"a=crypto:7 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^31",
        SAVP,
    )
    media, plan = answered(offer, srtp=policy)
    assert media.proto == proto
    (line,) = crypto_of(media)
    assert (line.tag, line.key.suite) == (7, "AES_CM_128_HMAC_SHA1_32")
    assert plan.srtp_send == line.key
    assert plan.srtp_receive is not None
    assert plan.srtp_receive.suite == "AES_CM_128_HMAC_SHA1_32"
    assert plan.srtp_send != plan.srtp_receive


def test_gcm() -> None:
    key = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYg"
    media, plan = answered(theirs("m=audio 1 RTP/SAVP 0", f"a=crypto:1 AEAD_AES_128_GCM inline:{key}"), srtp="required")
    assert plan.srtp_send is not None
    assert (plan.srtp_send.suite, len(plan.srtp_send.key)) == ("AEAD_AES_128_GCM", 28)
    assert len(crypto_of(media)) == 1


def test_disabled_ignores_keys_on_plain_rtp() -> None:
    media, plan = answered(theirs("m=audio 1000 RTP/AVP 0", SAVP), srtp="disabled")
    assert (plan.srtp_send, plan.srtp_receive, media.every("crypto")) == (None, None, [])


def test_allowed_takes_plain_rtp_and_prefers_keys() -> None:
    assert answered(theirs("m=audio 1000 RTP/AVP 0"), srtp="allowed")[1].srtp_send is None
    assert answered(theirs("m=audio 1000 RTP/AVP 0", "a=crypto:1 NONE inline:x"), srtp="allowed")[1].srtp_send is None
    body, plan = ours(srtp="allowed").answer(theirs("m=audio 1000 RTP/AVP 0", "m=audio 1002 RTP/SAVP 0", SAVP), HERE)
    assert [media.port for media in parse(body).media] == [0, 20000]
    assert plan.srtp_send is not None


@pytest.mark.parametrize(
    "lines", [["m=audio 1 RTP/AVP 0"], ["m=audio 1 RTP/SAVP 0"], ["m=audio 1 RTP/SAVP 0", "a=crypto:1 x y"]]
)
def test_required_takes_nothing_else(lines: list[str]) -> None:
    with pytest.raises(NotAcceptable) as caught:
        answered(theirs(*lines), srtp="required")
    assert caught.value.code == 302


def test_what_is_offered_with_keys() -> None:
    for policy, proto in (("allowed", "RTP/AVP"), ("required", "RTP/SAVP")):
        media = audio(ours(srtp=policy).offer(HERE))
        assert media.proto == proto
        lines = crypto_of(media)
        assert [line.tag for line in lines] == [1, 2, 3]
        assert [line.key.suite for line in lines] == [
            "AES_CM_128_HMAC_SHA1_80",
            "AEAD_AES_256_GCM",
            "AES_CM_128_HMAC_SHA1_32",
        ]
        assert len({line.key.key for line in lines}) == 3


def test_the_key_that_was_taken() -> None:
    negotiator = ours(srtp="required")
    offered = {line.tag: line.key for line in crypto_of(audio(negotiator.offer(HERE)))}
    plan = negotiator.take_answer(
        theirs("m=audio 1000 RTP/SAVP 0", f"a=crypto:3 AES_CM_128_HMAC_SHA1_32 inline:{OTHER_KEY}")
    )
    assert plan.srtp_send == offered[3]
    assert plan.srtp_receive is not None
    assert plan.srtp_receive.key == b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcd"


@pytest.mark.parametrize(
    ("policy", "lines"),
    [
        ("required", ["m=audio 1000 RTP/AVP 0"]),
        ("required", ["m=audio 1000 RTP/SAVP 0"]),
        ("required", ["m=audio 1000 RTP/SAVP 0", f"a=crypto:4 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"]),
        ("required", ["m=audio 1000 RTP/SAVP 0", f"a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"]),
        ("allowed", ["m=audio 1000 RTP/AVP 0", f"a=crypto:4 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"]),
        ("allowed", ["m=audio 1000 RTP/AVP 0", "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:short"]),
        ("allowed", ["m=audio 1000 RTP/SAVP 0"]),
        ("disabled", ["m=audio 1000 RTP/SAVP 0", SAVP]),
    ],
)
def test_answers_whose_key_is_none_of_ours(policy: str, lines: list[str]) -> None:
    negotiator = ours(srtp=policy)
    negotiator.offer(HERE)
    with pytest.raises(NotAcceptable) as caught:
        negotiator.take_answer(theirs(*lines))
    assert caught.value.code == 302


def test_a_peer_that_knows_no_keys_takes_the_call_plain_where_that_is_allowed() -> None:
    negotiator = ours(srtp="allowed")
    negotiator.offer(HERE)
    plan = negotiator.take_answer(theirs("m=audio 1000 RTP/AVP 0"))
    assert (plan.srtp_send, plan.srtp_receive) == (None, None)


def test_our_key_stays_and_theirs_may_change() -> None:
    negotiator = ours(srtp="required")
    first, one = negotiator.answer(theirs("m=audio 1000 RTP/SAVP 0", SAVP), HERE)
    new = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{OTHER_KEY}"
    second, two = negotiator.answer(theirs("m=audio 1000 RTP/SAVP 0", new), HERE)
    assert one.srtp_send == two.srtp_send
    assert one.srtp_receive != two.srtp_receive
    assert first == second
    assert crypto_of(audio(negotiator.offer(HERE)))[0].key == one.srtp_send


def test_keys_are_random_by_default() -> None:
    lines = [crypto_of(audio(MediaNegotiator(codecs=(PCMU,), srtp="required", session_id=1).offer(HERE))) for _ in "ab"]
    assert lines[0][0].key.key != lines[1][0].key.key
