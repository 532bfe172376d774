"""Google's speech services on a real gRPC server: Speech-to-Text version 2 and Text-to-Speech version 1."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

import grpc
from google.cloud.speech_v2 import (
    SpeechRecognitionAlternative,
    StreamingRecognitionConfig,
    StreamingRecognitionResult,
    StreamingRecognizeRequest,
    StreamingRecognizeResponse,
)
from google.cloud.texttospeech_v1 import (
    StreamingSynthesizeRequest,
    StreamingSynthesizeResponse,
    SynthesizeSpeechRequest,
    SynthesizeSpeechResponse,
)
from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status


@dataclass
class Fault:
    """End the call with this status."""

    code: grpc.StatusCode
    message: str = "as the script has it"
    retry_after: int = 0

    async def act_out(self, context: Any) -> None:
        if not self.retry_after:
            await context.abort(self.code, self.message)
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=self.retry_after)))
        details = rpc_status.to_status(status)
        await context.abort(details.code, details.details, details.trailing_metadata)


@dataclass
class Leg:
    """One StreamingRecognize of a client."""

    recognizer: str = ""
    config: StreamingRecognitionConfig | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    audio: bytearray = field(default_factory=bytearray)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    "The client has closed its half."
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    "The call is over, whoever ended it."
    _out: asyncio.Queue[StreamingRecognizeResponse | Fault | None] = field(default_factory=asyncio.Queue)

    def say(self, *results: tuple[str, bool], end: float = 0.0) -> None:
        """Send results, each a text and whether it is final; `end` is the offset of the last one's end in seconds."""
        self._out.put_nowait(
            StreamingRecognizeResponse(
                results=[
                    StreamingRecognitionResult(
                        alternatives=[SpeechRecognitionAlternative(transcript=text, confidence=0.8 if final else 0.0)],
                        is_final=final,
                        result_end_offset=timedelta(seconds=end),
                    )
                    for text, final in results
                ]
            )
        )

    def end(self, fault: Fault | None = None) -> None:
        self._out.put_nowait(fault)


class FakeGoogle:
    """Serves both services at `url` while its `async with` block runs.

    Args:
        texts: what is heard, one for each leg whose half the client closes; the last for all that follow. Empty: the
            test says so itself.
        refuse: given in place of an answer to any call.
        speech: the audio of every sentence, a piece at a time; a float is a pause, a Fault ends the call.
        wav: (format code, rate) of the header before speech that comes as a whole.
    """

    def __init__(
        self,
        *,
        texts: Sequence[str] = (),
        refuse: Fault | None = None,
        speech: Sequence[bytes | float | Fault] = (b"\x11" * 800,),
        wav: tuple[int, int] = (7, 8000),
    ) -> None:
        self.texts, self.refuse, self.speech, self.wav = list(texts), refuse, speech, wav
        self.legs: list[Leg] = []
        self.sentences: list[tuple[Any, str]] = []
        "What was to be spoken: configuration, text."
        self.cancelled = 0
        "Sentences that the client did not hear to the end."

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "google.cloud.speech.v2.Speech",
                    {
                        "StreamingRecognize": grpc.stream_stream_rpc_method_handler(
                            self._recognize,
                            StreamingRecognizeRequest.deserialize,
                            StreamingRecognizeResponse.serialize,
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "google.cloud.texttospeech.v1.TextToSpeech",
                    {
                        "StreamingSynthesize": grpc.stream_stream_rpc_method_handler(
                            self._stream, StreamingSynthesizeRequest.deserialize, StreamingSynthesizeResponse.serialize
                        ),
                        "SynthesizeSpeech": grpc.unary_unary_rpc_method_handler(
                            self._synthesize, SynthesizeSpeechRequest.deserialize, SynthesizeSpeechResponse.serialize
                        ),
                    },
                ),
            )
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def leg(self, number: int) -> Leg:
        """The leg of this number, from 0, once it is there."""
        async with asyncio.timeout(3):
            while len(self.legs) <= number:
                await asyncio.sleep(0.002)
        return self.legs[number]

    async def _recognize(
        self, requests: AsyncIterator[StreamingRecognizeRequest], context: Any
    ) -> AsyncIterator[StreamingRecognizeResponse]:
        if self.refuse is not None:
            await self.refuse.act_out(context)
        leg = Leg(metadata=dict(context.invocation_metadata()))
        listening = asyncio.create_task(self._listen(leg, requests))
        try:
            while (out := await leg._out.get()) is not None:
                if isinstance(out, Fault):
                    await out.act_out(context)
                else:
                    yield out
        finally:
            listening.cancel()
            await asyncio.wait([listening])
            leg.gone.set()

    async def _listen(self, leg: Leg, requests: AsyncIterator[StreamingRecognizeRequest]) -> None:
        async for request in requests:
            if request.recognizer:
                leg.recognizer, leg.config = request.recognizer, request.streaming_config
                self.legs.append(leg)
            leg.audio += request.audio
        leg.closed.set()
        if self.texts:
            text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
            if text:
                leg.say((text, True))
            leg.end()

    async def _stream(
        self, requests: AsyncIterator[StreamingSynthesizeRequest], context: Any
    ) -> AsyncIterator[StreamingSynthesizeResponse]:
        config, text = None, ""
        async for request in requests:
            if request.streaming_config.voice.name:
                config = request.streaming_config
            text += request.input.text
        self.sentences.append((config, text))
        if self.refuse is not None:
            await self.refuse.act_out(context)
        whole = False
        try:
            for step in self.speech:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, Fault):
                    whole = True
                    await step.act_out(context)
                else:
                    yield StreamingSynthesizeResponse(audio_content=step)
            whole = True
        finally:
            self.cancelled += not whole

    async def _synthesize(self, request: SynthesizeSpeechRequest, context: Any) -> SynthesizeSpeechResponse:
        self.sentences.append((request, request.input.text))
        if self.refuse is not None:
            await self.refuse.act_out(context)
        audio = b""
        for step in self.speech:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, Fault):
                await step.act_out(context)
            else:
                audio += step
        code, rate = self.wav
        bits = 16 if code == 1 else 8
        head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(audio), b"WAVE", b"fmt ", 16, code, 1, rate, 0, 1, bits)
        return SynthesizeSpeechResponse(audio_content=head + struct.pack("<4sI", b"data", len(audio)) + audio)
