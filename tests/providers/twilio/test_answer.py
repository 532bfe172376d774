"""TwiML: equal to what Twilio's own builder makes, and read as Twilio reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.twiml.voice_response import Connect, Dial, Start, VoiceResponse

from offhook.codecs.audio import PCMU
from offhook.providers import markup
from offhook.providers.base import Answer, DialAnswer, HangUpAnswer, RejectAnswer, SayAnswer, StreamAnswer
from offhook.providers.twilio.answer import build, check_stream_url, parse

MEDIA = "wss://gw.example.net/twilio/media/abc"
AFTER = "https://gw.example.net/twilio/after"

_printable = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=40)


def same(ours: str, theirs: VoiceResponse) -> bool:
    """True when two documents say the same; the order of attributes is nobody's business."""
    return markup.read(ours) == markup.read(theirs.to_xml())


# --- Twilio's own builder as the oracle -----------------------------------------------------


def _stream(url: str, parameters: dict[str, str], status: str, after: str) -> VoiceResponse:
    expected = VoiceResponse()
    connect = Connect(action=after, method="POST") if after else Connect()
    stream = connect.stream(
        url=url, **({"status_callback": status, "status_callback_method": "POST"} if status else {})
    )
    for name, value in parameters.items():
        stream.parameter(name=name, value=value)
    expected.append(connect)
    if after:
        expected.redirect(after, method="POST")
    else:
        expected.hangup()
    return expected


@given(
    parameters=st.dictionaries(_printable.filter(bool), _printable, max_size=4),
    status=st.sampled_from(["", "https://h/s?a=1&b=2"]),
)
def test_stream_answers_are_what_twilio_would_write(parameters: dict[str, str], status: str) -> None:
    for after in ("", AFTER + "?a=1&b=2"):
        ours = build(StreamAnswer(MEDIA, parameters, status_url=status, after_url=after))
        assert same(ours, _stream(MEDIA, parameters, status, after))


def _say(text: str, then: str = "") -> VoiceResponse:
    expected = VoiceResponse()
    expected.say(text)
    if then:
        dial = Dial(timeout=30)
        dial.number(then)
        expected.append(dial)
    else:
        expected.hangup()
    return expected


def _dial(kind: str, to: str, **attributes: object) -> VoiceResponse:
    expected = VoiceResponse()
    dial = Dial(**attributes)
    getattr(dial, kind)(to)
    expected.append(dial)
    return expected


def _reject(reason: str) -> VoiceResponse:
    expected = VoiceResponse()
    expected.reject(reason=reason)
    return expected


def _hang_up() -> VoiceResponse:
    expected = VoiceResponse()
    expected.hangup()
    return expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RejectAnswer("busy"), _reject("busy")),
        (RejectAnswer("rejected"), _reject("rejected")),
        (HangUpAnswer(), _hang_up()),
        (SayAnswer('Déjà "vu" & <more>'), _say('Déjà "vu" & <more>')),
        (SayAnswer("One moment.", "+15550001111"), _say("One moment.", "+15550001111")),
        (DialAnswer("+15550001111"), _dial("number", "+15550001111", timeout=30)),
        (
            DialAnswer("15550001111", caller_id="+15550002222", timeout=5),
            _dial("number", "15550001111", timeout=5, caller_id="+15550002222"),
        ),
        (DialAnswer("sip:ann@example.net?a=b&c=d"), _dial("sip", "sip:ann@example.net?a=b&c=d", timeout=30)),
        (DialAnswer("client:ann"), _dial("client", "ann", timeout=30)),
    ],
)
def test_answers_are_what_twilio_would_write(answer: Answer, expected: VoiceResponse) -> None:
    assert same(build(answer), expected)


# --- conformance case 21 --------------------------------------------------------------------


