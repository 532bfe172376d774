"""What was said, compared as people compare it: letter case, punctuation and the spelling of numbers do not count.

A text becomes words: lower case, contractions opened (`I'm` as `i am`), signs read out (`25%` as `25 percent`), and
numbers as digits, however they were spoken: `forty seven twelve`, `four seven one two`, `4712` and `four thousand
seven hundred and twelve` are the same. Each number that was spoken as one stays one, so that `five dollars` is not
found in `twenty five dollars`, while `0199` is found in `five five five zero one nine nine`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from offhook.qa.scenario.model import Heard

MAX_LETTERS: Final = 20_000
"""Of one text: twenty minutes of speech. What comes after is left out, for a regular expression may take long."""

_BELOW_TWENTY: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENTHS: Final = "twenty thirty forty fifty sixty seventy eighty ninety"
_RANKS: Final = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
)

UNITS: Final = {word: number for number, word in enumerate(_BELOW_TWENTY.split())}
TENS: Final = {word: 10 * number for number, word in enumerate(_TENTHS.split(), 2)}
SCALES: Final = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
ORDINALS: Final = {word: number for number, word in enumerate(_RANKS.split(), 1)} | {"twentieth": 20, "thirtieth": 30}

MAX_WHOLE: Final = 6
"""Digits of a number that is spoken as one."""

_UNIT_WORDS: Final = {number: word for word, number in UNITS.items()}
_TEN_WORDS: Final = {number: word for word, number in TENS.items()}
_ORDINAL_WORDS: Final = {number: word for word, number in ORDINALS.items()}

CONTRACTIONS: Final = {
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "let's": "let us",
    "ok": "okay",
    "o'clock": "o'clock",
} | {f"{word}'s": f"{word} is" for word in ("it", "that", "there", "what", "he", "she", "here", "where", "who", "how")}
ENDINGS: Final = (("n't", " not"), ("'m", " am"), ("'re", " are"), ("'ll", " will"), ("'ve", " have"))
"""`'d` and other `'s` stay: they have two meanings."""

SIGNS: Final = {"%": " percent ", "&": " and ", "+": " plus ", "@": " at ", "#": " hash "}
MONEY: Final = {"$": "dollars", "£": "pounds", "€": "euros"}

_MONEY: Final = re.compile(r"([$£€])\s?(\d[\d,]*(?:\.\d+)?)")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ORDINAL: Final = re.compile(r"(\d+)(?:st|nd|rd|th)", re.ASCII)
_WORD: Final = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_SHORT: Final = re.compile(r"\b([a-z])\.(?=[a-z]\b)")


def plain(text: str) -> str:
    """Lower case, without punctuation, single spaces; numbers as they were written."""
    return " ".join(_WORD.findall(_straight(text)))


def words(text: str) -> list[str]:
    """The words of a text in the form in which texts are compared; a number is a string of digits."""
    text = _MONEY.sub(lambda found: f"{found[2]} {MONEY[found[1]]}", _straight(text))
    text = re.sub(r"(?<=\d)\.(?=\d)", " point ", _THOUSANDS.sub("", _SHORT.sub(r"\1", text)))
    text = "".join(SIGNS.get(letter, letter) for letter in text)
    return list(_numbers([word for found in _WORD.findall(text) for word in _opened(found)]))


def contains(text: str | Sequence[str], phrase: str) -> bool:
    """Whether the words of the phrase stand in the text (or in its `words`), one after another."""
    said = words(text) if isinstance(text, str) else text
    wanted = _runs(words(phrase))
    return bool(wanted) and any(_begins(said, at, wanted) for at in range(len(said)))


def matches(expected: Heard, text: str, sounded: Container[str] = ()) -> bool:
    """Whether a text has what is expected in it.

    Args:
        expected: the phrases. All fields that it has must hold.
        text: what was said.
        sounded: phrases of `expected` that were found in the audio by other means.

    Raises:
        re.error: `expected.regex` is none.
    """
    said = words(text)

    def found(phrase: str) -> bool:
        return phrase in sounded or contains(said, phrase)

    return (
        (not expected.any or any(map(found, expected.any)))
        and all(map(found, expected.all))
        and (not expected.regex or found_by(expected.regex, text))
    )


def found_by(regex: str, text: str) -> bool:
    """Whether a regular expression is found in the lower-case text, or in it without punctuation. Raises re.error."""
    pattern = re.compile(regex, re.IGNORECASE)
    return any(pattern.search(form) for form in (_straight(text), plain(text)))


def phrases(expected: Heard) -> list[str]:
    """The phrases that may be looked for in the audio; a regular expression is not."""
    return [*expected.any, *expected.all]


def described(expected: Heard) -> str:
    """In words, for messages: `"birthday" or "date of birth"`."""
    parts = []
    if expected.any:
        parts.append(" or ".join(f'"{phrase}"' for phrase in expected.any))
    if expected.all:
        parts.append(" and ".join(f'"{phrase}"' for phrase in expected.all))
    if expected.regex:
        parts.append(f"/{expected.regex}/")
    return ", and ".join(parts)


def spoken(phrase: str) -> list[list[str]]:
    """The ways in which a phrase may be spoken, each as its words without digits: numbers digit by digit, and whole."""
    said = words(phrase)
    ways = [
        [part for word in said for part in _aloud(word, whole=False)],
        [part for word in said for part in _aloud(word, whole=True)],
        plain(phrase).split(),
    ]
    return [way for at, way in enumerate(ways) if way not in ways[:at] and not any(map(_has_digit, way))]


@dataclass(frozen=True, slots=True)
class WordErrors:
    """How a text differs from the one that was meant."""

    words: int
    "Of the text that was meant."
    replaced: int
    left_out: int
    put_in: int

    @property
    def rate(self) -> float:
        """Word error rate: 0 is perfect, and more than 1 is possible. Of an empty text 0, or 1 when words came."""
        wrong = self.replaced + self.left_out + self.put_in
        return wrong / self.words if self.words else float(bool(wrong))


def word_errors(meant: str, heard: str) -> WordErrors:
    """Compare two texts by the least number of changes (Levenshtein over `words`)."""
    reference, found = words(meant), words(heard)
    # Of each prefix of `found`: changes, replaced, left out, put in; the fewest changes win.
    row = [(count, 0, 0, count) for count in range(len(found) + 1)]
    for wanted in reference:
        above, row = row, [(row[0][0] + 1, row[0][1], row[0][2] + 1, row[0][3])]
        for at, word in enumerate(found):
            same = above[at]
            if word == wanted:
                row.append(same)
                continue
            up, left = above[at + 1], row[at]
            row.append(
                min(
                    (same[0] + 1, same[1] + 1, same[2], same[3]),
                    (up[0] + 1, up[1], up[2] + 1, up[3]),
                    (left[0] + 1, left[1], left[2], left[3] + 1),
                )
            )
    return WordErrors(len(reference), *row[-1][1:])


# --- words -------------------------------------------------------------------------------


def _straight(text: str) -> str:
    return text[:MAX_LETTERS].lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")


def _opened(word: str) -> list[str]:
    if word in CONTRACTIONS:
        return CONTRACTIONS[word].split()
    for ending, full in ENDINGS:
        if word.endswith(ending) and word != ending:
            return (word.removesuffix(ending) + full).split()
    return [word]


# --- numbers -----------------------------------------------------------------------------


def _numbers(said: list[str]) -> Iterator[str]:
    """Write numbers that are spoken as one in digits."""
    at = 0
    while at < len(said):
        value, end = _number(said, at)
        if end > at:
            yield value
        else:
            yield _single(said, at)
        at = max(end, at + 1)


def _single(said: list[str], at: int) -> str:
    word = said[at]
    if word in ORDINALS:
        return f"{ORDINALS[word]}th"
    if found := _ORDINAL.fullmatch(word):
        return f"{found[1]}th"
    beside = said[max(0, at - 1) : at] + said[at + 1 : at + 2]
    if word in ("oh", "o") and any(other in UNITS or other.isdecimal() for other in beside):
        return "0"
    return word


def _number(said: list[str], at: int) -> tuple[str, int]:
    """The number that begins there, in digits, and where it ends; nothing: it ends where it begins."""
    total, group, end = 0, -1, at
    if said[at].isdecimal() and not (at + 1 < len(said) and said[at + 1] in SCALES):
        return said[at], at + 1
    while end < len(said):
        word = said[end]
        if word in SCALES and group >= 0:
            if word == "hundred":
                if not 0 < group < 100:
                    break
                group *= 100
            else:
                total, group = total + group * SCALES[word], 0
            end += 1
        elif word == "and" and end > at and said[end - 1] in SCALES and _small(said, end + 1) is not None:
            end += 1
        elif (small := _small(said, end)) is not None and (group < 0 or (said[end - 1] in (*SCALES, "and"))):
            value, end = small
            if isinstance(value, str):
                return value, end
            group = max(group, 0) + value
        else:
            break
    return (str(total + group), end) if group >= 0 else ("", at)


def _small(said: list[str], at: int) -> tuple[int | str, int] | None:
    """A number below a hundred, or of digits, that begins there; text: an ordinal, `twenty first`."""
    if at >= len(said):
        return None
    word = said[at]
    if word.isdecimal():
        return int(word), at + 1
    if word in UNITS:
        return UNITS[word], at + 1
    if word in TENS:
        follower = said[at + 1] if at + 1 < len(said) else ""
        if 0 < UNITS.get(follower, 0) < 10:
            return TENS[word] + UNITS[follower], at + 2
        if 0 < ORDINALS.get(follower, 0) < 10:
            return f"{TENS[word] + ORDINALS[follower]}th", at + 2
        return TENS[word], at + 1
    return None


def _has_digit(word: str) -> bool:
    return any(letter.isdecimal() for letter in word)


def _aloud(word: str, *, whole: bool) -> list[str]:
    """A word of `words` as it is spoken; only numbers change."""
    if (found := _ORDINAL.fullmatch(word)) and len(found[1]) <= MAX_WHOLE:
        number = int(found[1])
        if number in _ORDINAL_WORDS:
            return [_ORDINAL_WORDS[number]]
        last = _ORDINAL_WORDS.get(number % 10)
        return [*_cardinal(number - number % 10), *([last] if last else [])]
    if not word.isdecimal():
        return [word]
    if whole and len(word) <= MAX_WHOLE and not word.startswith("0"):
        return _cardinal(int(word))
    return [_UNIT_WORDS[int(digit)] for digit in word]


def _cardinal(number: int) -> list[str]:
    for scale, name in ((1000, "thousand"), (100, "hundred")):
        if number >= scale:
            rest = _cardinal(number % scale) if number % scale else []
            return [*_cardinal(number // scale), name, *rest]
    if number in _UNIT_WORDS:
        return [_UNIT_WORDS[number]]
    unit = [_UNIT_WORDS[number % 10]] if number % 10 else []
    return [_TEN_WORDS[number - number % 10], *unit]


def _runs(wanted: list[str]) -> list[str]:
    """Join numbers that stand side by side."""
    joined: list[str] = []
    for word in wanted:
        if word.isdecimal() and joined and joined[-1].isdecimal():
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _begins(said: Sequence[str], at: int, wanted: Sequence[str]) -> bool:
    for word in wanted:
        rest = word
        while True:
            if at >= len(said):
                return False
            here = said[at]
            at += 1
            if here == rest:
                break
            if not (rest.isdecimal() and here.isdecimal() and here and rest.startswith(here)):
                return False
            rest = rest[len(here) :]
    return True
