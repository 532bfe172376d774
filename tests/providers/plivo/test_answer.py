"""Plivo XML: equal to what Plivo's own builder makes, and read as Plivo reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plivo import plivoxml

from offhook.codecs.audio import L16_8K, L16_16K, L16_24K, PCMU, AudioFormat
from offhook.providers import markup
from offhook.providers.base import Answer, DialAnswer, HangUpAnswer, RejectAnswer, SayAnswer, StreamAnswer
from offhook.providers.plivo.answer import (
    MAX_EXTRA_HEADERS,
    STREAM_TIMEOUT,
    build,
    extra_headers,
    parse,
    stream_element,
)

MEDIA = "wss://gw.example.net/plivo/media/abc"
AFTER = "https://gw.example.net/plivo/after?a=1&b=2"


def same(ours: str, theirs: plivoxml.ResponseElement) -> bool:
    """True when two documents say the same; white space between elements is nobody's business."""
    return markup.read(ours) == markup.read(theirs.to_string(pretty=False))


# --- Plivo's own builder as the oracle ------------------------------------------------------

_words = st.text("abcXYZ019", min_size=1, max_size=8)


@given(parameters=st.dictionaries(_words, _words, max_size=4), format=st.sampled_from([PCMU, L16_8K, L16_16K]))
def test_stream_answers_are_what_plivo_would_write(parameters: dict[str, str], format: AudioFormat) -> None:
    for status, after in (("", ""), ("https://h/s?a=1&b=2", AFTER)):
        expected = plivoxml.ResponseElement()
        expected.add(
            plivoxml.StreamElement(
                MEDIA,
                bidirectional=True,
                keepCallAlive=True,
                audioTrack="inbound",
                contentType=("audio/x-mulaw" if format == PCMU else "audio/x-l16") + f";rate={format.rate}",
                streamTimeout=STREAM_TIMEOUT,
                statusCallbackUrl=status or None,
                statusCallbackMethod="POST" if status else None,
                extraHeaders=",".join(f"{name}={value}" for name, value in parameters.items()) or None,
            )
        )
        expected.add(plivoxml.RedirectElement(after, method="POST") if after else plivoxml.HangupElement())
        ours = build(StreamAnswer(MEDIA, parameters, status_url=status, after_url=after), format=format)
        assert same(ours, expected)


def _response(*elements: object) -> plivoxml.ResponseElement:
    expected = plivoxml.ResponseElement()
    for item in elements:
        expected.add(item)
    return expected


def _dial(target: object, **attributes: object) -> plivoxml.DialElement:
    return plivoxml.DialElement(**attributes).add(target)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RejectAnswer("busy"), _response(plivoxml.HangupElement(reason="busy"))),
        (RejectAnswer("rejected"), _response(plivoxml.HangupElement(reason="rejected"))),
        (HangUpAnswer(), _response(plivoxml.HangupElement())),
        (
            DialAnswer("+15550001111"),
            _response(_dial(plivoxml.NumberElement("15550001111"), timeout=30)),
        ),
        (
            DialAnswer("15550001111", caller_id="+15550002222", timeout=5),
            _response(_dial(plivoxml.NumberElement("15550001111"), timeout=5, caller_id="15550002222")),
        ),
        (
            DialAnswer("sip:ann@phone.plivo.com"),
            _response(_dial(plivoxml.UserElement("sip:ann@phone.plivo.com"), timeout=30)),
        ),
    ],
)
def test_answers_are_what_plivo_would_write(answer: Answer, expected: plivoxml.ResponseElement) -> None:
    assert same(build(answer), expected)


def test_speaking_is_what_plivo_would_write_but_for_the_voice_it_always_names() -> None:
    expected = _response(plivoxml.SpeakElement('Déjà "vu" & <more>'), plivoxml.HangupElement())
    theirs = markup.read(expected.to_string(pretty=False))
    theirs.children[0].attributes.clear()
    assert markup.read(build(SayAnswer('Déjà "vu" & <more>'))) == theirs
    say, dial = parse(build(SayAnswer("One moment.", "+15550001111"))).verbs
    assert say == markup.Say("One moment.")
    assert dial == markup.Dial(("15550001111",))


# --- conformance case 18 --------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters", [{"a-b": "1"}, {"a": "1 2"}, {"a": "ü"}, {"": "1"}, {"a": ""}, {"a": "1,b=2"}, {"a": "²"}]
)
def test_case_18_extra_headers_hold_letters_and_digits_only(parameters: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"^parameters: .*letters and digits"):
        build(StreamAnswer(MEDIA, parameters))


def test_case_18_extra_headers_hold_512_bytes() -> None:
    assert extra_headers({"a": "x" * (MAX_EXTRA_HEADERS - 2)})
    with pytest.raises(ValueError, match=r"^parameters: 513 bytes"):
        build(StreamAnswer(MEDIA, {"a": "x" * (MAX_EXTRA_HEADERS - 1)}))


def test_case_18_both_tracks_are_not_possible_with_bidirectional() -> None:
    with pytest.raises(ValueError, match=r"^audio_track: 'both'"):
        stream_element(MEDIA, {}, audio_track="both")
    assert stream_element(MEDIA, {}, audio_track="both", bidirectional=False).get("audioTrack") == "both"


def test_case_18_the_url_is_escaped() -> None:
    document = build(StreamAnswer(MEDIA + "?a=1&b=2"))
    assert ">wss://gw.example.net/plivo/media/abc?a=1&amp;b=2</Stream>" in document
    stream = parse(document).stream
    assert stream is not None
    assert stream.url == MEDIA + "?a=1&b=2"


