"""Understanding a sentence out of a small grammar, with no key and no network: pocketsphinx in child processes.

A grammar is what may be said to one question. Whatever was said, the recogniser finds the sentence of the grammar
that sounds most like it, so the score decides whether to believe it; a dialogue confirms what matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec

from offhook.agents.speech.grammar import Grammar, Meaning
from offhook.agents.speech.stt_worker import FRAME, Answer, Request

MIN_SCORE: Final = 0.55
"""A sentence of up to three words that fits worse was something else (docs/agents.md has the figures)."""

SCORE_PER_WORD: Final = 0.05
"""Less is asked for each word more: the score sinks with the length, and long sentences seldom fit by chance."""

MIN_SCORE_LONG: Final = 0.40
"""Never less than this: everything fits a string of digits a little."""

TIMEOUT: Final = 5.0
"""Seconds for one sentence; a child that needs more is replaced."""

START: Final = 10.0
"""Seconds for the first sentence of a child, which starts and loads its model for it; usually one."""

MAX_SECONDS: Final = 15
"""Audio beyond this is left out: nobody answers a question that long."""


class RecognizerFailed(Exception):
    """The recogniser's process died or hung; the next sentence gets a new one."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was understood."""

    text: str
    "Empty when nothing in the grammar fits."
    score: float
    meaning: Meaning | None


def least_score(words: int) -> float:
    """The score from which a sentence of so many words is believed."""
    return max(MIN_SCORE_LONG, MIN_SCORE - SCORE_PER_WORD * max(0, words - 3))


class Recognizer:
    """A few recogniser processes that all calls of a host share.

    A process takes 40 MB for its model and some 60 ms for a sentence, so one serves a hundred calls.
    """

    def __init__(self, processes: int = 1) -> None:
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="stt")
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._children: list[_Child] = []
        self._lock = threading.Lock()

    async def recognize(self, grammar: Grammar, pcm: bytes) -> Heard:
        """Understand one sentence.

        Args:
            grammar: what may be said.
            pcm: int16 mono at 8 kHz, the sentence with a little silence around it.

        Raises:
            RecognizerFailed: the process died or did not answer in time.
        """
        limit = MAX_SECONDS * 16_000
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._threads, self._ask, grammar, pcm[-limit:])
        except RecognizerFailed:
            # A child in its place starts while the caller is asked to say it again. What becomes of that, the next
            # sentence tells.
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._threads.submit(self._ask, grammar, b"")
            raise
        if not answer.text or answer.score < least_score(len(answer.text.split())):
            return Heard("", answer.score, None)
        return Heard(answer.text, answer.score, grammar.parse(answer.text))

    def prepare(self, grammars: Sequence[Grammar]) -> list[str]:
        """Start a process and teach it grammars; gives the words it does not know. Blocks.

        Raises:
            RecognizerFailed: it does not start.
        """
        unknown: set[str] = set()
        for grammar in grammars:
            # On the pool's thread, as ever: the kernel ends a child with the thread that started it.
            unknown.update(self._threads.submit(self._ask, grammar, b"").result().unknown)
        return sorted(unknown)

    def _ask(self, grammar: Grammar, pcm: bytes) -> Answer:
        try:
            child = self._idle.get_nowait()
        except queue.Empty:
            child = _Child()
            with self._lock:
                self._children.append(child)
        try:
            answer = child.ask(grammar, pcm)
        except BaseException:
            child.close()
            with self._lock:
                self._children.remove(child)
            raise
        self._idle.put(child)
        return answer

    def close(self) -> None:
        """End the processes. Blocks until the sentences under way are understood."""
        self._threads.shutdown()
        for child in self._children:
            child.close()
        self._children.clear()


class _Child:
    """One recogniser process, used by one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "offhook.agents.speech.stt_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._taught: set[str] = set()

    def ask(self, grammar: Grammar, pcm: bytes) -> Answer:
        """Understand one sentence. Raises RecognizerFailed."""
        name = _name(grammar)
        request = Request(name)
        if name not in self._taught:
            request = Request(name, list(grammar.graph.arcs), sorted(grammar.graph.finals))
        head = msgspec.json.encode(request)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        alarm = threading.Timer(TIMEOUT if self._taught else START, self._process.kill)
        alarm.start()
        try:
            self._process.stdin.write(FRAME.pack(len(head), len(pcm)) + head + pcm)
            self._process.stdin.flush()
            lengths = self._process.stdout.read(FRAME.size)
            if len(lengths) < FRAME.size:
                raise RecognizerFailed(f"the recogniser's process ended with {self._process.wait()}")
            answer = msgspec.json.decode(self._process.stdout.read(FRAME.unpack(lengths)[0]), type=Answer)
        except OSError as error:
            raise RecognizerFailed(f"the recogniser's process is gone: {error}") from error
        finally:
            alarm.cancel()
            alarm.join()
        self._taught.add(name)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def _name(grammar: Grammar) -> str:
    """The same for equal grammars: what a process has been taught it knows under this name."""
    graph = grammar.graph
    return hashlib.sha256(repr((graph.arcs, sorted(graph.finals))).encode()).hexdigest()[:16]
