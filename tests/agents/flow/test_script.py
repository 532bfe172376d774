"""Ways through a flow: what the caller does, and what is to be done then."""

from __future__ import annotations

from typing import Any

import pytest

from offhook.agents.flow.script import (
    MAX_REFUSED,
    Action,
    Hangup,
    Music,
    Note,
    Play,
    Record,
    Say,
    Script,
    Transfer,
    Wait,
)
from offhook.agents.flow.settings import load

BYE = {"say": "Goodbye.", "hangup": "done"}
GOODBYE: list[Action] = [Say("Goodbye."), Hangup("done")]


def script(**steps: Any) -> Script:
    flow = load({"start": "main", "steps": {"bye": BYE, **steps}})
    return Script(flow, {"caller": "+15550001", "called": "+15550100"})


def waits(actions: list[Action] | None) -> Wait:
    assert actions
    assert isinstance(actions[-1], Wait)
    return actions[-1]


MENU = {"say": "One or two.", "play": "gong", "menu": {"keys": {"1": "bye", "2": "main"}, "timeout": 7}}


def test_a_menu_says_plays_and_waits() -> None:
    talk = script(main=MENU)
    assert talk.begin() == [Say("One or two."), Play("gong"), Wait(7)]
    assert talk.step == "main"
    assert talk.key("1") == [Note("choice", {"step": "main", "by": "1", "to": "bye"}), *GOODBYE]


def test_a_wrong_key_is_told_and_the_menu_said_again_until_it_is_enough() -> None:
    talk = script(main=MENU)
    begun = talk.begin()
    for _ in range(2):
        assert talk.key("5") == [Say("Sorry, I did not get that."), *begun]
    assert talk.key("5") == [Hangup("not understood")]


def test_silence_is_asked_again_without_an_apology() -> None:
    talk = script(main=MENU)
    begun = talk.begin()
    assert talk.timed_out() == begun
    assert talk.timed_out() == begun
    assert talk.timed_out() == [Hangup("caller silent")]


def test_who_does_not_answer_goes_elsewhere_and_counts_anew_there() -> None:
    menu = {"keys": {"1": "bye"}, "retries": 0, "otherwise": "other", "invalid": ""}
    talk = script(main={"menu": menu}, other={"menu": {"keys": {"1": "bye"}, "retries": 1, "invalid": ""}})
    talk.begin()
    assert talk.key("9") == [Wait(5)]
    assert talk.step == "other"
    assert talk.key("9") == [Wait(5)]
    assert talk.key("9") == [Hangup("not understood")]


def test_a_word_chooses_as_a_key_does() -> None:
    talk = script(main={"menu": {"words": {"goodbye": "bye"}}})
    wait = waits(talk.begin())
    assert wait.grammar is not None
    meaning = wait.grammar.parse("goodbye")
    assert meaning is not None
    assert talk.said(None)[0] == Say("Sorry, I did not get that.")
    assert talk.said(meaning.answer) == [Note("choice", {"step": "main", "by": "said", "to": "bye"}), *GOODBYE]


GATHER = {"say": "Your number.", "gather": {"into": "pin", "digits": 4, "least": 3, "goto": "told", "timeout": 3}}
TOLD = {"say": "{pin}: {pin_spoken}.", "hangup": True}


def typed(talk: Script, keys: str) -> list[Action] | None:
    actions: list[Action] | None = None
    for key in keys:
        actions = talk.key(key)
    return actions


@pytest.mark.parametrize("keys", ["1234", "0007"])
def test_a_number_is_complete_with_its_last_digit(keys: str) -> None:
    talk = script(main=GATHER, told=TOLD)
    assert talk.begin() == [Say("Your number."), Wait(3)]
    assert typed(talk, keys[:3]) == [Wait(3)]
    assert talk.key(keys[3]) == [
        Note("gathered", {"step": "main", "into": "pin", "digits": "4"}),
        Say(f"{keys}: {' '.join(keys)}."),
        Hangup("flow over"),
    ]


def test_a_shorter_number_ends_with_the_terminator_or_with_silence() -> None:
    for end in (lambda talk: talk.key("#"), Script.timed_out):
        talk = script(main=GATHER, told=TOLD)
        talk.begin()
        typed(talk, "123")
        assert Say("123: 1 2 3.") in end(talk)
        assert talk.variables["pin"] == "123"


def test_a_number_too_short_is_asked_for_anew() -> None:
    talk = script(main=GATHER, told=TOLD)
    talk.begin()
    typed(talk, "12")
    assert talk.key("#") == [Say("Sorry, I did not get that."), Say("Your number."), Wait(3)]
    assert typed(talk, "12") == [Wait(3)]
    assert talk.key("*") == [Say("Sorry, I did not get that."), Say("Your number."), Wait(3)]
    assert typed(talk, "1234") is not None
    assert talk.step == "told"


