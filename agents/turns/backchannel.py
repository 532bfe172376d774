"""What people say only to show that they listen: "uh-huh", "okay", "genau".

It counts as such only while the other one speaks; in answer to a question the same words are an answer.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

__all__ = ["FILLER", "HUM", "Phrases", "content_words", "phrases_of", "words_of"]

Phrases = frozenset[tuple[str, ...]]
"""Each phrase as its words, in lower case."""

FILLER: Final = re.compile(r"u+h+m*|u+m+|e+h*m+|e+r+m+|ä+h+m*|ä+m+|ö+h+m*")
"""What fills the gap while somebody thinks, however it is spelt: uh, uhm, um, erm, äh, ähm, öh."""

HUM: Final = re.compile(r"[hm]+|[ae]h+|" + FILLER.pattern)
"""Any sound that is no word: these, and mm, hmm, mhm, ah, eh."""

EVERYWHERE: Final = "ok, okay, aha, ah, oh, huh, uh-huh, uhuh, mm-hmm, mhm"

LISTS: Final = {
    "en": "er, yes, yeah, yea, ya, yep, yup, right, alright, all right, sure, sure thing, i see, i know, i understand, "
    "got it, gotcha, good, very good, great, nice, cool, fine, wow, really, true, exactly, absolutely, of course, "
    "makes sense, okey dokey, that's right, that's true, interesting, sounds good",
    "de": "ja, jaja, jo, jep, genau, ganz genau, gut, sehr gut, gut gut, klar, alles klar, na klar, stimmt, "
    "das stimmt, richtig, eben, ach, ach so, achso, ach ja, so so, verstehe, ich verstehe, verstanden, super, prima, "
    "schön, toll, echt, wirklich, natürlich, in ordnung, freilich, sicher, interessant",
    "fr": "oui, ouais, d'accord, ah bon, voilà, très bien, bien, bien sûr, exactement, je vois, je comprends, parfait",
    "es": "sí, si, ya, vale, claro, claro que sí, bueno, bien, muy bien, de acuerdo, entiendo, ya veo, exacto, "
    "perfecto",
}

_WORD: Final = re.compile(r"\w+(?:['’]\w+)*")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; a hyphen parts words."""
    return [word.replace("’", "'") for word in _WORD.findall(text.casefold())]


@functools.lru_cache(maxsize=64)
def phrases_of(language: str, own: tuple[str, ...] | None = None) -> Phrases:
    """The back-channels of a language (BCP 47, such as de-AT), or one's own list in their place."""
    if own is None:
        listed = f"{EVERYWHERE}, {LISTS.get(re.split('[-_]', language.lower())[0], '')}".split(",")
    else:
        listed = list(own)
    return frozenset(tuple(words) for phrase in listed if (words := words_of(phrase)))


def content_words(text: str, phrases: Phrases, *, growing: bool = False) -> int:
    """Count the words that are no back-channel.

    Args:
        text: what was said.
        phrases: of `phrases_of`. Where there are none, hums count as words, too.
        growing: more may follow, so that "I" at the end may yet become "I see" and is not counted.
    """
    words = words_of(text)
    if not phrases:
        return len(words)
    longest = max(map(len, phrases))
    count = at = 0
    while at < len(words):
        size = next((n for n in range(longest, 0, -1) if tuple(words[at : at + n]) in phrases), 0)
        if size == 0 and growing and _begins_phrase(words[at:], phrases):
            break
        if size == 0 and not HUM.fullmatch(words[at]):
            count += 1
        at += size or 1
    return count


def _begins_phrase(words: Sequence[str], phrases: Phrases) -> bool:
    """Whether a phrase begins with these words, the last of which may be cut short."""
    for phrase in phrases:
        if len(words) <= len(phrase):
            *whole, last = words
            if list(phrase[: len(whole)]) == whole and phrase[len(whole)].startswith(last):
                return True
    return False
