"""Deepgram as a call meets it: Listen v1 (Nova), Listen v2 (Flux) and Speak v1 on one port.

What the caller says is a script in time of the audio that has come in, so a simulated call is understood without any
model, and truthfully: no word is known before it was spoken.

    async with FakeDeepgram([("hello there", 400, 1100)], final_after=0.150) as fake:
        service = Deepgram(NovaSettings(service="deepgram", api_key="k", base_url=fake.url))

Messages as in deepgram-api-specs (2026-07-22).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, Final

from fakes.sockets import PLAIN, Connection, Crew, FakeVendor, Fault, Manner, pieces

from offhook.codecs.audio import AudioFormat, Encoding

ENCODINGS: Final[dict[str, Encoding]] = {"mulaw": "pcmu", "alaw": "pcma", "linear16": "l16"}

SILENT_RESULTS: Final = 1000
"""Milliseconds of audio without a word after which Nova sends a result without text."""

UPDATES: Final = 250
"""Milliseconds of audio after which Flux sends an Update, whether or not something is new."""


class FakeDeepgram(FakeVendor):
    """All of it. Times in seconds where no unit is named.

    Args:
        script: what the caller says: text, and where it begins and ends in milliseconds of the audio of a connection.
            It is read as the audio comes in, so `caller_says` may add to it.
        interim_lag: how much later a word is known than it ended, in audio.
        final_after: from the request to the final it asked for.
        eager_after, end_after: silence in the audio before Flux says EagerEndOfTurn and EndOfTurn.
        manner: how the voice speaks.
        late: audio that still comes after Clear, before Cleared.
        max_flushes: Flush messages on a connection before it warns instead.
        faults: see `FakeVendor`.
    """

    def __init__(
        self,
        script: Iterable[tuple[str, int, int]] = (),
        *,
        interim_lag: float = 0.150,
        final_after: float = 0.150,
        eager_after: float = 0.250,
        end_after: float = 0.400,
        manner: Manner = PLAIN,
        late: float = 0.0,
        max_flushes: int = 1000,
        faults: Iterable[Fault | None] = (),
    ) -> None:
        super().__init__(faults)
        self.script = list(script)
        self.interim_lag, self.final_after = interim_lag, final_after
        self.eager_after, self.end_after = eager_after, end_after
        self.manner, self.late, self.max_flushes = manner, late, max_flushes
        self._hearing: _Hearing | None = None

    @property
    def heard_ms(self) -> int:
        """Audio that the newest Listen connection has got, in milliseconds."""
        return 0 if self._hearing is None else self._hearing.now

    def caller_says(self, text: str, milliseconds: int) -> None:
        """Add to the script: from now on in the audio, and for that long."""
        self.script.append((text, self.heard_ms, self.heard_ms + milliseconds))

    async def serve(self, connection: Connection) -> None:
        async with Crew() as crew:
            if connection.path == "/v1/speak":
                await _Speaking(self, connection, crew).serve()
            else:
                kind = _Nova if connection.path == "/v1/listen" else _Flux
                self._hearing = kind(self, connection, crew)
                await self._hearing.serve()


class _Hearing:
    """One connection that listens."""

    def __init__(self, fake: FakeDeepgram, connection: Connection, crew: Crew) -> None:
        self.fake, self.connection, self.crew = fake, connection, crew
        query = connection.query
        self.format = AudioFormat(ENCODINGS[query["encoding"][0]], int(query["sample_rate"][0]))
        self.size = 0

    @property
    def now(self) -> int:
        """Milliseconds of audio so far."""
        return round(self.format.duration(self.size) * 1000)

    def words(self) -> list[tuple[str, int, int]]:
        """Every word of the script and its place in the audio, each as long as its letters want."""
        found = []
        for text, start, end in self.fake.script:
            letters, at = sum(map(len, text.split())), 0
            for word in text.split():
                here = at + len(word)
                found.append((word, start + (end - start) * at // letters, start + (end - start) * here // letters))
                at = here
        return found

    async def serve(self) -> None:
        while True:
            message = await self.fake.received(self.connection)
            if isinstance(message, bytes):
                assert message, "an empty binary message"
                self.size += len(message)
                await self.connection.strike(self.now / 1000)
                await self.hear()
            else:
                kind = json.loads(message)["type"]
                if kind == "CloseStream":
                    return
                await self.asked(kind)

    async def hear(self) -> None:
        raise NotImplementedError

    async def asked(self, kind: str) -> None:
        raise NotImplementedError

    async def later(self, seconds: float, message: dict[str, Any]) -> None:
        """Send after a time, without keeping the reader."""
        if seconds <= 0:
            await self.connection.send(message)
            return

        async def send() -> None:
            await asyncio.sleep(seconds)
            await self.connection.send(message)

        self.crew.start(send())


class _Nova(_Hearing):
    def __init__(self, fake: FakeDeepgram, connection: Connection, crew: Crew) -> None:
        super().__init__(fake, connection, crew)
        endpointing = connection.query.get("endpointing", ["10"])[0]
        self.endpointing = None if endpointing == "false" else int(endpointing)
        self.final = self.known = self.started = 0
        "Words that are final, that are known, and that have been announced as speech."
        self.covered = self.spoke = 0
        "Audio that is final, and where the last message was sent."

    def result(self, words: list[tuple[str, int, int]], *, final: bool, asked: bool, ended: bool) -> dict[str, Any]:
        said = [{"word": w, "start": s / 1000, "end": e / 1000, "confidence": 0.98} for w, s, e in words]
        best = {"transcript": " ".join(word for word, _, _ in words), "confidence": 0.98, "words": said}
        result = {
            "type": "Results",
            "channel_index": [0, 1],
            "start": self.covered / 1000,
            "duration": (self.now - self.covered) / 1000,
            "is_final": final,
            "speech_final": ended,
            "from_finalize": asked,
            "channel": {"alternatives": [best]},
            "metadata": {
                "request_id": "r",
                "model_uuid": "m",
                "model_info": {"name": "n", "version": "v", "arch": "a"},
            },
        }
        self.spoke = self.now
        if final:
            self.final += len(words)
            self.covered = self.now
        return result

    async def hear(self) -> None:
        words, lag = self.words(), int(self.fake.interim_lag * 1000)
        known = sum(end + lag <= self.now for _, _, end in words)
        if self.started < len(words) and words[self.started][1] + lag <= self.now:
            self.started = max(known, self.started + 1)
            if self.started == 1 or words[self.started - 1][1] > words[self.started - 2][2]:
                await self.connection.send({"type": "SpeechStarted", "channel": [0, 1], "timestamp": self.now / 1000})
        fresh = words[self.final : known]
        if known > self.known:
            self.known = known
            await self.connection.send(self.result(fresh, final=False, asked=False, ended=False))
        elif fresh and self.endpointing is not None and fresh[-1][2] + lag + self.endpointing <= self.now:
            if len(words) == known or words[known][1] + lag > self.now:
                await self.later(self.fake.final_after, self.result(fresh, final=True, asked=False, ended=True))
        elif self.now - self.spoke >= SILENT_RESULTS:
            await self.connection.send(self.result([], final=not fresh, asked=False, ended=False))

    async def asked(self, kind: str) -> None:
        if kind == "Finalize":
            words = self.words()
            spoken = words[self.final : sum(end <= self.now for _, _, end in words)]
            self.known = max(self.known, self.final + len(spoken))
            await self.later(self.fake.final_after, self.result(spoken, final=True, asked=True, ended=False))


class _Flux(_Hearing):
    def __init__(self, fake: FakeDeepgram, connection: Connection, crew: Crew) -> None:
        super().__init__(fake, connection, crew)
        self.sequence, self.turn, self.since, self.known, self.updated = 0, 0, 0, 0, 0
        "`since` and `known`: the turn's words are those from the one to the other."
        self.eager = False
        self.wants_eager = "eager_eot_threshold" in connection.query
        self.ends = float(connection.query.get("eot_threshold", ["0.7"])[0]) < 1

    async def serve(self) -> None:
        await self.connection.send({"type": "Connected", "request_id": "r", "sequence_id": 0})
        await super().serve()

    def info(self, event: str, **more: Any) -> dict[str, Any]:
        words = self.words()[self.since : self.known]
        self.sequence += 1
        self.updated = self.now
        return {
            "type": "TurnInfo",
            "request_id": "r",
            "sequence_id": self.sequence,
            "event": event,
            "turn_index": self.turn,
            "audio_window_start": 0.0,
            "audio_window_end": self.now / 1000,
            "transcript": " ".join(word for word, _, _ in words),
            "words": [{"word": word, "confidence": 0.98} for word, _, _ in words],
            "end_of_turn_confidence": 0.8 if event.endswith("EndOfTurn") else 0.1,
            **more,
        }

    async def end(self, trigger: str, after: float) -> None:
        message = self.info("EndOfTurn", trigger=trigger)
        self.turn += 1
        self.since, self.eager = self.known, False
        await self.later(after, message)

    async def hear(self) -> None:
        words, lag = self.words(), int(self.fake.interim_lag * 1000)
        known = sum(end + lag <= self.now for _, _, end in words)
        if known > self.known:
            event = "StartOfTurn" if self.known == self.since else "TurnResumed" if self.eager else "Update"
            self.known, self.eager = known, False
            await self.connection.send(self.info(event))
            return
        speaking = len(words) > self.known and words[self.known][1] <= self.now
        silence = self.now - words[self.known - 1][2] if self.known > self.since and not speaking else -1
        if self.ends and silence >= self.fake.end_after * 1000:
            await self.end("model", 0)
        elif self.wants_eager and not self.eager and silence >= self.fake.eager_after * 1000:
            self.eager = True
            await self.connection.send(self.info("EagerEndOfTurn"))
        elif self.now - self.updated >= UPDATES:
            await self.connection.send(self.info("Update"))

    async def asked(self, kind: str) -> None:
        if kind == "ForceEndTurn":
            known = sum(end <= self.now for _, _, end in self.words())
            if known > self.since:
                if self.known == self.since:
                    self.known = known
                    await self.connection.send(self.info("StartOfTurn"))
                self.known = known
                await self.end("manual", self.fake.final_after)


class _Speaking:
    def __init__(self, fake: FakeDeepgram, connection: Connection, crew: Crew) -> None:
        self.fake, self.connection, self.crew = fake, connection, crew
        query = connection.query
        self.format = AudioFormat(ENCODINGS[query["encoding"][0]], int(query["sample_rate"][0]))
        self.text, self.flushes, self.given = "", 0, 0.0
        self.speaking: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        await self.connection.send({"type": "Metadata", "request_id": "r", "model_name": "aura"})
        while True:
            message = json.loads(await self.fake.received(self.connection))
            if message["type"] == "Speak":
                self.text += message["text"]
            elif message["type"] == "Flush":
                await self.flush()
            elif message["type"] == "Clear":
                await self.clear()
            elif message["type"] == "Close":
                return

    async def flush(self) -> None:
        text, self.text = self.text, ""
        self.flushes += 1
        if self.flushes > self.fake.max_flushes:
            why = "You have sent too many Flush messages; wait before you send another"
            await self.connection.send({"type": "Warning", "code": "EXCESSIVE_FLUSH", "description": why})
        else:
            self.speaking = self.crew.start(self.speak(text, self.flushes))

    async def clear(self) -> None:
        if self.speaking is not None:
            self.speaking.cancel()
        if self.fake.late:
            await self.connection.send(b"\x55" * self.format.size(self.fake.late))
        await self.connection.send({"type": "Cleared", "sequence_id": self.flushes})

    async def speak(self, text: str, number: int) -> None:
        async for until, piece in pieces(text, self.format, self.fake.manner):
            await self.connection.send(piece)
            await self.connection.strike(self.given + until)
        self.given += len(text) * self.fake.manner.per_letter
        await self.connection.send({"type": "Flushed", "sequence_id": number})