def test_no_number_at_all() -> None:
    talk = script(main={"gather": {**GATHER["gather"], "retries": 0, "otherwise": "bye"}}, told=TOLD)  # type: ignore[dict-item]
    talk.begin()
    assert talk.timed_out() == GOODBYE


def test_a_condition_follows_the_variable() -> None:
    steps: dict[str, Any] = {
        "check": {"if": {"value": "{pin}", "equals": ["1234", "123"], "goto": "yes", "otherwise": "more"}},
        "more": {"if": {"value": "{pin}-{caller}", "matches": r"9+-\+1555.*", "goto": "yes", "otherwise": "bye"}},
        "yes": {"say": "Right.", "hangup": True},
    }
    for keys, right in (("1234", True), ("123#", True), ("9999", True), ("1111", False)):
        talk = script(main={"gather": {"into": "pin", "digits": 4, "goto": "check"}}, **steps)
        talk.begin()
        assert (Say("Right.") in (typed(talk, keys) or [])) is right


def test_variables_are_set_in_order_and_said() -> None:
    talk = script(main={"set": {"a": "x{caller}", "b": "{a}y"}, "say": "{b}", "goto": "bye"})
    assert talk.begin() == [Say("x+15550001y"), *GOODBYE]


def test_a_step_that_says_nothing_says_nothing() -> None:
    talk = script(main={"set": {"a": ""}, "say": "{a}", "goto": "bye"})
    assert talk.begin() == GOODBYE


def test_what_may_not_be_interrupted_says_so() -> None:
    assert script(main={"say": "Law.", "interrupt": False, "goto": "bye"}).begin()[0] == Say("Law.", False)


QUEUE = {
    "say": "Please wait.",
    "queue": {"message": "Still busy.", "every": 20, "seconds": 50, "goto": "bye", "keys": {"1": "bye"}, "volume": 0.5},
}


def test_a_queue_plays_music_says_its_message_and_ends() -> None:
    talk = script(main=QUEUE)
    assert talk.begin() == [Say("Please wait."), Music("hold", 0.5), Wait(20)]
    assert talk.timed_out() == [Say("Still busy."), Wait(20)]
    assert talk.timed_out() == [Say("Still busy."), Wait(10)]
    assert talk.timed_out() == [Music(""), *GOODBYE]


def test_a_queue_is_left_by_its_key_and_by_no_other() -> None:
    talk = script(main=QUEUE)
    talk.begin()
    assert talk.key("7") is None
    assert talk.key("1") == [Music(""), Note("choice", {"step": "main", "by": "1", "to": "bye"}), *GOODBYE]


def test_a_silent_queue() -> None:
    talk = script(main={"queue": {"music": "", "goto": "bye", "seconds": 5}})
    assert talk.begin() == [Music("", 1.0), Wait(5)]
    quiet = script(main={"queue": {"every": 5, "goto": "bye", "seconds": 7}})
    quiet.begin()
    assert quiet.timed_out() == [Wait(2)]


def test_a_message_is_noted_with_what_is_known() -> None:
    talk = script(main={"set": {"who": "Ann"}, "record": {"seconds": 30, "note": "voicemail", "goto": "bye"}})
    assert talk.begin() == [Record(30, 3)]
    assert talk.key("5") is None
    noted = Note("voicemail", {"caller": "+15550001", "called": "+15550100", "who": "Ann", "seconds": "12"})
    assert talk.recorded(12.3) == [noted, *GOODBYE]
    last = script(main={"record": {}})
    last.begin()
    assert last.recorded(1)[-1] == Hangup("message left")


def test_a_transfer_and_what_follows_when_it_fails() -> None:
    talk = script(main={"say": "Connecting.", "transfer": {"to": "{called}", "otherwise": "bye"}})
    assert talk.begin() == [Say("Connecting."), Transfer("+15550100")]
    assert talk.transfer_refused() == GOODBYE
    plain = script(main={"transfer": "+15550199"})
    plain.begin()
    assert plain.transfer_refused() == [
        Say("I am sorry, I could not connect you. Goodbye.", False),
        Hangup("transfer failed"),
    ]


def test_transfers_that_never_work_come_to_an_end() -> None:
    talk = script(main={"transfer": {"to": "+1", "otherwise": "second"}}, second={"goto": "main"})
    actions = talk.begin()
    for _ in range(MAX_REFUSED):
        assert actions == [Transfer("+1")]
        actions = talk.transfer_refused()
    assert actions[-1] == Hangup("transfer failed")
