"""The machine that follows a flow: what the caller does in, what is to be done out.

Theory of operation
-------------------
One step is current. Entering it gives its actions up to the first that waits: for a choice, for digits, for the end
of a message, for a transfer to fail. Whatever happens then is told by one of the methods, which give the actions up
to the next wait. A list of actions ends with `Wait`, `Record`, `Transfer` or `Hangup`, and only there.

Steps that lead on at once are followed within one list; `settings` has made sure that they do not go round. Pure: no
clocks, no audio.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from offhook.agents.flow.settings import FlowSettings, Queue, Step, fill
from offhook.agents.speech.grammar import Grammar

MAX_REFUSED: Final = 5
"""Transfers of one call that may fail; a flow that goes on trying is going round."""


@dataclass(frozen=True, slots=True)
class Say:
    """Say this."""

    text: str
    interrupt: bool = True
    "Whether the caller may cut it short."


@dataclass(frozen=True, slots=True)
class Play:
    """Play this sound once."""

    sound: str
    interrupt: bool = True


@dataclass(frozen=True, slots=True)
class Music:
    """Play this under everything from now on; empty: stop."""

    sound: str
    volume: float = 1.0


@dataclass(frozen=True, slots=True)
class Note:
    """Put this into the call record."""

    name: str
    data: dict[str, str]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for `key`, `said` or, after so many seconds of silence on both sides, `timed_out`."""

    seconds: float
    grammar: Grammar | None = None
    "What may be said; None: only keys count."


@dataclass(frozen=True, slots=True)
class Record:
    """Let the caller leave a message, then `recorded`."""

    seconds: float
    pause: float


@dataclass(frozen=True, slots=True)
class Transfer:
    """Connect the caller, after the last word; `transfer_refused` when that does not work."""

    to: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """Hang up, after the last word."""

    reason: str


Action = Say | Play | Music | Note | Wait | Record | Transfer | Hangup


class Script:
    """One caller's way through a flow."""

    def __init__(self, flow: FlowSettings, variables: Mapping[str, str]) -> None:
        self.flow = flow
        self.variables = dict(variables)
        "By name, as `{name}` in texts."
        self.step = ""
        "Name of the current step; empty before the call is up."
        self._asked_again = 0
        self._typed = ""
        self._waited = 0.0
        self._refused = 0

    @property
    def _now(self) -> Step:
        return self.flow.steps[self.step]

    def begin(self) -> list[Action]:
        """The call is up."""
        return self._enter(self.flow.start)

    def key(self, digit: str) -> list[Action] | None:
        """The caller pressed a key; None: it means nothing here, and the wait goes on."""
        step = self._now
        if step.menu is not None:
            target = step.menu.keys.get(digit)
            return self._again() if target is None else self._chosen(target, digit)
        if step.gather is not None:
            if digit == step.gather.terminator:
                return self._gathered()
            if not digit.isdigit():
                return self._again()
            self._typed += digit
            return self._gathered() if len(self._typed) == step.gather.digits else [Wait(step.gather.timeout)]
        if step.queue is not None and digit in step.queue.keys:
            return [Music(""), *self._chosen(step.queue.keys[digit], digit)]
        return None

    def said(self, answer: str | None) -> list[Action]:
        """The caller said something: an answer of the grammar's, or nothing that it has."""
        return self._again() if answer is None else self._chosen(answer, "said")

    def timed_out(self) -> list[Action]:
        """Nothing came while it was waited."""
        step = self._now
        if step.queue is not None:
            self._waited += self._queue(step.queue).seconds
            if self._waited >= step.queue.seconds:
                return [Music(""), *self._enter(step.queue.goto)]
            message = self._text(step.queue.message).strip()
            return [*([Say(message)] if message else []), self._queue(step.queue)]
        if step.gather is not None and self._typed:
            return self._gathered()
        return self._again(silent=True)

    def recorded(self, seconds: float) -> list[Action]:
        """The message is over."""
        record = self._now.record
        assert record is not None
        data = {**self.variables, "seconds": f"{seconds:.0f}"}
        after: list[Action] = self._enter(record.goto) if record.goto else [Hangup("message left")]
        return [Note(record.note, data), *after]

    def transfer_refused(self) -> list[Action]:
        """The caller could not be connected."""
        transfer = self._now.transfer
        assert transfer is not None
        self._refused += 1
        if transfer.otherwise and self._refused < MAX_REFUSED:
            return self._enter(transfer.otherwise)
        return [Say(self._text(self.flow.failed), interrupt=False), Hangup("transfer failed")]

    # --- steps

    def _text(self, text: str) -> str:
        return fill(text, self.variables)

    def _enter(self, name: str) -> list[Action]:
        self.step, self._asked_again, self._waited = name, 0, 0.0
        step = self._now
        for variable, text in step.set.items():
            self.variables[variable] = self._text(text)
        return self._prompt() + self._lead_on(step)

    def _prompt(self) -> list[Action]:
        step = self._now
        actions: list[Action] = []
        if text := self._text(step.say).strip():
            actions.append(Say(text, step.interrupt))
        if step.play:
            actions.append(Play(step.play, step.interrupt))
        return actions

    def _lead_on(self, step: Step) -> list[Action]:
        self._typed = ""
        if step.menu is not None:
            return [Wait(step.menu.timeout, self.flow.grammar(self.step))]
        if step.gather is not None:
            return [Wait(step.gather.timeout)]
        if step.queue is not None:
            return [Music(step.queue.music, step.queue.volume), self._queue(step.queue)]
        if step.record is not None:
            return [Record(step.record.seconds, step.record.pause)]
        if step.transfer is not None:
            return [Transfer(self._text(step.transfer.to))]
        if (condition := step.condition) is not None:
            value = self._text(condition.value)
            fits = value in condition.equals or bool(condition.matches and re.fullmatch(condition.matches, value))
            return self._enter(condition.goto if fits else condition.otherwise)
        return self._enter(step.goto) if step.goto else [Hangup(step.hangup)]

    def _queue(self, queue: Queue) -> Wait:
        return Wait(min(queue.every, queue.seconds - self._waited))

    def _chosen(self, target: str, how: str) -> list[Action]:
        return [Note("choice", {"step": self.step, "by": how, "to": target}), *self._enter(target)]

    def _gathered(self) -> list[Action]:
        gather = self._now.gather
        assert gather is not None
        if len(self._typed) < gather.least:
            return self._again()
        self.variables[gather.into] = self._typed
        # Not the digits themselves: they may be a secret.
        return [
            Note("gathered", {"step": self.step, "into": gather.into, "digits": str(len(self._typed))}),
            *self._enter(gather.goto),
        ]

    def _again(self, *, silent: bool = False) -> list[Action]:
        step = self._now
        asking = step.menu or step.gather
        assert asking is not None
        if self._asked_again >= asking.retries:
            if asking.otherwise:
                return self._enter(asking.otherwise)
            return [Hangup("caller silent" if silent else "not understood")]
        self._asked_again += 1
        sorry = "" if silent else self._text(asking.invalid).strip()
        return [*([Say(sorry)] if sorry else []), *self._prompt(), *self._lead_on(step)]


__all__ = ["Action", "Hangup", "Music", "Note", "Play", "Record", "Say", "Script", "Transfer", "Wait"]
