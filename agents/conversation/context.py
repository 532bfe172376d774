"""The conversation so far, in the shape of OpenAI's chat messages, with only what the caller heard.

Theory of operation
-------------------
What the agent says is kept as the lines it was said in. A line on its way counts whole, for it will be heard; when the
gateway reports that it was cut, what is left of it is what was heard, and a line that was never heard is gone. So the
messages are written anew for each request, and the last ones may still change; one that cannot change any more is
written once.

Every call of a function has a result among the messages, as models demand: until the real one is there, a stand-in.
Some models call every function by the same id; here each has its own.

A conversation that has grown long is summarised: the oldest messages give way to one that tells what they said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Final, Protocol

from offhook.agents.services.base import FunctionCall, Message

RUNNING: Final = "(still running; its result will follow)"
"""Stands in for the result of a function that has not come back."""

LOST: Final = "(not known: the line broke while it was running)"
"""The same for one whose host is gone."""

MESSAGE: Final = 20
"""Characters that stand for what each message has around its text."""

CHARACTERS_PER_TOKEN: Final = 4
"""For deciding when a conversation is long: a rule of thumb for European languages, and nothing depends on it."""


class Said(Protocol):
    """A line of speech, as far as the context needs it."""

    @property
    def text_so_far(self) -> str:
        """Its text if it is still to be heard or was heard whole, else the part that was heard."""

    @property
    def settled(self) -> bool:
        """Whether that text will not change any more."""


@dataclass
class Reply:
    """One message of the agent's: what it said, and the functions it called."""

    lines: list[Said] = field(default_factory=list)
    calls: list[FunctionCall] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    _written: tuple[int, int, Message | None] | None = None
    "Number of lines, number of calls, and the message, once all of these lines were over."

    def message(self) -> Message | None:
        """As a chat message; None when nothing of it was heard."""
        size = len(self.lines), len(self.calls)
        if self._written is not None and self._written[:2] == size:
            return self._written[2]
        settled = self.settled
        message = self._write()
        if settled:
            self._written = *size, message
        return message

    @property
    def settled(self) -> bool:
        """Whether nothing that was said in it can change any more."""
        return all(line.settled for line in self.lines)

    def _write(self) -> Message | None:
        text = " ".join(said for line in self.lines if (said := line.text_so_far))
        if not text and not self.calls:
            return None
        message: Message = {"role": "assistant", "content": text or None, **self.extra}
        if self.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.calls
            ]
        return message


Entry = Message | Reply


class Context:
    """The conversation of one call."""

    def __init__(self, history: Sequence[Message] = ()) -> None:
        self._entries: list[Entry] = [message for message in history if message.get("role") != "tool"]
        self._results: dict[str, Message] = {}
        self._ids = {call["id"] for message in self._entries if isinstance(message, dict) for call in _calls(message)}
        self._sent: list[Message] = list(history)
        for message in history:
            if message.get("role") == "tool":
                content = message.get("content")
                self.result(message["tool_call_id"], LOST if content == RUNNING else str(content))

    def caller(self, text: str) -> None:
        """The caller said something. What he says in several goes is one message."""
        self._entries.append({"role": "user", "content": text})

    def reply(self, reply: Reply) -> None:
        """The agent begins to say something."""
        self._entries.append(reply)

    def note(self, text: str) -> None:
        """Tell the model something that nobody said."""
        self._entries.append({"role": "system", "content": text})

    def own_id(self, call: FunctionCall) -> FunctionCall:
        """The same call, with an id that no other one of this conversation has."""
        id, number = call.id or "call", 1
        while id in self._ids or not id:
            number += 1
            id = f"{call.id or 'call'}_{number}"
        self._ids.add(id)
        return call if id == call.id else replace(call, id=id)

    def result(self, id: str, content: str) -> None:
        """A function has come back."""
        self._results[id] = {"role": "tool", "tool_call_id": id, "content": content}

    def messages(self, *, also: str = "") -> list[Message]:
        """Everything, ready for a language model; `also` is what the caller seems to have said since."""
        messages: list[Message] = []
        for entry in (*self._entries, {"role": "user", "content": also}) if also else self._entries:
            message = entry.message() if isinstance(entry, Reply) else entry
            if message is None:
                continue
            if message["role"] == "user" and messages and messages[-1]["role"] == "user":
                messages[-1] = {"role": "user", "content": f"{messages[-1]['content']} {message['content']}"}
                continue
            messages.append(message)
            for call in _calls(message):
                result = self._results.get(call["id"])
                messages.append(result or {"role": "tool", "tool_call_id": call["id"], "content": RUNNING})
        return messages

    def changes(self) -> tuple[int, list[Message]] | None:
        """What changed since the last time: number of the first new message, and all from there on; None: nothing."""
        now = self.messages()
        same = 0
        for old, new in zip(self._sent, now, strict=False):
            if old is not new and old != new:
                break
            same += 1
        if same == len(now) == len(self._sent):
            return None
        self._sent = now
        return same, now[same:]

    # --- summarising

    def tokens(self) -> int:
        """About how long the conversation is."""
        return sum(map(_length, self.messages())) // CHARACTERS_PER_TOKEN

    def oldest(self, keep: int) -> tuple[int, list[Message]]:
        """All but the last `keep` entries: how many entries they are, and their messages.

        What may still change, and a function that has not come back, stay with the last.
        """
        first = self._entries[: max(0, len(self._entries) - keep)]
        count = sum(1 for _ in takewhile(self._is_over, first))
        kept, self._entries = self._entries, self._entries[:count]
        try:
            return count, self.messages()
        finally:
            self._entries = kept

    def replace_oldest(self, count: int, summary: str) -> None:
        """Put a summary in the place of the first `count` entries."""
        said = {"role": "system", "content": f"Summary of the conversation so far: {summary}"}
        self._entries[:count] = [said]

    def _is_over(self, entry: Entry) -> bool:
        if not isinstance(entry, Reply):
            return True
        return entry.settled and all(call.id in self._results for call in entry.calls)


def _calls(message: Message) -> Sequence[dict[str, Any]]:
    """The functions that a message calls."""
    return message.get("tool_calls") or ()


def _length(message: Message) -> int:
    calls = sum(len(call["function"]["name"]) + len(call["function"]["arguments"]) for call in _calls(message))
    return MESSAGE + len(message.get("content") or "") + calls
