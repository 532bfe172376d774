"""The conversation so far, in the shape of OpenAI's chat messages, with only what the caller heard.

Theory of operation
-------------------
What the agent says is kept as the lines it was said in. A line on its way counts whole, for it will be heard; when the
gateway reports that it was cut, what is left of it is what was heard, and a line that was never heard is gone. So the
messages are written anew for each request, and the last ones may still change.

Every call of a function has a result among the messages, as models demand: until the real one is there, a stand-in.

A conversation that has grown long is summarised: the oldest messages give way to one that tells what they said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from offhook.agents.services.base import FunctionCall, Message

RUNNING: Final = "(still running; its result will follow)"
"""Stands in for the result of a function that has not come back."""

CHARACTERS_PER_TOKEN: Final = 4
"""For deciding when a conversation is long: a rule of thumb for European languages, and nothing depends on it."""


class Said(Protocol):
    """A line of speech, as far as the context needs it."""

    @property
    def text_so_far(self) -> str:
        """Its text if it is still to be heard or was heard whole, else the part that was heard."""


@dataclass
class Reply:
    """One message of the agent's: what it said, and the functions it called."""

    lines: list[Said] = field(default_factory=list)
    calls: list[FunctionCall] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def message(self) -> Message | None:
        """As a chat message; None when nothing of it was heard."""
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
        self._entries: list[Entry] = list(history)
        self._results: dict[str, str] = {
            message["tool_call_id"]: message["content"] for message in history if message.get("role") == "tool"
        }
        self._entries = [entry for entry in self._entries if not (isinstance(entry, dict) and entry["role"] == "tool")]
        self._sent: list[Message] = list(history)

    def caller(self, text: str) -> None:
        """The caller said something. What he says in several goes is one message."""
        last = self._entries[-1] if self._entries else None
        if isinstance(last, Reply) and last.message() is None:
            self._entries.pop()
            last = self._entries[-1] if self._entries else None
        if isinstance(last, dict) and last["role"] == "user":
            self._entries[-1] = {"role": "user", "content": f"{last['content']} {text}"}
        else:
            self._entries.append({"role": "user", "content": text})

    def reply(self, reply: Reply) -> None:
        """The agent begins to say something."""
        self._entries.append(reply)

    def note(self, text: str) -> None:
        """Tell the model something that nobody said."""
        self._entries.append({"role": "system", "content": text})

    def result(self, id: str, content: str) -> None:
        """A function has come back."""
        self._results[id] = content

    def messages(self) -> list[Message]:
        """Everything, ready for a language model."""
        messages: list[Message] = []
        for entry in self._entries:
            message = entry.message() if isinstance(entry, Reply) else entry
            if message is None:
                continue
            messages.append(message)
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": self._results.get(call["id"], RUNNING)}
                for call in message.get("tool_calls", ())
            ]
        return messages

    def changes(self) -> tuple[int, list[Message]] | None:
        """What changed since the last time: number of the first new message, and all from there on; None: nothing."""
        now = self.messages()
        same = 0
        for old, new in zip(self._sent, now, strict=False):
            if old != new:
                break
            same += 1
        if same == len(now) == len(self._sent):
            return None
        self._sent = now
        return same, now[same:]

    # --- summarising

    def tokens(self) -> int:
        """About how long the conversation is."""
        return sum(len(json.dumps(message, ensure_ascii=False)) for message in self.messages()) // CHARACTERS_PER_TOKEN

    def oldest(self, keep: int) -> tuple[int, list[Message]]:
        """All but the last `keep` entries: how many entries they are, and their messages."""
        count = max(0, len(self._entries) - keep)
        kept, self._entries = self._entries, self._entries[:count]
        try:
            return count, self.messages()
        finally:
            self._entries = kept

    def replace_oldest(self, count: int, summary: str) -> None:
        """Put a summary in the place of the first `count` entries."""
        said = {"role": "system", "content": f"Summary of the conversation so far: {summary}"}
        self._entries[:count] = [said]
