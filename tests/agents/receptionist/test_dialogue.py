"""The receptionist's dialogue as a pure machine, and what a dialogue file may get wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.agents.api import SettingsError
from offhook.agents.receptionist.dialogue import (
    BUILT_IN,
    MAX_CORRECTIONS,
    MAX_FILE,
    Action,
    Conversation,
    Dialogue,
    End,
    Listen,
    Note,
    Say,
    Transfer,
    load,
)

DIALOGUE = load()
CONNECTED = load(business={"departments": {"sales": {"key": "3", "transfer": "+15550199"}, "support": {"key": "4"}}})


class Caller:
    """Plays a caller who is always heard right."""

    def __init__(self, dialogue: Dialogue = DIALOGUE) -> None:
        self.talk = Conversation(dialogue)
        self.notes: dict[str, dict[str, str]] = {}
        self.take(self.talk.begin())

    def take(self, actions: list[Action]) -> str:
        """Keep what the machine wants; gives what it says."""
        self.last = actions[-1]
        assert isinstance(self.last, Listen | Transfer | End)
        assert not any(isinstance(action, Listen | Transfer | End) for action in actions[:-1])
        self.notes |= {action.name: action.slots for action in actions if isinstance(action, Note)}
        self.heard = " ".join(action.text for action in actions if isinstance(action, Say))
        assert "{" not in self.heard
        return self.heard

    def says(self, sentence: str) -> str:
        assert isinstance(self.last, Listen)
        assert self.last.grammar is not None
        meaning = self.last.grammar.parse(sentence)
        return self.take(self.talk.missed() if meaning is None else self.talk.understood(meaning))

    def presses(self, keys: str) -> str:
        said = ""
        for key in keys:
            actions = self.talk.key(key)
            said = "" if actions is None else self.take(actions)
        return said

    @property
    def question(self) -> str:
        assert isinstance(self.last, Listen)
        return self.last.question


# --- the built-in dialogue ------------------------------------------------------------


def test_the_greeting_names_the_business() -> None:
    assert Caller().heard.startswith("Thank you for calling Acme.")
    assert Caller(load(business={"name": "Miller and Sons"})).heard.startswith("Thank you for calling Miller and Sons.")


def test_an_appointment_in_one_sentence() -> None:
    caller = Caller()
    assert caller.says("I would like to make an appointment on Tuesday at three o'clock please") == (
        "An appointment on Tuesday at three o'clock. Is that right?"
    )
    assert caller.says("yes please") == (
        "Your appointment on Tuesday at three o'clock is booked. Is there anything else?"
    )
    assert caller.notes["appointment"] == {"day": "Tuesday", "time": "three o'clock"}
    assert caller.says("no thank you") == "Thank you for calling Acme. Goodbye."
    assert caller.last == End("conversation over")


def test_an_appointment_step_by_step() -> None:
    caller = Caller()
    assert caller.says("an appointment") == "For which day and time would you like to come?"
    assert caller.says("on Friday") == "And at what time on Friday?"
    assert caller.says("half past two in the afternoon") == "An appointment on Friday at two thirty. Is that right?"
    assert caller.says("no") == "For which day and time would you like to come?"
    assert caller.says("at noon on Monday") == "An appointment on Monday at twelve o'clock. Is that right?"
    caller.says("that's right")
    assert caller.notes["appointment"] == {"day": "Monday", "time": "twelve o'clock"}


def test_a_day_said_in_the_first_sentence_is_not_asked_for_again() -> None:
    caller = Caller()
    caller.says("an appointment on Wednesday")
    assert caller.says("Wednesday at nine") == "An appointment on Wednesday at nine o'clock. Is that right?"


def test_an_appointment_by_keys_alone() -> None:
    caller = Caller()
    assert caller.presses("1") == "For which day and time would you like to come?"
    assert caller.presses("2") == "And at what time on Tuesday?"
    assert caller.presses("3") == "An appointment on Tuesday at two o'clock. Is that right?"
    assert caller.presses("1").startswith("Your appointment on Tuesday at two o'clock is booked.")
    assert caller.presses("2") == "Thank you for calling Acme. Goodbye."


def test_opening_hours_and_something_else() -> None:
    caller = Caller(load(business={"hours": "We never close."}))
    assert caller.says("when are you open") == "We never close. Is there anything else?"
    assert caller.says("yes") == "How can I help you?"
    assert caller.presses("2") == "We never close. Is there anything else?"


def test_a_second_appointment_starts_from_nothing() -> None:
    caller = Caller()
    caller.presses("1231")
    caller.says("yes")
    assert caller.says("an appointment") == "For which day and time would you like to come?"


@pytest.mark.parametrize("typed", [False, True])
def test_a_call_back(typed: bool) -> None:
    caller = Caller()
    if typed:
        caller.presses("6")
        assert caller.presses("5550199#") == "5 5 5 0 1 9 9. Is that right?"
        caller.presses("1")
    else:
        caller.says("please call me back")
        assert caller.says("five five five oh one nine nine") == "5 5 5 0 1 9 9. Is that right?"
        caller.says("yes")
    assert caller.notes["callback"]["number"] == "5550199"
    assert caller.question == "more"


def test_a_wrong_number_is_asked_for_again() -> None:
    caller = Caller()
    caller.presses("6555019#2")
    assert caller.question == "number"
    assert caller.presses("77777#") == "7 7 7 7 7. Is that right?"


def test_typed_numbers_end_at_the_hash_at_the_most_or_after_a_while() -> None:
    caller = Caller()
    caller.presses("6")
    assert caller.presses("12345") == ""
    assert caller.take(caller.talk.typed()) == "1 2 3 4 5. Is that right?"
    caller.presses("2")
    assert caller.presses("123456789012345") == "1 2 3 4 5 6 7 8 9 0 1 2 3 4 5. Is that right?"


@pytest.mark.parametrize("way", ["said", "typed", "hash", "while"])
def test_a_number_too_short_is_asked_for_again_and_not_for_ever(way: str) -> None:
    caller = Caller()
    caller.presses("6")

    def short() -> str:
        if way == "said":
            return caller.says("one two")
        if way == "while":
            assert caller.presses("12") == ""
            return caller.take(caller.talk.typed())
        return caller.presses("12#" if way == "typed" else "#")

    assert short() == "Sorry, please say the digits one by one."
    assert short() == "Please type your number, and then press the hash key."
    assert short() == "Would you like to leave a message? Say yes, or press one."


def test_a_number_said_too_long_is_asked_for_again() -> None:
    caller = Caller()
    caller.presses("6")
    assert caller.says("one " * 16) == "Sorry, please say the digits one by one."


@pytest.mark.parametrize("how", ["sales please", "I want to talk to sales", "3"])
def test_a_department_with_a_number_is_connected(how: str) -> None:
    caller = Caller(CONNECTED)
    said = caller.presses(how) if how.isdigit() else caller.says(how)
    assert said == "I am connecting you to sales."
    assert caller.last == Transfer("+15550199", "sales")


@pytest.mark.parametrize("how", ["support", "4"])
def test_a_department_without_a_number_takes_a_message(how: str) -> None:
    caller = Caller(CONNECTED)
    said = caller.presses(how) if how.isdigit() else caller.says(how)
    assert said == "Would you like to leave a message? Say yes, or press one."
    assert caller.says("yes").startswith("Please leave your message after the tone.")
    assert isinstance(caller.last, Listen)
    assert caller.last.record is not None
    assert caller.last.record.seconds == 60
    assert caller.take(caller.talk.recorded(12.3)) == (
        "Thank you. Your message is recorded. Thank you for calling Acme. Goodbye."
    )
    assert caller.notes["message"] == {"department": "support", "seconds": "12"}
    assert caller.last == End("conversation over")


def test_a_transfer_that_fails_leads_to_a_message() -> None:
    caller = Caller(CONNECTED)
    caller.presses("3")
    assert caller.take(caller.talk.transfer_failed()) == (
        "I am sorry, that did not work. Would you like to leave a message? Say yes, or press one."
    )
    assert caller.says("no") == "Thank you for calling Acme. Goodbye."


# --- not understood --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["the weather in Paris", "*"])
def test_asked_again_twice_then_lost_then_goodbye(how: str) -> None:
    caller = Caller()

    def miss() -> str:
        return caller.presses(how) if how == "*" else caller.says(how)

    assert miss().startswith("Sorry, I did not understand.")
    assert "press one" in miss()
    assert miss() == "Would you like to leave a message? Say yes, or press one."
    assert miss() == "Please say yes or no. Would you like to leave a message?"
    assert miss() == "To leave a message press one, to hang up press two."
    assert miss() == "Thank you for calling Acme. Goodbye."
    assert caller.last == End("not understood")


def test_a_silent_caller_is_asked_twice_and_then_let_go() -> None:
    caller = Caller()
    caller.take(caller.talk.silent())
    caller.take(caller.talk.silent())
    assert caller.take(caller.talk.silent()) == "I cannot hear you. Thank you for calling Acme. Goodbye."
    assert caller.last == End("caller silent")


def test_silence_after_the_business_is_done_is_goodbye() -> None:
    caller = Caller()
    caller.says("opening hours")
    assert isinstance(caller.last, Listen)
    assert caller.last.patience == 3
    assert caller.take(caller.talk.silent()) == "Thank you for calling Acme. Goodbye."
    assert caller.last == End("conversation over")


def test_being_understood_once_forgives_the_misses() -> None:
    caller = Caller()
    for _ in range(3):
        caller.says("blah")
        caller.says("blah")
        caller.says("opening hours")
        caller.says("yes")
    assert caller.question == "main_again"


EVENTS = st.sampled_from([*"0123456789*#ABCD", "missed", "silent", "typed", "short", *("said",) * 6])


def test_a_caller_misheard_three_times_is_offered_a_message() -> None:
    caller = Caller()
    caller.says("an appointment")
    for _ in range(2):
        caller.says("tuesday at three")
        assert caller.says("no").startswith("For which day and time")
    caller.says("tuesday at three")
    assert "leave a message" in caller.says("no")
    assert "Goodbye" in caller.says("no")
    assert isinstance(caller.last, End)
    assert caller.notes == {}


def test_a_matter_that_is_done_is_no_correction() -> None:
    caller = Caller()
    for _ in range(MAX_CORRECTIONS + 2):
        caller.says("an appointment on tuesday at three")
        assert "booked" in caller.says("yes")
        assert caller.says("yes") == "How can I help you?"


def happens(caller: Caller, event: str, choose: Any) -> None:
    """One event, if it can come in this state."""
    last = caller.last
    if isinstance(last, Transfer):
        caller.take(caller.talk.transfer_failed())
    elif isinstance(last, End):
        return
    elif last.record is not None:
        caller.take(caller.talk.recorded(3))
    elif event == "missed":
        caller.take(caller.talk.missed())
    elif event == "silent":
        caller.take(caller.talk.silent())
    elif event == "short":
        caller.says("one" if last.digits is not None else "blah")
    elif event == "typed":
        if last.digits is not None:
            caller.take(caller.talk.typed())
    elif event == "said":
        if last.grammar is not None:
            caller.says(choose(last.grammar))
    else:
        caller.presses(event)


@settings(max_examples=150, deadline=None)
@given(
    st.data(), st.lists(EVENTS, max_size=40), st.lists(st.sampled_from(["missed", "silent", "*", "short"]), min_size=9)
)
def test_whatever_happens_it_listens_or_ends_and_nonsense_always_ends(
    data: st.DataObject, events: list[str], nonsense: list[str]
) -> None:
    def sentence(grammar: Any) -> str:
        graph, state, words = grammar.graph, 0, list[str]()
        while state not in graph.finals or len(words) < data.draw(st.integers(0, 6)):
            ways = [(end, word) for start, end, word in graph.arcs if start == state]
            if not ways:
                break
            state, word = data.draw(st.sampled_from(ways))
            words.append(word)
        return " ".join(words)

    caller = Caller(CONNECTED)
    for event in events:
        if isinstance(caller.last, End):
            return
        happens(caller, event, sentence)
    # From wherever that led: a caller who makes no sense is not kept.
    for event in nonsense:
        if isinstance(caller.last, End):
            return
        happens(caller, event, sentence)
    assert isinstance(caller.last, End)


# --- files -----------------------------------------------------------------------------


def test_every_question_but_the_message_can_be_answered_by_keys_and_by_voice() -> None:
    for name, question in DIALOGUE.questions.items():
        if question.record is None:
            assert DIALOGUE.grammar(name) is not None
            assert question.digits or any(answer.key for answer in question.answers.values())
            assert len(question.again) == 2


def test_the_fixed_texts_are_those_without_slots() -> None:
    texts = load(business={"name": "Miller"}).fixed_texts()
    assert "Thank you for calling Miller. Goodbye." in texts
    assert "Thank you. Your message is recorded." in texts
    assert not any("{" in text or "Is that right" in text for text in texts)


def test_overriding_one_thing_of_the_business_keeps_the_others() -> None:
    business = load(business={"name": "Miller"}).business
    assert (business.name, business.hours) == ("Miller", DIALOGUE.business.hours)
    assert business.departments == DIALOGUE.business.departments
    assert load(business={}).business == DIALOGUE.business


def changed(tmp_path: Path, **changes: Any) -> Path:
    """The built-in dialogue with values put in at dotted paths; None takes the key away."""
    tree = copy.deepcopy(yaml.safe_load(BUILT_IN.read_text()))
    for place, value in changes.items():
        *folders, name = place.split("__")
        here = tree
        for folder in folders:
            here = here[folder]
        if value is None:
            del here[name]
        else:
            here[name] = value
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"questons": {}}, "questons: no such key; did you mean questions?"),
        ({"questions__main__asks": "x"}, "questions.main.asks: no such key; did you mean ask?"),
        ({"questions__main__answers__hours__zzzz": "x"}, "questions.main.answers.hours.zzzz: no such key; remove it"),
        ({"goodbye": None}, "goodbye: is missing; write it"),
        ({"questions__main__ask": None}, "questions.main.ask: is missing"),
        (
            {"questions__main__answers__hours__go": "mroe"},
            "questions.main.answers.hours.go leads to 'mroe', which is no",
        ),
        ({"questions__more__silent": "nowhere"}, "questions.more.silent leads to 'nowhere'"),
        ({"questions__number__digits__go": ""}, "questions.number.digits.go leads to ''"),
        ({"questions__message__record__go": ""}, "questions.message.record.go leads to ''"),
        ({"start": "end"}, "start leads to 'end', which is no question; there are "),
        ({"lost": "transfer"}, "lost leads to 'transfer', which is no question"),
        ({"questions__main__answers__hours__phrases": ["at 9"]}, "phrase 'at 9': '9' is not understood there; write"),
        (
            {"questions__main__answers__hours__phrases": ["<month>"]},
            "there is no rule <month>; rules known here: <day>",
        ),
        (
            {"questions__main__answers__hours__key": 2},
            "questions.main.answers.hours.key: 2 is no text; put it in quotes",
        ),
        ({"questions__main__answers__hours__key": "22"}, "answers.hours.key: '22' is no key; write one of 0 to 9"),
        ({"questions__more__answers__no__key": "1"}, "questions.more.answers.no has the key 1 too; give"),
        ({"questions__main__ask": "Hello {nmae}"}, "questions.main.ask: there is no slot 'nmae'; there are day,"),
        ({"questions__main__again": ["{oops}"]}, "questions.main.again: there is no slot 'oops'"),
        ({"goodbye": "Bye {name"}, "goodbye: 'Bye {name': expected '}' before end of string; write slots as {name}"),
        ({"goodbye": "Bye {}"}, "goodbye: 'Bye {}': {} is no slot; write slots as {name}"),
        ({"goodbye": "Bye {name.x}"}, "{name.x} is no slot"),
        ({"goodbye": "Bye {name:>9}"}, "{name} is no slot; write slots as {name}"),
        ({"questions__message__record__say": "{oops}"}, "questions.message.record.say: there is no slot 'oops'"),
        ({"questions__when__fills": ["dya"]}, "questions.when.fills: there is no slot 'dya'"),
        ({"questions__more__answers__yes__clear": ["dya"]}, "answers.yes.clear: there is no slot 'dya'"),
        ({"questions__when__filled": ""}, "questions.when: fills and filled go together"),
        ({"questions__main__answers": {}}, "questions.main: a question needs answers, digits or record"),
        ({"questions__main__again": ["a", "b", "c"]}, "questions.main.again: List should have at most 2 items"),
        ({"questions__number__digits__least": 20}, "questions.number.digits: least is more than most"),
        ({"questions__message__record__seconds": 1}, "questions.message.record.seconds: Input should be greater than"),
        ({"business": None}, "business: is missing"),
        ({"business__departments": {}}, "an answer leads to `transfer`, but business.departments is empty"),
        (
            {"business__departments__sales__key": "4"},
            "business.departments.support: business.departments.sales has the key",
        ),
        (
            {"business__departments__sales__key": "1"},
            "departments.sales: questions.main.answers.appointment has the key 1",
        ),
    ],
)
def test_a_mistake_in_a_file_is_named_with_file_place_and_remedy(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    file = changed(tmp_path, **changes)
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert str(caught.value).startswith(f"dialogue: {file}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a: [", "is no YAML: while parsing"),
        (b"\xff\xfe\xfa", "is no YAML: "),
        (b"a: &a [*a, *b]", "is no YAML: found undefined alias"),
        (b"!!python/object/apply:os.system [true]", "is no YAML: could not determine a constructor"),
        (b"- a", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"#" * (MAX_FILE + 1), f"has {MAX_FILE + 1} characters; the limit is {MAX_FILE}"),
    ],
)
def test_what_is_no_dialogue_file_is_refused(content: bytes, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert complaint in str(caught.value)
    assert str(file) in str(caught.value)


def test_an_unquoted_yes_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(BUILT_IN.read_text().replace('"yes":', "yes:"))
    with pytest.raises(SettingsError, match=r"True is no text; put it in quotes"):
        load(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml cannot be read: No such file or directory"):
        load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("business", "complaint"),
    [
        ("Acme", "business: 'Acme' must be a mapping"),
        ({"nmae": "x"}, "business.nmae: no such key; did you mean name?"),
        ({"departments": {"R&D": {}}}, "phrase 'R&D': '&' is not understood"),
        ({"departments": {"sales": {"key": "33"}}}, "business.departments.sales.key: '33' is no key"),
    ],
)
def test_a_mistake_in_the_overriding_business_is_named(business: Any, complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(business=business)
    assert complaint in str(caught.value)
