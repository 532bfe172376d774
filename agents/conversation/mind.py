"""The assistant's mind: what it answers, which functions it calls, and who of several agents is talking.

Theory of operation
-------------------
An `Answer` is one reply in the making: ask the model, speak sentence after sentence as they come, call the functions it
wants, ask again with their results, until it has nothing more to say or do.

A staged answer is prepared before it is certain that the caller has finished. Its sentences are not spoken, its
functions not called, and it is no part of the conversation until `release`; `discard` makes it void.

An interruption ends the answer, not its functions: what they do for the caller is done to its end. Their results
join the conversation whenever they come; when nobody has told the caller of them by then, the model is asked to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Any, Final, Protocol

from offhook.agents.api import AgentCall, Utterance
from offhook.agents.conversation.context import Context, Reply
from offhook.agents.conversation.sentences import SentenceCutter, plain
from offhook.agents.conversation.settings import AssistantSettings
from offhook.agents.conversation.speaker import CallVoice, Line, Speaker
from offhook.agents.functions.base import FunctionResult
from offhook.agents.functions.runner import FunctionRunner
from offhook.agents.services.base import FunctionCall, LanguageModel, Message, ServiceError, TextDelta, Usage

SUMMARY_PROMPT: Final = (
    "Summarise this telephone conversation for the agent who goes on with it: what the caller wants, every name, "
    "number, date and promise, what was done and what is open. At most 150 words, no preamble."
)

UNTOLD_PAUSE: Final = 0.5
"""Seconds until it is tried again to tell the caller of a result, when somebody was speaking."""

SETTLING: Final = 0.2
"""Seconds that the gateway gets to tell how much was heard of what was cut; it needs a few milliseconds."""

UNTOLD: Final = "A function has finished; its result is above. Tell the caller what came of it."
"""Asks the model to speak although the caller did not."""


class Persona:
    """One of the agents on a call: what it is told, thinks with, speaks with and may do."""

    voice: CallVoice
    "Given to it before it speaks for the first time."

    def __init__(self, name: str, prompt: str, model: LanguageModel, runner: FunctionRunner) -> None:
        self.name, self.prompt, self.model, self.runner = name, prompt, model, runner


class Answer:
    """One reply in the making."""

    def __init__(self, said: str, *, staged: bool, nudge: str = "") -> None:
        self.said = said
        "What the caller said; empty when the agent speaks of itself."
        self.nudge = nudge
        "Tells the model why it is to speak, when it is not because the caller did."
        self.staged = staged
        self.released = asyncio.Event()
        self.marks: dict[str, float] = {}
        "Fields of `link.Turn`."
        self.lines: list[Line] = []
        self.message: Reply | None = None
        "The one being made."
        self.persona: Persona | None = None
        "Who makes it: a hand-over meanwhile is for the next one."
        self.news = 0
        "Of how many results of functions it knows."
        self.first: Utterance | None = None
        self.task: asyncio.Task[None] | None = None
        self.failed: ServiceError | None = None
        if not staged:
            self.released.set()


class MindOwner(Protocol):
    """Who must know what the mind is up to."""

    def answer_changed(self) -> None:
        """An answer has begun, said something, or ended; a function has begun or ended."""

    def mind_failed(self, error: BaseException) -> None:
        """It cannot go on: the call goes to the route's fallback."""

    def floor_is_free(self) -> bool:
        """Whether the agent may begin to speak of itself now: nobody is speaking."""

    def reported(self) -> AbstractContextManager[None]:
        """Around what the event loop calls by itself: an error in there ends the call instead of being lost."""


