"""Calls made from ordinary, blocking code: a test says what the caller does, line by line, and waits for each.

    with Desk() as desk:
        call = desk.dial("sip:agent@127.0.0.1:5060")
        call.wait_agent_done()
        call.say("What are your opening hours?")
        call.expect_agent(within=1.5)
        call.hang_up()
        assert call.report.metrics["holes"] == 0

The calls live in a thread of their own, so a caller keeps breathing while the test thinks. What an expectation
measures while the call runs is good to some 20 ms; `report` holds the figures from the wire, once the call is over.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
from pydantic import BaseModel

from offhook.qa.activity import RATE, Samples, Span
from offhook.qa.caller.machine import Added, Caller
from offhook.qa.caller.script import Script, speech_of
from offhook.qa.measuring.speech import Recogniser, transcribe
from offhook.qa.phones import targets
from offhook.qa.phones.base import CallLog, CallOrder
from offhook.qa.running.evidence import Evidence, judge_call, write_recording
from offhook.qa.running.result import CallReport
from offhook.qa.scenario.load import Loaded, parse
from offhook.qa.scenario.model import CallerSettings, Heard, Media, Scenario, Step, Target

CREDENTIALS: Final = frozenset(inspect.getfullargspec(targets.open_phone).kwonlyargs)
"""Settings of `dial` that go to `open_phone`."""

HEARD_BEFORE_S: Final = 0.3
"""Of the agent's audio, given to the recogniser before and after what it said."""

CLOSING_S: Final = 10.0
"""How long a call may take to end that was hung up."""

Result = TypeVar("Result")

Settings = Mapping[str, Any]


