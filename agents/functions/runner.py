"""Runs what the model wants called: side by side, in time, never more than is good for the call.

Theory of operation
-------------------
`run` takes the calls of one reply and gives their results in the same order, each one something the model can act
on: a result, or what went wrong. Nothing a function does gets past here as an exception. The speech goes on
meanwhile; when a function takes longer than `slow_after`, `on_slow` is told once a run, so that something may be said.

A background function is answered at once with "started"; what became of it goes to `on_background`. When `run` is
cancelled (the caller has interrupted) its functions are cancelled too, except those marked `keep`: they go on, and
their results come through `on_background` as well. `close` ends everything, giving the kept ones KEEP_GRACE seconds.

A model that calls functions in circles is stopped by two caps: calls a turn (`new_turn` begins one) and calls a call.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

from offhook.agents.api import SettingsError
from offhook.agents.functions.base import CallControl, Function, FunctionFailed, FunctionResult
from offhook.agents.services.base import FunctionCall, FunctionSchema

logger = logging.getLogger("offhook.agents.functions")

SLOW_AFTER: Final = 1.2
"""Seconds without a result after which a pause on the telephone feels like a dead line."""

KEEP_GRACE: Final = 4.0
"""Seconds that kept functions have after the hang-up; an agent has 5 s for its `on_over`."""

CANCEL_GRACE: Final = 0.5
"""Seconds that cancelled functions get to tidy up before they are left to themselves."""

MAX_CALLS_PER_TURN: Final = 10
"""Function calls before the model has to say something; more than this is a model going in circles."""

MAX_CALLS: Final = 100
"""Function calls of one telephone call, for the same reason."""

MAX_ARGUMENTS: Final = 32_000
"""Characters of arguments; far above what a sensible function takes."""

MAX_RESULT: Final = 8_000
"""Characters of a result that reach the model: some 2 000 tokens, which every model reads in well under a second."""

MAX_TRACEBACK: Final = 4_000
"""Characters of a traceback that go into the record."""

MAX_NAMES: Final = 40
"""Names of functions that are listed to a model that asked for one that is not there."""

SILENT: Final = ("",)
"""As a function's `filler`: nothing is said while it runs (it speaks itself, or the caller is busy with his keys)."""


