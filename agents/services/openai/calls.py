"""Putting streamed function calls together again.

OpenAI sends the name first and the arguments in fragments that an `index` keeps apart. Others send whole calls at
once, the same index for all, no index, no id, an id that is empty, arguments that are null or an object.
"""

from __future__ import annotations

import json
from typing import Any

from offhook.agents.services.base import FunctionCall
from offhook.agents.services.messages import new_call_id


class _Call:
    def __init__(self, id: str, name: str) -> None:
        self.id, self.name, self.arguments = id, name, ""

    @property
    def whole(self) -> bool:
        try:
            return isinstance(json.loads(self.arguments), dict)
        except ValueError:
            return False


class CallAssembly:
    """The function calls of one reply."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._at: dict[int, _Call] = {}
        self._taken = 0
        self._ids: set[str] = set()

    def feed(self, fragment: Any) -> None:
        """Take one of a delta's `tool_calls`."""
        function = fragment.function
        name = (function.name if function is not None else None) or ""
        arguments = function.arguments if function is not None else None
        text = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
        id = fragment.id or ""
        if fragment.index is None:
            call = self._calls[-1] if self._calls else None
        else:
            call = self._at.get(fragment.index)
        if call is None or self._is_another(call, id, name, text):
            call = _Call(id, name)
            self._calls.append(call)
            if fragment.index is not None:
                self._at[fragment.index] = call
        call.id = call.id or id
        call.name = call.name or name
        call.arguments += text

    def take(self) -> list[FunctionCall]:
        """The calls that have not been taken yet, in the order they began, each with an id of its own."""
        calls = []
        for call in self._calls[self._taken :]:
            id = call.id if call.id and call.id not in self._ids else new_call_id()
            self._ids.add(id)
            calls.append(FunctionCall(id, call.name, call.arguments or "{}"))
        self._taken = len(self._calls)
        return calls

    @staticmethod
    def _is_another(call: _Call, id: str, name: str, arguments: str) -> bool:
        """The fragment, though in the place of `call`, begins a new one."""
        if not name:
            return False
        if id and call.id and id != call.id:
            return True
        return bool(call.name) and (name != call.name or (bool(arguments) and call.whole))
