"""Smart Turn: a model that hears by the melody whether a sentence is finished.

Smart Turn v3 is Whisper's smallest encoder with a classifier on top, 8 MB, BSD-2-Clause, trained for 23 languages
(github.com/pipecat-ai/smart-turn). It hears the last eight seconds of the caller and gives one probability, and it is
asked once a pause. Its file ships in the wheel of pipecat-ai, whose code stays unused; a path serves as well.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from offhook.agents.api import SettingsError
from offhook.agents.services.base import ServiceError
from offhook.agents.turns.features import FRAMES, MELS, RATE, log_mel
from offhook.codecs.convert import resample_all

# Before the import: the library may otherwise report its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

__all__ = ["SECONDS", "SmartTurn"]

SECONDS: Final = 8
"""What the model hears; of longer audio the end counts."""

AS_IF_MS: Final = 120
"""Milliseconds of silence put behind the audio. The model is asked 130 ms into a pause and is at its best at 250 ms:
of 64 finished synthetic telephone sentences it takes 38 % for finished at 130 ms, 61 % with this, 62 % at 250 ms, of
40 mid-sentence pauses 7, 20 and 17 % (the words tell nearly all of those); it ranks them equally well each time."""

PHONE_RATE: Final = 8000
INPUT: Final = "input_features"
IN_WHEEL: Final = Path("audio/turn/smart_turn/data")
REMEDY: Final = "`pip install --no-deps pipecat-ai` brings one, or set turns.model_path to a smart-turn-v3 file"


class SmartTurn:
    """The model, one session and one thread a host, off the event loop.

    One answer takes 70 ms (median of 30 on a 2-core server; 1.4 resampling, 3.5 features, the rest inference), one
    model 90 MB a host.

    Args:
        path: the ONNX file; empty: the one in the wheel of pipecat-ai.

    Raises:
        SettingsError: there is no such file, or it is not this model.
    """

    _shared: ClassVar[dict[str, SmartTurn]] = {}

    def __init__(self, path: str = "") -> None:
        self.path: Final = model_file(path)
        self._session: Any = None
        self._loading = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="smart-turn")

    @classmethod
    def shared(cls, path: str = "") -> SmartTurn:
        """The host's model for this path; made, but not loaded, when it is asked for first. On the event loop only.

        Raises:
            SettingsError: there is no such file.
        """
        if path not in cls._shared:
            cls._shared[path] = cls(path)
        return cls._shared[path]

    @classmethod
    def installed(cls, path: str = "") -> bool:
        """Whether there is a file to load."""
        try:
            model_file(path)
        except SettingsError:
            return False
        return True

    def load(self) -> None:
        """Load the model now rather than with the first question; takes some 80 ms. Once is enough.

        Raises:
            SettingsError: the file is not this model.
        """
        with self._loading:
            if self._session is not None:
                return
            options = onnxruntime.SessionOptions()
            # One pause at a time on one core: the others belong to the calls.
            options.intra_op_num_threads = 1
            options.inter_op_num_threads = 1
            options.log_severity_level = 3  # errors only
            # The arena would keep the largest working set for good.
            options.enable_cpu_mem_arena = False
            try:
                session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's own errors share no base below Exception
                raise SettingsError(f"turns.model_path: {self.path} is no ONNX model ({error}); {REMEDY}") from error
            shapes = {put.name: put.shape[1:] for put in session.get_inputs()}
            if shapes != {INPUT: [MELS, FRAMES]}:
                raise SettingsError(
                    f"turns.model_path: {self.path} wants {shapes}, which is not Smart Turn v3; {REMEDY}"
                )
            self._session = session

    async def probability(self, pcm: bytes) -> float:
        """How probable it is that the caller has finished, 0 to 1.

        A question that is cancelled before its turn has come costs nothing.

        Args:
            pcm: int16 mono at 8 kHz, the caller's turn up to and with the pause; the last eight seconds count.

        Raises:
            SettingsError: the model was not loaded yet and its file is not this model.
            ServiceError: it failed on this audio.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._judge, pcm)

    def _judge(self, pcm: bytes) -> float:
        self.load()
        size = 2 * PHONE_RATE * SECONDS
        heard = pcm[-size:] + bytes(2 * PHONE_RATE * AS_IF_MS // 1000)
        wide = resample_all(heard, PHONE_RATE, RATE)
        samples: NDArray[np.float32] = np.frombuffer(wide, "<i2").astype(np.float32) * np.float32(1 / 32768)
        # The output is called logits, and is a probability: the sigmoid is part of the graph.
        try:
            (given,) = self._session.run(None, {INPUT: log_mel(samples)[None]})
        except Exception as error:  # onnxruntime's own errors share no base below Exception
            raise ServiceError("smart-turn", "bad_reply", str(error)) from error
        return float(given[0, 0])

    def close(self) -> None:
        """End the thread, when it has answered what it was asked. A shared model is made anew when asked for again."""
        for path in [path for path, model in self._shared.items() if model is self]:
            del self._shared[path]
        self._thread.shutdown(cancel_futures=True)
        self._session = None

    @classmethod
    def close_shared(cls) -> None:
        """Close every shared model. The host is going down."""
        for model in list(cls._shared.values()):
            model.close()


def model_file(path: str = "") -> Path:
    """Where the model lies.

    Raises:
        SettingsError: nowhere.
    """
    if path:
        if not Path(path).is_file():
            raise SettingsError(f"turns.model_path: there is no file {path}; {REMEDY}")
        return Path(path)
    # By its spec: importing the package would load a framework.
    spec = importlib.util.find_spec("pipecat")
    if spec is not None and spec.origin is not None:
        found = sorted((Path(spec.origin).parent / IN_WHEEL).glob("smart-turn-v3*.onnx"))
        if found:
            return found[-1]
    raise SettingsError(f"turns.end: model, and no end-of-turn model is installed; {REMEDY}")