class FunctionRunner:
    """The functions of one call, and those of them that are running."""

    def __init__(
        self,
        functions: Iterable[Function],
        control: CallControl,
        *,
        slow_after: float = SLOW_AFTER,
        on_slow: Callable[[FunctionCall], None] | None = None,
        on_background: Callable[[FunctionResult], None] | None = None,
        max_per_turn: int = MAX_CALLS_PER_TURN,
        max_per_call: int = MAX_CALLS,
    ) -> None:
        """Take the functions; nothing is called yet.

        Args:
            functions: what may be called; `replace` changes them.
            control: handed to the functions, and told what went on.
            slow_after: seconds until `on_slow`.
            on_slow: a function of the running `run` is slow; called once a run.
            on_background: what became of a function after its `run` was over.
            max_per_turn: calls a turn.
            max_per_call: calls over all turns.

        Raises:
            SettingsError: two functions have one name.
        """
        self._control = control
        self._slow_after, self._on_slow, self._on_background = slow_after, on_slow, on_background
        self._max_per_turn, self._max_per_call = max_per_turn, max_per_call
        self._in_turn = self._in_call = 0
        self._closed = False
        self._keeping: set[asyncio.Task[FunctionResult]] = set()
        self._running: set[asyncio.Task[FunctionResult]] = set()
        self._functions: dict[str, Function] = {}
        self.replace(functions)

    def replace(self, functions: Iterable[Function]) -> None:
        """Offer these from now on. What runs goes on. Raises SettingsError when two have one name."""
        found: dict[str, Function] = {}
        for function in functions:
            if function.schema.name in found:
                raise SettingsError(f"tools: two functions are called {function.schema.name}; rename one")
            found[function.schema.name] = function
        self._functions = found

    @property
    def schemas(self) -> list[FunctionSchema]:
        """What the model is told of."""
        return [function.schema for function in self._functions.values()]

    @property
    def busy(self) -> bool:
        """True while anything runs, in the background too."""
        return bool(self._running)

    def get(self, name: str) -> Function | None:
        """A function by its name."""
        return self._functions.get(name)

    def new_turn(self) -> None:
        """The caller has spoken: the count of calls a turn begins again."""
        self._in_turn = 0

    async def run(self, calls: Sequence[FunctionCall]) -> list[FunctionResult]:
        """Call these functions side by side; their results in the same order. Raises nothing."""
        loop = asyncio.get_running_loop()
        ready: list[FunctionResult | asyncio.Task[FunctionResult]] = []
        noisy: dict[asyncio.Task[FunctionResult], FunctionCall] = {}
        for call in calls:
            started = self._start(call)
            ready.append(started)
            if isinstance(started, asyncio.Task) and self._functions[call.name].filler != SILENT:
                noisy[started] = call
        waiting = [item for item in ready if isinstance(item, asyncio.Task)]
        slow: asyncio.TimerHandle | None = None
        if noisy and self._on_slow is not None:
            slow = loop.call_later(self._slow_after, self._tell_slow, noisy, self._on_slow)
        try:
            if waiting:
                await asyncio.wait(waiting)
        except asyncio.CancelledError:
            self._abandon(waiting)
            raise
        finally:
            if slow is not None:
                slow.cancel()
        return [_result(call, item) for call, item in zip(calls, ready, strict=True)]

    async def close(self) -> None:
        """The call is over: cancel what runs, give the kept ones KEEP_GRACE seconds. Nothing is told any more."""
        self._closed = True
        for task in self._running - self._keeping:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=KEEP_GRACE if self._keeping else CANCEL_GRACE)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CANCEL_GRACE)

    # --- one call

    def _start(self, call: FunctionCall) -> FunctionResult | asyncio.Task[FunctionResult]:
        """Begin with a call; gives its result at once where there is nothing to wait for."""
        function = self._functions.get(call.name)
        if function is None:
            names = ", ".join(list(self._functions)[:MAX_NAMES]) or "none"
            return self._refused(call, f"There is no function {call.name!r}. There are: {names}.")
        try:
            arguments = parse_arguments(call.arguments)
        except ValueError as error:
            return self._refused(call, f"{error} Correct it and call {call.name} again.")
        if self._closed:
            return self._refused(call, "The call is over.")
        if self._in_call >= self._max_per_call:
            return self._refused(call, "No more functions can be called on this call. Go on without.")
        if self._in_turn >= self._max_per_turn:
            return self._refused(call, "Too many function calls in a row. Answer the caller with what you know now.")
        self._in_turn += 1
        self._in_call += 1
        task = asyncio.create_task(self._call(function, call, arguments), name=f"function-{call.name}-{call.id}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if function.keep:
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)
        if function.background:
            task.add_done_callback(self._deliver)
            content = "Started. The result will be told when it is there; go on with the conversation."
            return FunctionResult(call.id, call.name, content, ok=True, seconds=0.0, arguments=arguments)
        return task

    async def _call(self, function: Function, call: FunctionCall, arguments: dict[str, Any]) -> FunctionResult:
        clock = asyncio.get_running_loop().time
        began = clock()
        ok, error = False, ""
        try:
            async with asyncio.timeout(function.timeout) as limit:
                content = content_of(await function.call(arguments, self._control))
            ok = True
        except FunctionFailed as failure:
            content = error = str(failure) or "It failed."
        except asyncio.CancelledError:
            self._note(call, seconds=clock() - began, ok=False, error="cancelled")
            raise
        except Exception as bug:  # the root of a function's code: the model learns that it failed, the record why
            if isinstance(bug, TimeoutError) and limit.expired():
                error = f"no result within {function.timeout:g} s"
                content = "The function gave no result in time. It may or may not have done its work."
            else:
                error = f"{type(bug).__name__}: {bug}"
                content = "The function failed because of a fault of its own. Tell the caller that it did not work."
                text = "".join(traceback.format_exception(bug))[-MAX_TRACEBACK:]
                self._control.note("function.failed", function=call.name, error=error[:500], traceback=text)
        seconds = clock() - began
        self._note(call, seconds=seconds, ok=ok, error=error)
        then = function.then if ok else "reply"
        return FunctionResult(call.id, call.name, bounded(content), ok, seconds, then, arguments)

    def _refused(self, call: FunctionCall, content: str) -> FunctionResult:
        self._note(call, seconds=0.0, ok=False, error=content)
        return FunctionResult(call.id, call.name, content, ok=False, seconds=0.0)

    def _note(self, call: FunctionCall, *, seconds: float, ok: bool, error: str) -> None:
        what = {"error": error[:500]} if error else {}
        if self._closed:  # the call's record is complete: what was kept can only be told to the log
            logger.log(
                logging.INFO if ok else logging.WARNING, "function %s after the call: %s", call.name, error or "ok"
            )
        self._control.note("function", function=call.name, ok=ok, seconds=round(seconds, 3), **what)

    # --- what outlives its run

    def _tell_slow(
        self, noisy: dict[asyncio.Task[FunctionResult], FunctionCall], on_slow: Callable[[FunctionCall], None]
    ) -> None:
        slow = next((call for task, call in noisy.items() if not task.done()), None)
        if slow is not None:
            on_slow(slow)

    def _abandon(self, tasks: Sequence[asyncio.Task[FunctionResult]]) -> None:
        for task in tasks:
            if task in self._keeping:
                task.add_done_callback(self._deliver)
            else:
                task.cancel()

    def _deliver(self, task: asyncio.Task[FunctionResult]) -> None:
        if self._on_background is not None and not self._closed and not task.cancelled():
            self._on_background(task.result())


def _result(call: FunctionCall, item: FunctionResult | asyncio.Task[FunctionResult]) -> FunctionResult:
    if isinstance(item, FunctionResult):
        return item
    if item.cancelled():
        return FunctionResult(call.id, call.name, "It was cancelled.", ok=False, seconds=0.0)
    return item.result()


def parse_arguments(text: str) -> dict[str, Any]:
    """Read what the model wrote as arguments; nothing at all stands for none.

    Raises:
        ValueError: no JSON, or no object, or too long, in words for the model.
    """
    if len(text) > MAX_ARGUMENTS:
        raise ValueError(f"The arguments have {len(text)} characters; the limit is {MAX_ARGUMENTS}.")
    try:
        found = from_json(text, allow_inf_nan=False) if text.strip() else {}
    except ValueError as error:
        raise ValueError(f"The arguments are not valid JSON ({error}).") from error
    if not isinstance(found, dict):
        raise ValueError("The arguments must be one JSON object.")
    return found


def content_of(value: Any) -> str:
    """A function's result as the model reads it: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value or "Done, without a result."
    if value is None:
        return "Done."
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    try:
        return to_json(value, fallback=str).decode()
    except PydanticSerializationError:
        return str(value)


def bounded(text: str, limit: int = MAX_RESULT) -> str:
    """The text, cut with a note when it is longer than `limit` characters, and fit for UTF-8."""
    text = text.encode(errors="replace").decode()  # half a surrogate pair would end the agent's link
    return text if len(text) <= limit else f"{text[:limit]}\n[cut: the first {limit} of {len(text)} characters]"
