"""A call of the gateway as a scenario that does what its caller did: `offhook qa from-call`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from offhook.codecs.convert import resample_all
from offhook.codecs.wav import WavError, parse_wav
from offhook.gateway.call_view import conversation
from offhook.gateway.journal import Entry
from offhook.gateway.records import CallRecord
from offhook.qa.activity import RATE
from offhook.qa.scenario.from_recording import Recorded, RecordingError, write_scenario

ENDED: Final[dict[str, Literal["agent", "caller"]]] = {"agent": "agent", "caller": "caller"}

ROLES: Final[dict[str, Literal["agent", "caller"]]] = {"agent": "agent", "caller": "caller", "user": "caller"}


def scenario_from(record: CallRecord, events: Sequence[Entry], folder: Path, name: str, *, to: str = "") -> Path:
    """Write the scenario and its WAV files; gives its path.

    Args:
        record: of the call.
        events: of the call, in order.
        folder: where the scenario goes.
        name: of the scenario.
        to: whom it calls; may be left to `--target`.

    Raises:
        RecordingError: there is no recording, it cannot be read, or the caller does nothing on it.
        OSError: the scenario cannot be written.
    """
    if not record.recording_path:
        raise RecordingError(f"call {record.id} was not recorded; set `record: true` on its route")
    file = Path(record.recording_path)
    try:
        encoding, rate, channels, data = parse_wav(file.read_bytes(), name=str(file))
    except OSError as error:
        raise RecordingError(f"the recording {file} cannot be read: {error.strerror}") from error
    except WavError as error:
        raise RecordingError(str(error)) from error
    if encoding != "l16" or channels != 2:
        raise RecordingError(f"{file} is no stereo recording of linear audio, as the gateway's are")
    both = np.frombuffer(data, "<i2").reshape(-1, channels)
    caller, agent = (np.frombuffer(resample_all(side.tobytes(), rate, RATE), "<i2") for side in both.T.copy())
    start = next((entry.mono for entry in events if entry.event == "call.answered"), None)
    if start is None:
        raise RecordingError(f"call {record.id} was never answered")
    offered = events[0].mono
    keys = [(entry.mono - start, str(entry.data.get("digit", ""))) for entry in events if entry.event == "dtmf"]
    lines = [(line.at - (start - offered), ROLES[line.role], line.text) for line in conversation(events)]
    texts = [line for line in lines if not any(line[2] == key for _, key in keys)]
    recorded = Recorded(caller, agent, keys, texts, ENDED.get(record.ended_by, ""))
    return write_scenario(folder, name, recorded, to=to)
