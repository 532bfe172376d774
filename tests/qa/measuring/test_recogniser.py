"""What the recogniser's process does, within this one: flite speaks, pocketsphinx hears."""

from __future__ import annotations

import asyncio
import io
import struct
import sys
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from offhook.agents.speech import stt_worker
from offhook.agents.speech.stt_worker import FRAME
from offhook.qa.activity import RATE
from offhook.qa.measuring import recogniser as room
from offhook.qa.measuring.recogniser import MAX_PIECE, Answer, Recogniser, Request, differences, main
from offhook.qa.voice import Voice

ORDER = "Your order number is four seven one two."
TABLE = "I would like to book a table for five people."


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser()


@pytest.fixture(scope="module")
def spoken() -> dict[str, bytes]:
    voice = Voice("flite", "rms")
    return {text: asyncio.run(voice.speak(text)).tobytes() for text in (ORDER, TABLE)}


@pytest.mark.parametrize(
    ("phrase", "said", "expected"),
    [
        ("ab cd", "xxabcdxx", (0, 0)),
        ("abc def", "xxabcdxefx", (0, 1)),
        ("ab cd", "xxacd", (1, 0)),
        ("abc def", "abcxyz", (0, 3)),
        ("ab", "", (2,)),
    ],
)
def test_sounds_are_found_although_some_differ(phrase: str, said: str, expected: tuple[int, ...]) -> None:
    assert tuple(differences([list(word) for word in phrase.split()], said)) == expected


def test_numbers_must_beat_all_others(recogniser: Recogniser, spoken: dict[str, bytes]) -> None:
    wanted = ["4712", "4713", "4702", "9712", "471", "order number", "number is forty"]
    answer = recogniser.answer(Request(wanted), spoken[ORDER])
    assert answer.text == "your order number is four seven one two"
    assert answer.found == ["4712", "471", "order number"], "the text decides that 471 is the beginning of a number"
    assert answer.unknown == []


def test_one_word_for_another_is_another_sentence(recogniser: Recogniser, spoken: dict[str, bytes]) -> None:
    wanted = ["would like to book", "would like to speak", "table for five people", "table for six people", "yes", "no"]
    answer = recogniser.answer(Request(wanted), spoken[TABLE])
    assert answer.found == ["would like to book", "table for five people"]


def test_words_that_the_dictionary_has_not(recogniser: Recogniser, spoken: dict[str, bytes]) -> None:
    answer = recogniser.answer(Request(["bookatable", "offhook order", "xqzw", "?!"]), spoken[TABLE])
    assert answer.unknown == ["bookatable", "xqzw"], "offhook is put together of two words"
    assert answer.found == []
    assert recogniser.answer(Request(), spoken[TABLE]).unknown == []


def test_silence_has_no_words(recogniser: Recogniser) -> None:
    assert recogniser.answer(Request(["order"]), bytes(RATE * 2)) == Answer()
    assert recogniser.answer(Request(["order"]), b"") == Answer()


def test_long_turns_are_cut_where_it_is_quiet(recogniser: Recogniser, spoken: dict[str, bytes]) -> None:
    turn = np.asarray(np.random.default_rng(1).normal(0, 3000, MAX_PIECE * 2), np.int16)
    turn[MAX_PIECE * 3 // 4 : MAX_PIECE * 3 // 4 + 800] = 0
    pieces = room._pieces(turn)
    assert sum(map(len, pieces)) == len(turn)
    assert max(map(len, pieces)) <= MAX_PIECE
    assert 0 <= len(pieces[0]) - MAX_PIECE * 3 // 4 <= 800
    assert np.array_equal(np.concatenate(pieces), turn)


def test_a_phrase_is_found_in_any_piece(
    recogniser: Recogniser, spoken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_PIECE", 4 * RATE)
    answer = recogniser.answer(Request(["4712"]), spoken[ORDER] + bytes(RATE * 2) + spoken[TABLE])
    assert answer.found == ["4712"]
    assert answer.text.startswith("your order number is four seven one two i would like")


def test_requests_are_answered_until_the_input_ends(
    recogniser: Recogniser, spoken: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = msgspec.json.encode(Request(["order"]))
    audio = spoken[ORDER]
    out = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=io.BytesIO(FRAME.pack(len(head), len(audio)) + head + audio))
    )
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out))
    nice: list[int] = []
    monkeypatch.setattr(room.os, "nice", nice.append)
    monkeypatch.setattr(stt_worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(stt_worker, "die_with_parent", lambda: None)
    monkeypatch.setattr(room, "Recogniser", lambda: recogniser)
    main()
    length, nothing = struct.unpack_from("!II", out.getvalue())
    assert (length, nothing) == (len(out.getvalue()) - FRAME.size, 0)
    answer = msgspec.json.decode(out.getvalue()[FRAME.size :], type=Answer)
    assert answer == Answer("your order number is four seven one two", ["order"])
    assert nice == [room.NICE]
