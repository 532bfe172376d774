"""The SIP telephone baresip, without a screen: it plays a tone, records what it hears, and does as it is told.

It is ordered over its control socket (JSON in netstrings) and tells there what happens to its calls. What it sent and
what it heard are WAV files, complete once the call is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import subprocess
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

needs_baresip = pytest.mark.skipif(shutil.which("baresip") is None, reason="needs `apt-get install baresip-core`")

MODULES: Final = Path("/usr/lib/baresip/modules")
SIP_PORT: Final = 5062
CONTROL_PORT: Final = 4444

LEVEL: Final = -9.0
"""dB below full scale (mean square) of the tone a telephone plays: a sine of half the amplitude."""

SECONDS: Final = 20
"""Length of that tone; no call of a test lasts that long."""

PATIENCE: Final = 8.0
"""Seconds to wait for anything to happen on a busy machine."""

CODECS: Final = {
    "PCMU/8000/1": "g711",
    "PCMA/8000/1": "g711",
    "G722/16000/1": "g722",
    "opus/48000/2": "opus",
    "L16/16000/1": "l16",
    "L16/8000/1": "l16",
}
"""What the telephone speaks, and the module that does it."""

Samples = npt.NDArray[np.float64]


# --- sound ---------------------------------------------------------------------------


def sine(hertz: float, seconds: float, rate: int) -> Samples:
    """A tone of half the full scale, as fractions of it."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def write_wav(path: Path, samples: Samples, rate: int) -> None:
    """One channel of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@dataclass(frozen=True)
class Sound:
    """Some audio: fractions of full scale, and samples a second."""

    samples: Samples
    rate: int

    @classmethod
    def read(cls, path: Path, channel: int = 0) -> Sound:
        """A channel of a WAV file of 16 bits."""
        with wave.open(str(path), "rb") as file:
            frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            return cls(frames[channel :: file.getnchannels()] / 32768, file.getframerate())

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def part(self, start: float, end: float) -> Sound:
        """From one second to another; negative ones count from the end."""
        first, last = (int((at if at >= 0 else self.seconds + at) * self.rate) for at in (start, end))
        return Sound(self.samples[max(first, 0) : last], self.rate)

    def level(self) -> float:
        """dB below full scale; -120 for digital silence and for nothing at all."""
        power = float(np.mean(self.samples**2)) if len(self.samples) else 0.0
        return 10 * float(np.log10(max(power, 1e-12)))

    def tone(self) -> tuple[float, float, float]:
        """The loudest tone: its Hertz, its dB below full scale, and how many dB all else is below it."""
        window = np.hanning(len(self.samples))
        power = np.abs(np.fft.rfft(self.samples * window)) ** 2
        power[: int(40 * len(self.samples) / self.rate)] = 0  # an offset is no sound
        peak = int(np.argmax(power))
        around = slice(max(0, peak - 4), peak + 5)
        tone, total = float(np.sum(power[around])), float(np.sum(power))
        whole = float(np.mean(self.samples**2))
        level = 10 * float(np.log10(max(whole * tone / total, 1e-12))) if total else -120.0
        purity = 10 * float(np.log10(tone / max(total - tone, 1e-12))) if tone else 0.0
        return peak * self.rate / len(self.samples), level, purity

    def has(self, hertz: float) -> float:
        """The dB below full scale of what sounds within 20 Hz of a frequency."""
        window = np.hanning(len(self.samples))
        power = np.abs(np.fft.rfft(self.samples * window)) ** 2
        at = np.fft.rfftfreq(len(self.samples), 1 / self.rate)
        share = float(np.sum(power[np.abs(at - hertz) <= 20])) / max(float(np.sum(power)), 1e-12)
        return 10 * float(np.log10(max(share * float(np.mean(self.samples**2)), 1e-12)))


def steady(sound: Sound) -> Sound:
    """The middle of a call: without the moments in which it began and ended."""
    return sound.part(0.4, -0.3)


# --- the telephone -------------------------------------------------------------------


@dataclass
class Baresip:
    """One running telephone."""

    folder: Path
    host: str
    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    events: list[dict[str, Any]] = field(default_factory=list)
    "What it told, in order: `type` such as CALL_ESTABLISHED, `param`."
    _answers: dict[str, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _tokens: itertools.count[int] = field(default_factory=itertools.count)
    _told: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def log(self) -> str:
        """What it printed, with the SIP messages where `trace` is set."""
        return (self.folder / "log").read_text(errors="replace")

    async def order(self, command: str, params: str = "") -> str:
        """Have it do something (`dial`, `hold`, `resume`, `sndcode`, `hangup`, `transfer`); gives what it says."""
        token = str(next(self._tokens))
        answer = self._answers[token] = asyncio.get_running_loop().create_future()
        body = json.dumps({"command": command, "params": params, "token": token}).encode()
        self.writer.write(b"%d:%b," % (len(body), body))
        async with asyncio.timeout(PATIENCE):
            told = await answer
        assert told["ok"], f"{command} {params}: {told}"
        return str(told.get("data") or "")

    async def until(self, kind: str, *, count: int = 1) -> dict[str, Any]:
        """Wait for the event of that type, the `count`-th one since the start; gives it."""
        try:
            async with asyncio.timeout(PATIENCE), self._told:
                while len(found := [event for event in self.events if event["type"] == kind]) < count:
                    await self._told.wait()
        except TimeoutError:
            told = "\n".join(f"{event['type']} {event.get('param', '')}" for event in self.events)
            raise AssertionError(f"no {kind} (count {count}); told:\n{told}\n{self.log}") from None
        return found[count - 1]

    async def call(self, uri: str) -> None:
        """Dial, and wait for the answer."""
        await self.order("dial", uri)
        await self.until("CALL_ESTABLISHED")

    async def refused(self, uri: str) -> str:
        """Dial, and wait to be refused; gives the reason, such as `488 Not Acceptable Here`."""
        await self.order("dial", uri)
        reason = str((await self.until("CALL_CLOSED")).get("param", ""))
        assert not any(event["type"] == "CALL_ESTABLISHED" for event in self.events), self.events
        return reason

    async def hang_up(self) -> None:
        await self.order("hangup")

    @property
    def heard(self) -> Sound:
        """What came from the other side in the last call."""
        return Sound.read(self._dump("dec"))

    @property
    def sent(self) -> Sound:
        return Sound.read(self._dump("enc"))

    def _dump(self, kind: str) -> Path:
        found = sorted(self.folder.glob(f"dump-*-{kind}.wav"))
        assert found, self.log
        return found[-1]

    async def _listen(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int((await self.reader.readuntil(b":"))[:-1])
                told = json.loads((await self.reader.readexactly(size + 1))[:-1])
                if told.get("response"):
                    if (answer := self._answers.pop(str(told.get("token")), None)) and not answer.done():
                        answer.set_result(told)
                    continue
                async with self._told:
                    self.events.append(told)
                    self._told.notify_all()


def _config(folder: Path, host: str, codec: str, rate: int, more: Sequence[str]) -> str:
    shown = f"[{host}]" if ":" in host else host
    codecs = [CODECS[codec]] if codec else ["g711"]
    modules = [*codecs, "aufile", "aubridge", "sndfile", "srtp", "account", "menu", "ctrl_tcp"]
    lines = [
        f"sip_listen {shown}:{SIP_PORT}",
        f"net_interface {host}",
        f"module_path {MODULES}",
        *(f"module {name}.so" for name in modules),
        f"audio_source aufile,{folder}/tone.wav",
        "audio_player aubridge,sink",
        f"audio_alert aubridge,alert-{folder.name}",
        f"ausrc_srate {rate}",
        f"auplay_srate {rate}",
        "ausrc_channels 1",
        "auplay_channels 1",
        f"snd_path {folder}",
        "audio_buffer 20-160",
        "jitter_buffer_delay 1-10",
        "ringback_disabled yes",
        f"ctrl_tcp_listen {shown}:{CONTROL_PORT}",
        *more,
    ]
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def baresip(
    folder: Path,
    host: str,
    *,
    hertz: float = 440,
    codec: str = "PCMU/8000/1",
    rate: int = 0,
    account: str = "",
    user: str = "alice",
    transport: str = "udp",
    registrar: str = "",
    trace: bool = False,
    config: Sequence[str] = (),
) -> AsyncIterator[Baresip]:
    """Run a telephone.

    Args:
        folder: is made; for its configuration and what it records.
        host: a loopback address that nobody else uses.
        hertz: the tone it plays.
        codec: of CODECS.
        rate: samples a second of its microphone and loudspeaker; as its codec has them where 0.
        account: further parameters of its account, such as `mediaenc=srtp-mand;answermode=auto`.
        user: its name.
        transport: `udp`, `tcp` or `tls`.
        registrar: where it registers; nowhere if empty. `account` has `auth_user` and `auth_pass`.
        trace: write every SIP message into its log.
        config: further lines of its configuration.
    """
    folder.mkdir()
    rate = rate or int(codec.split("/")[1])
    write_wav(folder / "tone.wav", sine(hertz, SECONDS, rate), rate)
    shown = f"[{host}]" if ":" in host else host
    parameters = [f"regint={60 if registrar else 0}", f"audio_codecs={codec}", *([account] if account else [])]
    (folder / "accounts").write_text(
        f"<sip:{user}@{registrar or shown};transport={transport}>;{';'.join(parameters)}\n"
    )
    (folder / "contacts").write_text("")
    (folder / "config").write_text(_config(folder, host, codec, rate, config))
    command = ["baresip", "-f", str(folder), "-t", "60", *(["-s"] if trace else [])]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    writer = listening = None
    try:
        async with asyncio.timeout(PATIENCE):
            while writer is None:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    reader, writer = await asyncio.open_connection(host, CONTROL_PORT)
                except OSError:
                    await asyncio.sleep(0.05)
        phone = Baresip(folder, host, process, reader, writer)
        listening = asyncio.create_task(phone._listen())
        yield phone
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 5)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        if listening is not None:
            listening.cancel()
            await asyncio.wait([listening])
        if writer is not None:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
