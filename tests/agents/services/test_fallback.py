"""Vendors' own SDKs behind one another: what the first one breaks off, the second one takes up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from fakes.assemblyai import FakeAssemblyAi
from fakes.google import FakeGoogle, Fault
from fakes.piper import write_voice

from offhook.agents.services.base import Audio, Final, Heard, ServiceError
from offhook.agents.services.resilience import ResilientSpeechToText, ResilientTextToSpeech
from offhook.agents.services.shared import close_shared, services_of
from offhook.codecs.audio import PCMU

# The SDK of AssemblyAI still asks websockets for the code of a closed connection in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated:DeprecationWarning")


class Reports(list[tuple[str, str, str]]):
    def __call__(self, role: str, name: str, ttfb: float, fault: str, detail: str) -> None:
        self.append((role, name, fault))


async def test_a_sentence_that_one_ear_lost_is_heard_by_the_other() -> None:
    async with FakeAssemblyAi() as lost, FakeGoogle(texts=["I would like a table for two."]) as found:
        section = [
            {"service": "assemblyai", "base_url": lost.url, "api_key": "k"},
            {"service": "google", "base_url": found.url, "project": "p"},
        ]
        reports, heard = Reports(), asyncio.Queue[Heard]()
        stream = await ResilientSpeechToText(services_of("stt", section), reports).open(PCMU, heard.put_nowait)
        for number in range(10):
            stream.push(bytes([number]) * 160)
            await asyncio.sleep(0.005)
        lost.sessions[0].drop()
        for number in range(10, 20):
            stream.push(bytes([number]) * 160)
            await asyncio.sleep(0.005)
        stream.finalize()
        async with asyncio.timeout(5):
            final = await heard.get()
        assert final == Final("I would like a table for two.", pytest.approx(0.8), answers_finalize=True)
        assert bytes(found.legs[0].audio) == b"".join(bytes([number]) * 160 for number in range(20))
        assert reports == [("stt", "assemblyai", "unavailable"), ("stt", "google", "")]
        await stream.close()
        await close_shared()


async def test_a_sentence_that_one_voice_refused_is_spoken_by_the_other(tmp_path: Path) -> None:
    async with FakeGoogle(refuse=Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=60)) as busy:
        section = [
            {"service": "google", "base_url": busy.url},
            {"service": "piper", "file": str(write_voice(tmp_path))},
        ]
        reports = Reports()
        voice = await ResilientTextToSpeech(services_of("tts", section), reports).open(PCMU)
        spoken = [item async for item in voice.synthesize("Hello there.")]
        assert len(spoken) == 1
        assert isinstance(spoken[0], Audio)
        assert reports == [("tts", "google", "rate_limited"), ("tts", "piper", "")]
        await voice.close()
        await close_shared()


async def test_the_last_fault_is_told_when_no_voice_speaks() -> None:
    async with FakeGoogle(refuse=Fault(grpc.StatusCode.UNAUTHENTICATED, "no such key")) as first:
        services = services_of("tts", {"service": "google", "base_url": first.url})
        voice = await ResilientTextToSpeech(services, Reports()).open(PCMU)
        with pytest.raises(ServiceError, match="google: rejected: UNAUTHENTICATED no such key"):
            await anext(voice.synthesize("Hello."))
        await voice.close()
        await close_shared()
