"""A Pipecat bot for trying the QA dialer on: Twilio's TwiML and media socket, offline.

    python -m venv pipecat && pipecat/bin/pip install 'pipecat-ai[silero,websocket]==1.14.0' uvicorn
    pipecat/bin/python bench/qa_bots/pipecat_bot.py --port 8765
    offhook qa run suite:all --target twilio+http://127.0.0.1:8765/

What is Pipecat's own: transport, Twilio serializer, Silero VAD, Smart Turn, the aggregators with their default turn
strategies, interruption, key aggregation, idle detection. Standing in for services in a cloud: a recogniser that waits
`--stt` and understands nothing, a language model that waits `--llm` and has prepared answers, and flite.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import fields
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import HTMLResponse
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    EndWorkerFrame,
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.dtmf_aggregator import DTMFAggregator
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings, STTSettings, TTSSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.utils.time import time_now_iso8601
from pipecat.workers.runner import WorkerRunner

GREETING = "Hello, this is the parcel service. How can I help you today?"
ANSWERS = """\
I can look for a parcel, change the day on which it comes, or tell you which of our shops is near you. For a parcel I \
need the number on your receipt, which has twelve digits and begins with a four.
That is easy. Take your receipt, look for the long number below the bar code, and read it to me slowly. Then I will \
tell you where your parcel is, and when it will be at your door.
Our shops are open from Monday to Friday, from eight in the morning until six in the evening, and on Saturday from \
nine until noon. On Sunday and on holidays they are closed.""".splitlines()
LEAVE = "9"
"""Key after which it takes leave: its recogniser understands no words."""


def settings(kind: Any, **given: Any) -> Any:
    """Settings of a service in which everything is decided, as Pipecat asks for."""
    return kind(**{one.name: None for one in fields(kind) if one.name != "extra"} | given)


class Recogniser(SegmentedSTTService):
    """Takes as long as a recogniser in a cloud, and understands nothing."""

    def __init__(self, seconds: float) -> None:
        super().__init__(settings=settings(STTSettings), ttfs_p99_latency=1.0)
        self._seconds = seconds

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        await asyncio.sleep(self._seconds)
        yield TranscriptionFrame("something", "", time_now_iso8601())


class Model(LLMService):
    """Takes as long to its first word as a language model, and says what was prepared."""

    def __init__(self, seconds: float) -> None:
        super().__init__(settings=settings(LLMSettings, model="prepared"))
        self._seconds, self._turn = seconds, 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        last = str(frame.context.messages[-1].get("content", "")) if frame.context.messages else ""
        await self.push_frame(LLMFullResponseStartFrame())
        await asyncio.sleep(self._seconds)
        for word in self._reply(last).split(" "):
            await self.push_frame(LLMTextFrame(word + " "))
        await self.push_frame(LLMFullResponseEndFrame())
        if self._keys(last) == LEAVE:
            await self.push_frame(EndWorkerFrame(), FrameDirection.UPSTREAM)

    @staticmethod
    def _keys(last: str) -> str:
        return last.partition("DTMF: ")[2].strip()

    def _reply(self, last: str) -> str:
        keys = self._keys(last)
        if keys == LEAVE:
            return "Thank you for calling. Goodbye."
        if keys:
            return f"You have pressed {' '.join(keys)}. I will see what I can do."
        self._turn += 1
        return ANSWERS[(self._turn - 1) % len(ANSWERS)]


class Flite(TTSService):
    """flite's voice, at the rate of the line."""

    def __init__(self) -> None:
        super().__init__(push_start_frame=True, push_stop_frames=True, settings=settings(TTSSettings))

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            flite = await asyncio.create_subprocess_exec("flite", "-voice", "slt", "-t", text, "-o", file.name)
            await flite.wait()
            wav = Path(file.name).read_bytes()

        async def whole() -> AsyncGenerator[bytes, None]:
            yield wav

        async for frame in self._stream_audio_frames_from_iterator(
            whole(), strip_wav_header=True, context_id=context_id
        ):
            yield frame


def application(args: argparse.Namespace) -> FastAPI:
    """The web side: a webhook that answers with TwiML as Pipecat's runner does, and the media socket."""
    app = FastAPI()

    @app.post("/")
    async def ring(request: Request) -> HTMLResponse:
        stream = f"wss://{request.headers['host']}/ws"
        answer = (
            f'<?xml version="1.0" encoding="UTF-8"?><Response><Connect><Stream url="{stream}"/></Connect></Response>'
        )
        return HTMLResponse(answer, media_type="application/xml")

    @app.websocket("/ws")
    async def media(websocket: WebSocket) -> None:
        await websocket.accept()
        _, call = await parse_telephony_websocket(websocket)
        serializer = TwilioFrameSerializer(
            stream_sid=call.stream_id,
            call_sid=call.call_id,
            params=TwilioFrameSerializer.InputParams(auto_hang_up=False),  # it would ask api.twilio.com
        )
        await talk(args, websocket, serializer)

    return app


async def talk(args: argparse.Namespace, websocket: WebSocket, serializer: TwilioFrameSerializer) -> None:
    """One call."""
    transport = FastAPIWebsocketTransport(
        websocket=websocket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True, audio_out_enabled=True, add_wav_header=False, serializer=serializer
        ),
    )
    context = LLMContext()
    aggregators = LLMContextAggregatorPair(
        context,
        user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer(), user_idle_timeout=args.idle),
    )
    steps = [
        transport.input(),
        Recogniser(args.stt),
        DTMFAggregator(),
        aggregators.user(),
        Model(args.llm),
        Flite(),
        transport.output(),
        aggregators.assistant(),
    ]
    worker = PipelineWorker(
        Pipeline(steps), params=PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000)
    )

    @transport.event_handler("on_client_connected")
    async def connected(_transport: Any, _client: Any) -> None:
        await worker.queue_frames([TTSSpeakFrame(GREETING)])

    @transport.event_handler("on_client_disconnected")
    async def disconnected(_transport: Any, _client: Any) -> None:
        await worker.cancel()

    @aggregators.user().event_handler("on_user_turn_idle")
    async def idle(_aggregator: Any) -> None:
        await worker.queue_frames([TTSSpeakFrame("Are you still there?")])

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


def main() -> None:
    """Serve until interrupted."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--port", type=int, default=8765)
    options.add_argument("--stt", type=float, default=0.2, help="seconds to the transcript")
    options.add_argument("--llm", type=float, default=0.3, help="seconds to the first word")
    options.add_argument("--idle", type=float, default=6.0, help="seconds of silence before it asks")
    options.add_argument("--log", default="WARNING")
    args = options.parse_args()
    logger.remove()
    logger.add(sys.stderr, level=args.log)
    uvicorn.run(application(args), host="127.0.0.1", port=args.port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