class Mind:
    """Thinks for one call."""

    def __init__(
        self,
        call: AgentCall,
        settings: AssistantSettings,
        context: Context,
        speaker: Speaker,
        owner: MindOwner,
    ) -> None:
        self.call, self.settings, self.context, self.speaker = call, settings, context, speaker
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.persona: Persona
        self.answer: Answer | None = None
        self.functions_running = 0
        self._news = 0
        "Results of functions that came when nobody waited for them."
        self._told = 0
        "How many of those the model knew when it was asked to speak."
        self._retry: asyncio.TimerHandle | None = None
        self._troubles = 0
        self._fillers = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._summarising = False
        self._closed = False

    @property
    def busy(self) -> bool:
        """An answer that is not staged is in the making."""
        return self.answer is not None and not self.answer.staged

    # --- answers

    def begin(
        self, said: str, marks: dict[str, float] | None = None, *, staged: bool = False, nudge: str = ""
    ) -> Answer:
        """Begin to answer; an answer still in the making is given up."""
        self.discard()
        self.stop()
        answer = self.answer = Answer(said, staged=staged, nudge=nudge)
        answer.marks |= marks or {}
        if not staged and said:
            self.context.caller(said)
        self.persona.runner.new_turn()
        answer.task = self._spawn(self._think(answer), "answer")
        self._owner.answer_changed()
        return answer

    def prepared(self, said: str) -> Answer | None:
        """The staged answer to this very text, if there is one and it went well so far."""
        answer = self.answer
        if answer is None or not answer.staged or answer.failed is not None:
            return None
        return answer if _same(answer.said, said) else None

    def release(self, answer: Answer, marks: dict[str, float]) -> None:
        """The caller has finished: say what was prepared."""
        answer.staged = False
        answer.marks |= marks
        self._told = max(self._told, answer.news)
        self.context.caller(answer.said)
        if answer.message is not None:
            self.context.reply(answer.message)
        answer.released.set()
        if answer.task is not None and answer.task.done():
            self.answer = None
        self.speaker.release(answer.lines)
        self._owner.answer_changed()

    def discard(self) -> None:
        """What was prepared is void."""
        answer = self.answer
        if answer is not None and answer.staged:
            self.answer = None
            if answer.task is not None:
                answer.task.cancel()
            self.speaker.forget(answer.lines)

    def stop(self) -> None:
        """End the answer in the making; its functions go on. What was said of it stays in the conversation."""
        answer = self.answer
        if answer is not None and not answer.staged:
            self.answer = None
            if answer.task is not None:
                answer.task.cancel()
            self._owner.answer_changed()

    def told(self) -> None:
        """Tell the caller now what a function brought that ran beside the conversation, if nobody is speaking."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._news <= self._told or self._closed or self.busy or self.speaker.busy:
            return
        if self.answer is None and self._owner.floor_is_free():
            self.begin("", nudge=UNTOLD)
        else:
            self._retry = self._loop.call_later(UNTOLD_PAUSE, self._again)

    def _again(self) -> None:
        with self._owner.reported():
            self.told()

    def say(self, text: str, *, interruptible: bool = True, fixed: bool = True, staged: bool = False) -> list[Line]:
        """Say something that is not of the model's making, sentence by sentence, and keep it in the conversation.

        Args:
            text: plain text.
            interruptible: whether the caller may stop it.
            fixed: the same on every call, so that its audio is worth keeping.
            staged: only make it; `keep` it when it is released.
        """
        cutter = SentenceCutter()
        lines = [
            Line(sentence, self.persona.voice, interruptible=interruptible, fixed=fixed, staged=staged)
            for sentence in (*cutter.push(text), *cutter.finish())
        ]
        if not staged:
            self.keep(lines)
        for line in lines:
            self.speaker.say(line)
        return lines

    def keep(self, lines: Sequence[Line]) -> None:
        """Put into the conversation what is said by somebody else's order."""
        self.context.reply(Reply(list(lines)))

    async def close(self) -> None:
        """The call is over."""
        self._closed = True
        self.answer = None
        if self._retry is not None:
            self._retry.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- thinking

    async def _think(self, answer: Answer) -> None:
        try:
            for _ in range(self.settings.max_rounds):
                calls = await self._ask(answer)
                self._troubles = 0
                if not calls:
                    break
                await answer.released.wait()
                if not await self._call_functions(answer, calls):
                    break
            else:
                self.call.note("max_rounds", rounds=self.settings.max_rounds)
                if answer.message is not None and not answer.message.lines:
                    self.say(self.settings.trouble)
        except ServiceError as error:
            await self._in_trouble(answer, error)
        finally:
            if self.answer is answer and not answer.staged:
                self.answer = None
            self._owner.answer_changed()
        self._summarise_if_long()

    async def _ask(self, answer: Answer) -> list[FunctionCall]:
        """One request to the model: its sentences go to the speaker; gives the functions it wants called."""
        await self.speaker.settled(SETTLING)
        persona, message, cutter = self.persona, Reply(), SentenceCutter()
        answer.persona, answer.news = persona, self._news
        messages: list[Message] = [{"role": "system", "content": persona.prompt}]
        messages += self.context.messages(also=answer.said if answer.staged else "")
        if not answer.staged and answer.nudge and answer.message is None:
            messages.append({"role": "system", "content": answer.nudge})
        answer.message = message
        if not answer.staged:
            self.context.reply(message)
            self._told = answer.news
        calls: list[FunctionCall] = []
        async with aclosing(persona.model.reply(messages, persona.runner.schemas)) as deltas:
            async for delta in deltas:
                if isinstance(delta, TextDelta):
                    answer.marks.setdefault("first_token", self._loop.time())
                    for text in cutter.push(delta.text):
                        self._say(answer, persona, message, text)
                elif isinstance(delta, FunctionCall):
                    answer.marks.setdefault("first_token", self._loop.time())
                    calls.append(self.context.own_id(delta))
                elif isinstance(delta, Usage):
                    self.call.note("usage", input=delta.input_tokens, output=delta.output_tokens)
        for text in cutter.finish():
            self._say(answer, persona, message, text)
        message.calls += calls
        return calls

    def _say(self, answer: Answer, persona: Persona, message: Reply, text: str) -> None:
        answer.marks.setdefault("reply_text", self._loop.time())
        line = Line(text, persona.voice, staged=answer.staged)
        line.on_open = lambda utterance: self._first_line_spoken(answer, line, utterance)
        answer.lines.append(line)
        message.lines.append(line)
        self.speaker.say(line)

    def _first_line_spoken(self, answer: Answer, line: Line, utterance: Utterance) -> None:
        if answer.first is None:
            answer.first = utterance
            answer.marks.setdefault("reply_audio", line.first_audio_at)
            if "caller_stopped" in answer.marks:
                self.call.turn(utterance, **answer.marks)

    # --- functions

    async def _call_functions(self, answer: Answer, calls: Sequence[FunctionCall]) -> bool:
        """Call what the model wants; True when it is to be asked again."""
        runner = (answer.persona or self.persona).runner
        running = self._spawn(self._run(runner, calls), "functions")
        try:
            results = await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(self._came_late)
            raise
        then = {result.then for result in results}
        return "reply" in then and "end" not in then

    async def _run(self, runner: FunctionRunner, calls: Sequence[FunctionCall]) -> list[FunctionResult]:
        self.functions_running += 1
        self._owner.answer_changed()
        try:
            results = await runner.run(calls)
            for result in results:
                self.context.result(result.id, result.content)
        finally:
            self.functions_running -= 1
            self._owner.answer_changed()
        return results

    def _came_late(self, running: asyncio.Task[list[FunctionResult]]) -> None:
        if not running.cancelled() and running.exception() is None and any(r.then == "reply" for r in running.result()):
            with self._owner.reported():
                self._tell_later()

    def background_result(self, result: FunctionResult) -> None:
        """A function that ran beside the conversation has come back."""
        state = "finished" if result.ok else "failed"
        with self._owner.reported():
            self.context.note(f"The function {result.name} has {state}: {result.content}")
            self._owner.answer_changed()
            if result.then == "reply":
                self._tell_later()

    def _tell_later(self) -> None:
        self._news += 1
        self.told()

    def slow(self, call: FunctionCall) -> None:
        """A function takes long: say so, as a part of the message that called it."""
        with self._owner.reported():
            self._fill(call)

    def _fill(self, call: FunctionCall) -> None:
        answer = self.answer
        if answer is None or answer.persona is None or answer.message is None or self.speaker.busy:
            return
        if all(other.id != call.id for other in answer.message.calls):
            return  # of an answer that was interrupted: the caller has gone on
        function = answer.persona.runner.get(call.name)
        fillers = function.filler if function is not None and function.filler else tuple(self.settings.filler)
        if not fillers:
            return
        text = fillers[self._fillers % len(fillers)]
        self._fillers += 1
        if text:
            line = Line(text, answer.persona.voice, fixed=True)
            answer.message.lines.append(line)
            self.speaker.say(line)

    # --- when it goes wrong, and when it goes on for long

    async def _in_trouble(self, answer: Answer, error: ServiceError) -> None:
        answer.failed = error
        if answer.staged:  # the caller has not finished: it is tried again when he has
            return
        self._troubles += 1
        if self._troubles > 1 or not self.settings.trouble:
            self._owner.mind_failed(error)
        elif answer.message is None or not answer.message.lines:  # else he has heard something, and will ask
            self.say(self.settings.trouble)

    def _summarise_if_long(self) -> None:
        if not self._summarising and self.context.tokens() > self.settings.context.max_tokens:
            self._summarising = True
            self._spawn(self._summarise(), "summary")

    async def _summarise(self) -> None:
        """Put a summary in place of the oldest part. When it fails the conversation just stays long."""
        try:
            count, messages = self.context.oldest(self.settings.context.keep)
            if count < 2:
                return
            told = "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in messages)
            request = [{"role": "system", "content": SUMMARY_PROMPT}, {"role": "user", "content": told}]
            async with aclosing(self.persona.model.reply(request)) as deltas:
                parts = [delta.text async for delta in deltas if isinstance(delta, TextDelta)]
            if summary := plain("".join(parts)):
                self.context.replace_oldest(count, summary)
                self.call.note("summarised", messages=len(messages), text=summary)
                self._owner.answer_changed()
        except ServiceError as error:
            self.call.note("summary_failed", error=str(error))
        finally:
            self._summarising = False

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = self._loop.create_task(work, name=f"{name}-{self.call.info.id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._owner.mind_failed(error)


def _same(one: str, other: str) -> bool:
    """Two transcripts of the same words: capitals and punctuation come late from some services."""
    return _bare(one) == _bare(other)


def _bare(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter.isspace()).strip()
