"""Whether a text looks finished: what speech-to-text has heard up to a pause.

The words decide where they are sure: nobody stops for good after "my name is", after "and", or in the middle of a
telephone number, whatever full stop the service has put there. Otherwise the punctuation does, where the service sets
any; some services set a full stop after whatever they have heard, so after "I need a taxi for." it is `doubtful`. A
text that gives no sign either way is `open`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from offhook.agents.turns.backchannel import FILLER, HUM, content_words, phrases_of, words_of

__all__ = ["Ending", "ending"]

Ending = Literal["finished", "open", "doubtful", "unfinished"]

SHORT_NUMBER: Final = 7
"""Digits from which a number that is told digit by digit may be complete: a local telephone number."""

QUESTION_WORDS: Final = 4
"""Words from which a text that begins like a question, without a question mark, counts as one."""


@dataclass(frozen=True, slots=True)
class _Lists:
    """The words of a language, parted by blanks; phrases parted by commas."""

    never: str
    "Nothing ends with these: articles, conjunctions, possessives, fillers."
    seldom: str
    "Little ends with these, and nothing without a full stop: prepositions, auxiliaries."
    openings: str
    "Phrases that are followed by what matters."
    answers: str
    "Whole answers."
    questions: str
    "Questions begin with these."
    digits: str
    "Zero to nine, as they are spoken."
    doubles: str
    "Words that repeat the next digit."
    numbers: str
    "Words after which a number is told digit by digit."


LISTS: Final = {
    "en": _Lists(
        never="a an the and or but nor because cause so if unless although though while whereas since maybe my your "
        "his its our their every er like well than whether i'm you're we're they're i'd i'll gonna wanna basically",
        seldom="of to for from with without at by on in into onto about between under over as is are was were am be "
        "been will would can could should shall may might must has have had want need some any i he she we they who "
        "which what that's it's there's just very",
        openings="my name is, my number is, the number is, number is, phone number is, it's, i mean, you know, "
        "let me see, let me think, hold on, the thing is, i was wondering, i would like, i'd like, i want, "
        "my email is, my address is, address is, the code is, the date is, i think, i guess",
        answers="yes, no, yeah, yep, yup, nope, no thanks, no thank you, yes please, thanks, thank you, "
        "thank you very much, please, correct, that's correct, that is correct, that's right, that's it, that's all, "
        "okay, sure, of course, hello, hi, hey, hello there, goodbye, bye, bye bye, exactly, not really, never mind, "
        "maybe, perhaps, i don't know, not sure, i'm not sure, i do, i am, it is, yes it is, yes i am, yes i do, "
        "no i don't, not yet, nothing else, stop, help, operator",
        questions="who what when where why how which can could do does did is are will would should may have has",
        digits="zero oh one two three four five six seven eight nine",
        doubles="double triple",
        numbers="number phone telephone account code pin zip extension digits serial reference",
    ),
    "de": _Lists(
        never="der das die ein eine einen einem einer eines und oder aber denn sondern weil dass ob wenn falls obwohl "
        "während damit bevor nachdem mein meine meinen meinem meiner dein deine ihr ihre ihren ihrem sein seine unser "
        "unsere den dem des äh ähm öh öhm also sozusagen quasi beziehungsweise im am zum zur vom beim ins",
        seldom="in an auf bei mit von nach zu für über unter um aus seit bis durch gegen ohne zwischen als wie ist "
        "sind war waren bin hat habe haben hätte hätten wird werden würde würden kann könnte könnten möchte möchten "
        "muss müsste soll sollte will wollen wollte ich er wir sie man es nicht noch sehr ganz auch nur sich etwa",
        openings="mein name ist, ich heiße, meine nummer ist, die nummer ist, nummer ist, nummer lautet, ich meine, "
        "ich möchte, ich würde gerne, ich hätte gerne, ich wollte, ich glaube, ich denke, moment, meine adresse ist, "
        "und zwar, das heißt, sagen wir mal",
        answers="ja, nein, nee, nö, doch, ja bitte, ja gerne, gerne, nein danke, danke, danke schön, vielen dank, "
        "bitte, genau, richtig, das stimmt, stimmt, das ist richtig, okay, klar, natürlich, hallo, guten tag, "
        "guten morgen, tschüss, auf wiederhören, vielleicht, weiß nicht, weiß ich nicht, ich weiß es nicht, "
        "noch nicht, das war's, das ist alles, stopp, hilfe",
        questions="wer wen wem was wann wo wohin woher warum wieso weshalb wie welche welcher welches kann können "
        "könnten könnte haben hat ist sind gibt darf wird",
        digits="null eins zwei zwo drei vier fünf sechs sieben acht neun",
        doubles="doppel doppelt",
        numbers="nummer telefonnummer rufnummer kontonummer kundennummer handynummer postleitzahl vorwahl code pin "
        "durchwahl ziffern",
    ),
}

_NONE: Final = _Lists(*[""] * 8)

_WORDS: Final = {
    language: {
        "never": frozenset(lists.never.split()),
        "seldom": frozenset(lists.seldom.split()),
        "questions": frozenset(lists.questions.split()),
        "digits": frozenset(lists.digits.split()),
        "doubles": frozenset(lists.doubles.split()),
        "numbers": frozenset(lists.numbers.split()),
    }
    for language, lists in {**LISTS, "": _NONE}.items()
}
_PHRASES: Final = {
    language: {
        "openings": tuple(tuple(words_of(phrase)) for phrase in lists.openings.split(",") if phrase),
        "answers": frozenset(tuple(words_of(phrase)) for phrase in lists.answers.split(",") if phrase),
    }
    for language, lists in {**LISTS, "": _NONE}.items()
}

_HANGING: Final = re.compile(r"(\.\.\.|…|[,;:‚、،–—-])$")
_STOPPED: Final = re.compile(r"[.!?。！？؟।][\"'»”’)\]]*$")
_ASKED: Final = re.compile(r"[!?！？؟][\"'»”’)\]]*$")
_FIGURES: Final = re.compile(r"\+?[\d()/.-]*\d[\d()/.-]*")


def ending(text: str, language: str = "en") -> Ending:
    """Say whether the speaker of this text sounds done.

    Args:
        text: what was heard of the turn, with whatever punctuation the service gives.
        language: BCP 47, such as en-GB. Without word lists for it, hums and punctuation decide.
    """
    text = text.strip()
    words = words_of(text)
    if not words:
        return "open"
    language = re.split("[-_]", language.lower())[0]
    known = language if language in LISTS else ""
    sets, phrases = _WORDS[known], _PHRASES[known]
    if _HANGING.search(text):
        return "unfinished"
    if tuple(words) in phrases["answers"] or content_words(text, phrases_of(language)) == 0:
        return "unfinished" if FILLER.fullmatch(words[-1]) else "finished"
    if _ASKED.search(text):
        return "finished"
    if words[-1] in sets["never"] or HUM.fullmatch(words[-1]):
        return "unfinished"
    if _inside_number(text, words, sets):
        return "unfinished"
    stopped = _STOPPED.search(text) is not None
    if any(tuple(words[-len(phrase) :]) == phrase for phrase in phrases["openings"]):
        # "That is what I think." may be all, "My name is." is not.
        return "unfinished" if not stopped or words[-1] in sets["seldom"] else "open"
    if words[-1] in sets["seldom"]:
        return "doubtful" if stopped else "unfinished"
    if stopped or (len(words) == 1 and words[0] in sets["digits"]):
        return "finished"
    if words[0] in sets["questions"] and len(words) >= QUESTION_WORDS:
        return "finished"
    return "open"


def _inside_number(text: str, words: list[str], sets: dict[str, frozenset[str]]) -> bool:
    """Whether the text breaks off within a number that is told in digits or groups of them."""
    groups = digits = 0
    for word in reversed(text.split()):
        bare = word.casefold().strip(".,;:!?")
        if _FIGURES.fullmatch(bare):
            digits += sum(character.isdigit() for character in bare)
            groups += 1
        elif bare in sets["digits"]:
            digits += 1
            groups += 1
        elif bare in sets["doubles"]:
            digits += 1
        else:
            break
    if not 0 < digits < SHORT_NUMBER:
        return False
    announced = any(word in sets["numbers"] for word in words[:-groups])
    return announced or (groups >= 2 and digits >= 3)