def test_fields_that_plivo_would_not_take() -> None:
    for url in ("ws://h/m", "https://h/m", "/m", "wss:///m"):
        with pytest.raises(ValueError, match=r"^url: "):
            build(StreamAnswer(url))
    with pytest.raises(ValueError, match=r"^to: 'ann'"):
        build(DialAnswer("ann"))
    with pytest.raises(ValueError, match=r"^format: Plivo does not carry l16/24000"):
        build(StreamAnswer(MEDIA), format=L16_24K)


# --- reading --------------------------------------------------------------------------------


def test_our_own_answer_read_back() -> None:
    found = parse(build(StreamAnswer(MEDIA, {"call": "1"}, status_url="https://h/s", after_url=AFTER), format=L16_16K))
    assert found.faults == ()
    stream, redirect = found.verbs
    assert stream == markup.OpenStream(
        url=MEDIA,
        parameters={"call": "1"},
        bidirectional=True,
        blocking=True,
        format=L16_16K,
        status_url="https://h/s",
    )
    assert redirect == markup.Redirect(AFTER)


def test_another_bots_answer() -> None:
    response = _response(
        plivoxml.SpeakElement("Hi there", voice="WOMAN", language="en-GB", loop=2),
        plivoxml.PlayElement("/hold.mp3", loop=3),
        plivoxml.DTMFElement("1ww2"),
        plivoxml.WaitElement(length=4),
        _dial(plivoxml.NumberElement("15550001"), timeout=9, caller_id="1555", action="https://h/d", method="GET"),
        plivoxml.GetDigitsElement(),
        plivoxml.RedirectElement("next", method="GET"),
        plivoxml.HangupElement(reason="rejected"),
        plivoxml.PreAnswerElement().add(plivoxml.SpeakElement("early")),
    )
    found = parse(response.to_string(), base_url="https://bot.example/hooks/answer")
    gather = found.verbs[5]
    assert isinstance(gather, markup.Unknown)
    assert gather.name == "GetDigits"
    early = found.verbs[-1]
    assert isinstance(early, markup.Say)
    assert early.text == "early"
    assert [*found.verbs[:5], *found.verbs[6:-1]] == [
        markup.Say("Hi there", "WOMAN", "en-GB", 2),
        markup.Play("https://bot.example/hold.mp3", 3),
        markup.PlayDigits("1ww2"),
        markup.Pause(4),
        markup.Dial(("15550001",), "1555", 9, "https://h/d", "GET"),
        markup.Redirect("https://bot.example/hooks/next", "GET"),
        markup.Reject("rejected"),
    ]
    assert found.faults == ()


@pytest.mark.parametrize(
    ("attributes", "url", "complaint", "refused"),
    [
        ('contentType="audio/x-mulaw;rate=8000"', "ws://h/m", "must begin with wss://", True),
        ('contentType="audio/x-mulaw;rate=8000"', "wss://", "names no host", True),
        ('contentType="audio/x-mulaw;rate=8000"', "wss://[", "Invalid", True),
        (
            'contentType="audio/x-mulaw;rate=8000" bidirectional="true" audioTrack="both"',
            "wss://h/m",
            "audioTrack",
            True,
        ),
        ("", "wss://h/m", "contentType is missing", False),
        ('contentType="audio/opus"', "wss://h/m", "none that Plivo has", False),
        ('contentType="audio/x-l16;rate=8000" extraHeaders="a-b=1"', "wss://h/m", "letters and digits", False),
        (f'contentType="audio/x-l16;rate=8000" extraHeaders="a={"x" * 512}"', "wss://h/m", "514 bytes", False),
    ],
)
def test_streams_that_plivo_complains_about(attributes: str, url: str, complaint: str, refused: bool) -> None:
    found = parse(f"<Response><Stream {attributes}>{url}</Stream></Response>")
    (fault,) = found.faults
    assert complaint in fault.detail
    (stream,) = found.verbs
    assert isinstance(stream, markup.OpenStream)
    assert (stream.refused is not None) is refused


def test_a_stream_without_keep_call_alive() -> None:
    content = 'contentType="audio/x-mulaw;rate=8000"'
    found = parse(f'<Response><Stream bidirectional="true" {content}>wss://h/m</Stream></Response>')
    assert found.stream is not None
    assert (found.stream.blocking, found.stream.keeps_call) == (True, False)
    found = parse(f"<Response><Stream {content}>wss://h/m</Stream></Response>")
    assert found.stream is not None
    assert (found.stream.bidirectional, found.stream.blocking) == (False, False)


@pytest.mark.parametrize("document", ["", "<Response>", "<Reply/>", b"\xff", "<Response><Sing/></Response>"])
def test_documents_that_plivo_complains_about(document: str | bytes) -> None:
    (fault,) = parse(document).faults
    assert (fault.kind, fault.code) == ("bad-markup", "")


_elements = st.sampled_from(["Stream", "Speak", "Play", "Dial", "Number", "Redirect", "Hangup", "PreAnswer", "Sing"])
_documents = st.recursive(
    st.sampled_from(["wss://h/m", "wss://[", "a & b", "", "x" * 20]),
    lambda inner: st.builds(
        lambda name, value, inside: (
            f'<{name} bidirectional="true" contentType="{value}" extraHeaders="{value}">{inside}</{name}>'
        ),
        _elements,
        st.sampled_from(["audio/x-l16;rate=16000", "a=1,b", "²", "=", "rate=99999999999999999999"]),
        inner | st.lists(inner, max_size=3).map("".join),
    ),
    max_leaves=6,
)


@given(_documents.map("<Response>{}</Response>".format) | _documents | st.text(max_size=50) | st.binary(max_size=50))
def test_reading_never_raises(document: str | bytes) -> None:
    for base_url in ("", "https://bot.example/answer", "//["):
        found = parse(document, base_url=base_url)
        assert all(fault.kind == "bad-markup" and len(fault.detail) <= 200 for fault in found.faults)