class Desk:
    """Makes calls. Thread and loop begin with the first one, and end with `close`.

    Args:
        target: what `dial` calls that is given none.
    """

    def __init__(self, target: str = "") -> None:
        self.target = target
        self.calls: list[DialledCall] = []
        "Since the last `forget`."
        self.recogniser: Recogniser | None = None
        self.examiner = ThreadPoolExecutor(1, "offhook-measuring")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def dial(self, target: str = "", *, answer: bool = True, **settings: Any) -> DialledCall:
        """Call an agent; returns when it has answered.

        Args:
            target: as for `offhook qa run --target`; by default the desk's own.
            answer: False when the call is to be refused: returns when it was. `call.status` tells with what.
            settings: anything of a scenario's `target`, `media` and `caller`, such as `codecs=["G722"]`,
                `headers={…}`, `network={"loss": "1%"}`, `gain="-30dBov"`, `noise={"kind": "street"}`; also `timeout`
                of the call, `seed`, `auth_token`, `username`, `password`, `host`, `api_listen`, `ca_file`, `insecure`.

        Raises:
            AssertionError: the call was not answered, or was, against what `answer` says.
            TypeError: no such setting.
            ValueError: a setting has no such value (pydantic's text says why), or there is no target.
            Unreachable, Unable: see `offhook.qa.phones.base`.
        """
        self._made += 1
        call = DialledCall(self, target or self.target, self._made, settings, answer=answer)
        self.calls.append(call)
        self.run(call.begin())
        call.check_answered(answer)
        return call

    def forget(self) -> None:
        """Hang up what is still up, and forget all calls."""
        for call in self.calls:
            call.drop()
        self.calls = []

    def close(self) -> None:
        """Hang up, and end the thread."""
        self.forget()
        if self._loop is not None and self._thread is not None:
            if self.recogniser is not None:
                self.run(self.recogniser.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = self._thread = None
        self.examiner.shutdown()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something where the calls live, and wait for it."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="offhook-calls", daemon=True)
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # of a test that was interrupted; otherwise it is done
            raise


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


class DialledCall:
    """One call. Every method waits until what it says is done; durations are seconds, or texts such as `800ms`.

    Every method but those that end the call raises AssertionError when the call is over before.
    """

    def __init__(self, desk: Desk, target: str, number: int, settings: Settings, *, answer: bool = True) -> None:
        if not target:
            raise ValueError("no target: give dial() one, or run pytest with --offhook-target sip:agent@127.0.0.1:5060")
        self._desk = desk
        self._number = number
        self._plan, self._order, self._credentials = _planned(target, number, settings)
        self._script = Script(self._plan.scenario.caller, Path.cwd(), seed=self._order.seed)
        self._bare = self._plan.scenario.model_copy(update={"steps": []})
        self._caller = Caller(self._bare, self._script, self._order.seed, keep_open=True)
        self._steps = [Step.model_validate({"expect": {"answer": answer}})]
        self._task: asyncio.Task[None] | None = None
        self._activity_kept: bytearray | None = None
        self._kept_from = 0.0
        self._log: CallLog | None = None
        self._problem: BaseException | None = None
        self._report: CallReport | None = None

    # --- what the caller does ---

    def say(self, text: str = "", **speech: Any) -> Span:
        """Speak; gives where on the track it lies. Instead of words `wav="file.wav"` or `sound="cough"`; `gain`."""
        return self._spoken({"say": _speech(text, speech)})

    def barge_in(self, text: str = "", *, after: float | str = 0.0, **speech: Any) -> Span:
        """Wait until the agent has spoken for `after`, then speak into it."""
        return self._spoken({"barge_in": _speech(text, speech) | {"after": _seconds(after)}})

    def backchannel(self, text: str = "", *, after: float | str = 0.0, **speech: Any) -> Span:
        """As `barge_in`, but a sound of listening, which asks for no answer."""
        return self._spoken({"backchannel": _speech(text, speech) | {"after": _seconds(after)}})

    def wait_agent_speaks(self, *, timeout: float | str | None = None) -> None:
        """Wait until the agent speaks. Raises AssertionError: it did not in time."""
        self._do({"wait": _given({"for": "agent_speaks", "timeout": timeout})})

    def wait_agent_done(self, *, silence: float | str | None = None, timeout: float | str | None = None) -> None:
        """Wait until the agent has answered and been silent for `silence`. Raises AssertionError as the other wait."""
        self._do({"wait": _given({"for": "agent_done", "silence": silence, "timeout": timeout})})

    def silence(self, seconds: float | str) -> None:
        """Say nothing for so long."""
        self._do({"silence": _seconds(seconds)})

    def dtmf(self, digits: str, *, tone: float | str = 0.1, gap: float | str = 0.1, by: str | None = None) -> None:
        """Press keys, `by` rfc4733, inband or info; by default as `dial` was told."""
        keys = {"digits": digits, "tone": _seconds(tone), "gap": _seconds(gap)}
        self._do({"dtmf": keys | ({"by": by} if by else {})})

    def noise(self, kind: str = "", *, file: str = "", snr: float | str = 15.0) -> None:
        """Change what is heard behind the caller: `white`, `babble`, `street`, a WAV file, or `off`."""
        self._do({"noise": "off" if kind == "off" else {"kind": kind, "file": file, "snr": _seconds(snr)}})

    def hold(self, seconds: float | str) -> None:
        """Put the agent on hold for so long."""
        self._do({"hold": _seconds(seconds)})

    def codec(self, name: str) -> None:
        """Change the codec."""
        self._do({"codec": name})

    def hang_up(self) -> None:
        """End the call; returns when it is over. Nothing happens when it is already."""
        self.drop()

    # --- what the agent must do ---

    def expect_agent(
        self,
        *,
        within: float | str | None = None,
        speaks: bool | None = None,
        heard: str | Settings | None = None,
        not_heard: str | Settings | None = None,
        stops_within: float | str | None = None,
        keeps_talking: float | str | None = None,
    ) -> float | None:
        """Expect the agent to speak, or what else is asked for; see `expect` in a scenario.

        Args:
            within: since the caller's last word; by default the caller's patience.
            speaks: True, and the default when nothing else is asked for; False: it must say nothing during `within`.
            heard: words that its next turn must have, a text or `{"any": […]}`, `{"regex": …}`.
            not_heard: that it must not have.
            stops_within: of a `barge_in` before, since its first sound.
            keeps_talking: of a `backchannel` before, for so long since its first sound.

        Returns:
            Seconds after which the agent spoke, or stopped, or None.

        Raises:
            AssertionError: it was otherwise; the text says what was measured.
        """
        plain = all(one is None for one in (heard, not_heard, stops_within, keeps_talking))
        wanted = {
            "agent_speaks": True if speaks is None and plain else speaks,
            "heard": heard,
            "not_heard": not_heard,
            "agent_stops_within": stops_within,
            "agent_keeps_talking": keeps_talking,
            "within": within,
        }
        spoken = self._caller.last_spoken
        added = self._do({"expect": _given(wanted)})
        expect = added.step.expect
        assert expect is not None
        measured = None
        if expect.agent_stops_within is not None:
            measured = self._stopped(spoken, expect.agent_stops_within)
        if expect.agent_keeps_talking is not None:
            self._kept_on(spoken, expect.agent_keeps_talking)
        if expect.agent_speaks is not None:
            measured = self._answered(added, expect.agent_speaks)
        if expect.heard is not None or expect.not_heard is not None:
            self._desk.run(self._understood(added, expect.heard, expect.not_heard))
        return measured

    def expect_keys(self, digits: str, *, within: float | str | None = None) -> None:
        """Expect the agent to press keys, as the line tells them; tones in the audio are in the report. Raises
        AssertionError."""
        met = self._caller.keys_met
        self._do({"expect": _given({"dtmf": digits, "within": within})})
        came = "".join(key for _, key in self._caller.keys[met:])
        _must(came == digits.upper(), f"the agent was to press {digits!r} and pressed {came!r}")

    def expect_transfer(self, to: str = "", *, within: float | str | None = None) -> str:
        """Expect to be handed on; gives where to. `to` is a regular expression. Raises AssertionError."""
        self._do({"expect": _given({"transfer": {"to": to}, "within": within})})
        _must(bool(self._caller.transfers), f"the agent did not transfer the caller within {self._waited():.1f} s")
        where = self._caller.transfers[-1].detail
        _must(re.search(to, where) is not None, f"the agent transferred the caller to {where!r}, not to {to!r}")
        return where

    def expect_hangup(self, *, by: str = "agent", within: float | str | None = None) -> None:
        """Expect the call to be ended by the `agent` or by `anyone`. Raises AssertionError."""
        self._do({"expect": _given({"hangup": f"by_{by}", "within": within})})
        _must(self._caller.over, f"the call was not over after {self._waited():.1f} s")
        self.drop()
        ended = self.log.ended_by or "nobody"
        _must(by in ("anyone", ended), f"the call was to be ended by the {by}, and was by the {ended}")

    # --- what came of it ---

    @property
    def over(self) -> bool:
        """The call has ended."""
        return self._task is None or self._task.done()

    @property
    def status(self) -> int:
        """The final status of SIP, or HTTP's of the webhook or of the media socket; ends the call."""
        return self.log.status

    @property
    def heard(self) -> list[Span]:
        """Where on the track the agent spoke, so far."""
        return self._caller.heard

    @property
    def log(self) -> CallLog:
        """What was on the wire; hangs up first, when the call is not over."""
        self.drop()
        if self._log is None:
            raise AssertionError("there was no call") from self._problem
        return self._log

    @property
    def report(self) -> CallReport:
        """Metrics, turns, findings and verdict, from the wire; hangs up first, when the call is not over."""
        log = self.log
        if self._report is None:
            self._report = self._desk.run(self._judged(log))
        return self._report

    def write(self, path: Path) -> None:
        """Keep the call as a stereo WAV file, the caller on the left. Hangs up first. Raises OSError."""
        log = self.log
        path.unlink(missing_ok=True)
        write_recording(path, log)

    # --- in the caller's thread ---

    async def begin(self) -> None:
        """Ring; returns when the line is up, or when the call is over."""
        if self._plan.scenario.caller.noise is not None:
            await self._script.add_bed(self._plan.scenario.caller.noise)
        added = self._caller.add(self._steps[0])
        up = asyncio.Event()
        added.on_done = up.set
        self._task = asyncio.create_task(self._carried(), name=f"offhook-call-{self._number}")
        await up.wait()
        if not self._caller.over:
            self._activity_kept, self._kept_from = self._caller.listen()
        else:
            await self._task

    async def _carried(self) -> None:
        try:
            async with targets.open_phone(self._plan.scenario.target, **self._credentials) as phone:
                self._log = await phone.carry(self._order, self._caller)
        except Exception as error:  # handed to the thread that dialled
            self._problem = error
        finally:
            if not self._caller.over:
                self._caller.ended()

    async def _done(self, step: Step) -> Added:
        await self._script.add(step)
        added = self._caller.add(step)
        self._steps.append(step)
        if not added.done:
            finished = asyncio.Event()
            added.on_done = finished.set
            await finished.wait()
        return added

    async def _ended(self) -> None:
        if self._task is None:
            return
        if not self._task.done():
            step = Step.model_validate({"hang_up": True})
            self._steps.append(step)
            self._caller.add(step)
            await asyncio.wait([self._task], timeout=CLOSING_S + self._plan.scenario.caller.patience)
            self._task.cancel()
        await asyncio.wait([self._task])

    async def _judged(self, log: CallLog) -> CallReport:
        scenario: Scenario = self._bare.model_copy(update={"steps": list(self._steps)})
        texts = {
            index: found[1].text for index, step in enumerate(self._steps) if (found := speech_of(step)) is not None
        }
        plan = Loaded(scenario, self._plan.path, self._plan.source, self._plan.variables)
        evidence = Evidence(plan, self._number, log, self._caller.record, self._script.sounds, texts)
        return await judge_call(evidence, self._desk.examiner, self._recogniser())

    async def _understood(self, added: Added, heard: Heard | None, not_heard: Heard | None) -> None:
        since = added.record.since
        spans = [span for span in self._caller.heard if span.end > since]
        expected = [one for one in (heard, not_heard) if one is not None]
        turn = Span(spans[0].start, spans[-1].end) if spans else None
        pieces = [(turn, self._sound(turn))] if turn is not None else []
        settings = self._plan.scenario.stt
        words = await transcribe(pieces, settings, expected, recogniser=self._recogniser())
        if heard is not None:
            _must(words.heard(heard), f"{_asked(heard)} was expected; the agent said {words.text!r}")
        if not_heard is not None:
            _must(not words.heard(not_heard), f"{_asked(not_heard)} was not to be said; the agent said {words.text!r}")

    def _recogniser(self) -> Recogniser:
        if self._desk.recogniser is None:
            self._desk.recogniser = Recogniser()
        return self._desk.recogniser

    def _sound(self, span: Span) -> Samples:
        track = np.frombuffer(bytes(self._activity_kept or b""), "<i2")
        start = round((span.start - self._kept_from - HEARD_BEFORE_S) * RATE)
        return track[max(0, start) : round((span.end - self._kept_from + HEARD_BEFORE_S) * RATE)]

    # --- in the test's thread ---

    def drop(self) -> None:
        """Hang up, and wait until the call is over. Raises nothing for what went wrong in it."""
        self._desk.run(self._ended())

    def check_answered(self, wanted: bool) -> None:
        """Raise what kept the call from coming about, or AssertionError when that is not what was wanted."""
        if self._problem is not None:
            raise self._problem
        answered = self._log is None or self._log.answered
        if answered != wanted:
            self.drop()
        how = f"{self._log.status} {self._log.ended_how}".strip("0 ") if self._log is not None else ""
        _must(answered == wanted, f"the call was not answered: {how}" if wanted else "the call was answered")

    def _do(self, step: Settings) -> Added:
        added = self._desk.run(self._done(Step.model_validate(step)))
        if self._problem is not None:
            raise self._problem
        if added.record.skipped and self._log is not None:
            who = self._log.ended_by or "nobody"
            raise AssertionError(f"the call is over since second {self._log.seconds:.1f}: it was ended by the {who}")
        _must(not added.record.failed, added.record.failed)
        return added

    def _spoken(self, step: Settings) -> Span:
        spoken = self._do(step).record.spoken
        assert spoken is not None
        return spoken

    def _waited(self) -> float:
        record = self._caller.record.steps[-1]
        return record.ended - record.since

    def _answered(self, added: Added, wanted: bool) -> float | None:
        record, spoken = added.record, self._caller.last_spoken
        after = spoken.start if spoken is not None and abs(spoken.end - record.since) < 1e-6 else -1.0
        came = next((span for span in self._caller.heard if span.start >= after and span.end > record.since), None)
        took = None if came is None else max(0.0, came.start - record.since)
        if took is None:
            _must(not wanted, f"the agent said nothing for {record.ended - record.since:.1f} s")
            return None
        if wanted:
            _must(
                took <= record.within, f"the agent spoke after {took:.2f} s; at most {record.within:g} s were expected"
            )
            return took
        _must(
            took > record.within,
            f"the agent was to say nothing for {record.within:g} s, and spoke after {took:.2f} s",
        )
        return None

    def _stopped(self, spoken: Span | None, limit: float) -> float:
        if spoken is None:
            raise AssertionError("nothing was said before that could have interrupted the agent")
        pause = self._plan.scenario.caller.end_silence
        voiced = [span for span in self._caller.heard if span.end > spoken.start]
        if not voiced or voiced[0].start > spoken.end:
            return 0.0
        end = voiced[0].end
        for span in voiced[1:]:
            if span.start - end >= pause:
                break
            end = span.end
        took = end - spoken.start
        _must(took <= limit, f"the agent talked on for {took:.2f} s; at most {limit:g} s were expected")
        return took

    def _kept_on(self, spoken: Span | None, seconds: float) -> None:
        if spoken is None:
            raise AssertionError("nothing was said before that the agent could have stopped for")
        until = spoken.start + seconds
        last = max((span.end for span in self._caller.heard if span.start < until), default=0.0)
        talked = last - spoken.start
        _must(
            last >= until - self._plan.scenario.caller.end_silence,
            f"the agent was to talk on for {seconds:g} s, and fell silent after {max(0.0, talked):.2f} s",
        )


def _planned(target: str, number: int, settings: Settings) -> tuple[Loaded, CallOrder, dict[str, Any]]:
    """The scenario that a call's settings come to, the order for the phone, and its credentials."""
    parts: dict[str, dict[str, Any]] = {"target": {"to": target}, "media": {}, "caller": {}}
    rest = dict(settings)
    timeout, seed = rest.pop("timeout", "1h"), rest.pop("seed", 1)
    credentials = {name: rest.pop(name) for name in CREDENTIALS & rest.keys()}
    models: dict[str, type[BaseModel]] = {"target": Target, "media": Media, "caller": CallerSettings}
    known = {field: part for part, model in models.items() for field in model.model_fields}
    for name, value in rest.items():
        if name not in known or name in ("to", "persona"):
            names = ", ".join(sorted({*known, *CREDENTIALS, "timeout", "seed"} - {"to", "persona"}))
            raise TypeError(f"dial() has no setting {name!r}; it has {names}")
        parts[known[name]][name] = _seconds(value) if name in ("end_silence", "patience", "gain") else value
    loaded = parse(_BARE, "dial()")
    given = {"name": "call", **parts, "timeout": _seconds(timeout), "steps": [{"hang_up": True}]}
    scenario = Scenario.model_validate(given)
    plan = Loaded(scenario, loaded.path, loaded.source, loaded.variables)
    order = CallOrder(scenario.target, scenario.media, f"call-{number}", seed=seed, timeout=scenario.timeout)
    return plan, order, credentials


_BARE: Final = "name: call\nsteps:\n  - hang_up: true\n"
"""What stands where a file would: a call that is dialled has none."""


def _must(true: bool, otherwise: str) -> None:
    """As `assert`, which `python -O` leaves out."""
    if not true:
        raise AssertionError(otherwise)


def _given(fields: Settings) -> dict[str, Any]:
    """What is not None, numbers as seconds."""
    return {name: _seconds(value) for name, value in fields.items() if value is not None}


def _seconds(value: Any) -> Any:
    """Whole numbers are seconds or decibels, too: a scenario wants units there."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _speech(text: str, more: Settings) -> dict[str, Any]:
    return {**({"text": text} if text else {}), **{name: _seconds(value) for name, value in more.items()}}


def _asked(what: Heard) -> str:
    return ", ".join(map(repr, [*what.all, *what.any, *([what.regex] if what.regex else [])]))
