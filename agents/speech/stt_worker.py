"""The recogniser's own process: `python -m offhook.agents.speech.stt_worker`.

pocketsphinx holds Python's lock while it decodes, some 60 ms a sentence, which no event loop can spare. So it
lives in a child that reads requests from standard input and answers on standard output, one at a time, each
framed by its length: a request is a JSON head and the audio behind it, an answer is JSON.
"""

from __future__ import annotations

import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final, TypeVar

import msgspec
import pocketsphinx

from offhook.agents.parent import die_with_parent
from offhook.codecs.convert import resample_all

FRAME: Final = struct.Struct("!II")
"""Lengths of the head and of the audio."""

MODEL_RATE: Final = 16000
"""The model that comes with pocketsphinx hears 16 kHz; telephone audio is converted up."""


RequestT = TypeVar("RequestT")


class Request(msgspec.Struct):
    """One sentence to understand."""

    grammar: str
    "Name of the word graph; sent with the graph the first time."
    arcs: list[tuple[int, int, str]] = []
    finals: list[int] = []


class Answer(msgspec.Struct):
    """What was said."""

    text: str = ""
    score: float = 0.0
    "How well the sound fits the words, from 0 to 1; see stt.least_score."
    unknown: list[str] = []
    "Words of the grammar that the dictionary does not have; their phrases cannot be heard."


class Worker:
    """One decoder and the grammars it has been given."""

    def __init__(self) -> None:
        self._decoder: Any = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
        self._known: dict[str, list[str]] = {}

    def answer(self, request: Request, pcm: bytes) -> Answer:
        """Understand int16 audio at 8 kHz; without audio the grammar is only learnt."""
        if request.grammar not in self._known:
            self._known[request.grammar] = self._learn(request)
        unknown = self._known[request.grammar]
        if not pcm:
            return Answer(unknown=unknown)
        decoder = self._decoder
        decoder.activate_search(request.grammar)
        decoder.start_utt()
        # The whole sentence at once: its loudness is normalised over all of it, which understands phones better.
        decoder.process_raw(resample_all(pcm, 8000, MODEL_RATE), False, True)
        decoder.end_utt()
        found = decoder.hyp()
        if found is None or not found.hypstr:
            return Answer(unknown=unknown)
        return Answer(found.hypstr, float(found.best_score), unknown)

    def _learn(self, request: Request) -> list[str]:
        unknown = sorted({word for _, _, word in request.arcs if self._decoder.lookup_word(word) is None})
        arcs: list[tuple[Any, ...]] = [
            (start, end, 1.0, word) for start, end, word in request.arcs if word not in unknown
        ]
        final = 1 + max((max(start, end) for start, end, _ in request.arcs), default=0)
        arcs += [(state, final, 1.0) for state in request.finals]
        graph = self._decoder.create_fsg(request.grammar, 0, final, arcs)
        self._decoder.add_fsg(request.grammar, graph)
        return unknown


def read_frame(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """One request; None at the end of the stream."""
    lengths = stream.read(FRAME.size)
    if len(lengths) < FRAME.size:
        return None
    head, audio = FRAME.unpack(lengths)
    return stream.read(head), stream.read(audio)


def serve(start: Callable[[], Callable[[RequestT, bytes], object]], kind: type[RequestT]) -> None:
    """Answer requests until standard input ends.

    Args:
        start: loads what answers a request and its audio; that it takes long is no harm.
        kind: of the requests.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
    answer = start()
    out = sys.stdout.buffer
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        told = msgspec.json.encode(answer(msgspec.json.decode(frame[0], type=kind), frame[1]))
        out.write(FRAME.pack(len(told), 0) + told)
        out.flush()


if __name__ == "__main__":
    serve(lambda: Worker().answer, Request)