def test_case_21_parameters_are_escaped() -> None:
    document = build(StreamAnswer(MEDIA, {"note": "&<>\"'\n"}))
    assert 'value="&amp;&lt;&gt;&quot;\'&#10;"' in document
    stream = parse(document).stream
    assert stream is not None
    assert stream.parameters == {"note": "&<>\"'\n"}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ws://gw.example.net/m", "31922"),
        ("https://gw.example.net/m", "31922"),
        ("/twilio/media/abc", "31922"),
        ("wss:///m", "31922"),
        ("wss://gw.example.net/m?token=1", "query string"),
        ("wss://gw.example.net/m?", "query string"),
        ("wss://gw.example.net/m#x", "query string"),
    ],
)
def test_case_21_stream_urls_that_twilio_would_not_take(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^url: .*{why}"):
        check_stream_url(url)
    with pytest.raises(ValueError, match=r"^url: "):
        build(StreamAnswer(url))


def test_fields_that_twilio_would_not_take() -> None:
    with pytest.raises(ValueError, match=r"^parameters: 'n'.* 500"):
        build(StreamAnswer(MEDIA, {"n": "x" * 500}))
    build(StreamAnswer(MEDIA, {"n": "x" * 499}))
    with pytest.raises(ValueError, match=r"^parameters: ''"):
        build(StreamAnswer(MEDIA, {"": "x"}))
    with pytest.raises(ValueError, match=r"^to: 'ann'"):
        build(DialAnswer("ann"))
    with pytest.raises(ValueError, match="cannot stand in XML"):
        build(SayAnswer("bell \x07"))


# --- reading -------------------------------------------------------------------------------


def test_our_own_answer_read_back() -> None:
    found = parse(build(StreamAnswer(MEDIA, {"call": "1"}, status_url="https://h/s", after_url=AFTER)))
    assert found.faults == ()
    stream, redirect = found.verbs
    assert stream == markup.OpenStream(
        url=MEDIA,
        parameters={"call": "1"},
        bidirectional=True,
        blocking=True,
        format=PCMU,
        status_url="https://h/s",
        after_url=AFTER,
    )
    assert found.stream is stream
    assert redirect == markup.Redirect(AFTER)


def test_another_bots_answer() -> None:
    response = VoiceResponse()
    response.say("Hi there", voice="alice", language="en-GB", loop=2)
    start = Start()
    start.stream(url="wss://bot.example/fork", name="fork", track="both_tracks")
    response.append(start)
    response.play("/hold.mp3", loop=3)
    response.play(digits="ww1")
    response.pause(length=4)
    response.gather(num_digits=1)
    dial = Dial("+15550001", caller_id="+1555", timeout=9, action="/dialled", method="GET")
    dial.sip("sip:a@b")
    dial.client("ann")
    response.append(dial)
    response.redirect("next", method="GET")
    response.reject()
    response.hangup()
    found = parse(str(response), base_url="https://bot.example/hooks/voice?x=1")
    say, fork, *rest = found.verbs
    assert say == markup.Say("Hi there", "alice", "en-GB", 2)
    assert isinstance(fork, markup.OpenStream)
    assert (fork.url, fork.name, fork.track) == ("wss://bot.example/fork", "fork", "both")
    assert (fork.bidirectional, fork.blocking) == (False, False)
    gather = rest.pop(3)
    assert isinstance(gather, markup.Unknown)
    assert gather.name == "Gather"
    assert rest == [
        markup.Play("https://bot.example/hold.mp3", 3),
        markup.PlayDigits("ww1"),
        markup.Pause(4),
        markup.Dial(("+15550001", "sip:a@b", "client:ann"), "+1555", 9, "https://bot.example/dialled", "GET"),
        markup.Redirect("https://bot.example/hooks/next", "GET"),
        markup.Reject("rejected"),
        markup.HangUp(),
    ]
    assert [fault.detail for fault in found.faults] == ["Reject must be the first verb"]


def test_a_voice_with_markup_of_its_own_is_read_out() -> None:
    found = parse("<Response><Say>One <break/> <emphasis>two</emphasis></Say></Response>")
    assert found.verbs == (markup.Say("One two"),)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ws://bot.example/m", "31922"),
        ("http://bot.example/m", "31922"),
        ("bot.example/m", "31922"),
        ("", "31922"),
        ("wss://", "31923"),
        ("wss://[::1/m", "31923"),
    ],
)
def test_a_stream_that_twilio_would_not_open(url: str, code: str) -> None:
    found = parse(f'<Response><Connect><Stream url="{url}"/></Connect></Response>')
    (stream,) = found.verbs
    assert isinstance(stream, markup.OpenStream)
    assert stream.refused is not None
    assert (stream.refused.kind, stream.refused.code) == ("bad-markup", code)
    assert found.stream is None


def test_a_stream_url_with_a_query_or_without_a_host() -> None:
    found = parse('<Response><Connect><Stream url="wss://bot.example/m?t=1"/></Connect></Response>')
    assert found.stream is not None
    assert found.stream.url == "wss://bot.example/m"
    assert "dropped" in found.faults[0].detail
    relative = '<Response><Connect><Stream url="/m"/></Connect></Response>'
    found = parse(relative, base_url="https://bot.example/voice")
    assert found.stream is not None
    assert found.stream.url == "wss://bot.example/m"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("", "12100"),
        ("<Response>", "12100"),
        ("<Response>a & b</Response>", "12100"),
        ("{}", "12100"),
        ("<Reply/>", "12100"),
        ("<!DOCTYPE r [<!ENTITY a 'b'>]><Response>&a;</Response>", "12100"),
        ("<Response>" + "<a>" * 30 + "</a>" * 30 + "</Response>", "12100"),
        ("<Response>" + " " * 100_000 + "</Response>", "12100"),
        (b"\xff\xfe<Response/>", "12100"),
        ("<Response><Sing/></Response>", "12200"),
        ("<Response><Connect/></Response>", "12200"),
        ("<Response><Play/></Response>", "12200"),
        ('<Response><Connect><Stream url="wss://h/m" track="both_tracks"/></Connect></Response>', "12200"),
        (
            "<Response><Connect><Stream url='wss://h/m'><Parameter name='n' value='%s'/></Stream></Connect></Response>"
            % ("x" * 500),
            "12200",
        ),
    ],
)
def test_documents_that_twilio_complains_about(document: str | bytes, code: str) -> None:
    (fault,) = parse(document).faults
    assert (fault.kind, fault.code) == ("bad-markup", code)


def test_other_things_inside_connect_are_unknown() -> None:
    (found,) = parse('<Response><Connect><ConversationRelay url="wss://h/m"/></Connect></Response>').verbs
    assert isinstance(found, markup.Unknown)
    assert found.name == "ConversationRelay"


_elements = st.sampled_from(
    ["Response", "Connect", "Start", "Stream", "Say", "Play", "Dial", "Number", "Redirect", "Sing", "a"]
)
_documents = st.recursive(
    st.text(max_size=10),
    lambda inner: st.builds(
        lambda name, url, inside: f'<{name} url="{url}" action="{url}" loop="{url}">{inside}</{name}>',
        _elements,
        st.sampled_from(["wss://h/m", "ws://h", "wss://[", "//[", "x", "²"]),
        inner | st.lists(inner, max_size=3).map("".join),
    ),
    max_leaves=6,
)


@given(_documents.map("<Response>{}</Response>".format) | _documents | st.binary(max_size=50))
def test_reading_never_raises(document: str | bytes) -> None:
    for base_url in ("", "https://bot.example/voice", "//["):
        found = parse(document, base_url=base_url)
        assert found.verbs or found.faults or not markup.read(document).children
        assert all(fault.kind == "bad-markup" and len(fault.detail) <= 200 for fault in found.faults)
