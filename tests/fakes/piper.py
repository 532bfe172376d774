"""A Piper voice of a few hundred bytes: its model makes 20 ms of sine out of every phoneme.

No voice can be shipped here, so this one is written from the protocol buffers that ONNX defines (onnx.proto3). All
but the model's weights is the real thing: Piper's phonemes, its configuration, onnxruntime.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

FLOAT, INT64 = 1, 7
RATE = 22050
SAMPLES = 441
"""Samples of one phoneme, 20 ms."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    names = b"".join(_field(1, name) for name in inputs)
    return _field(1, names + _field(2, output) + _field(4, kind) + attributes)


def _value(number: int, name: str, kind: int, dimensions: list[int | str]) -> bytes:
    shape = b"".join(_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in dimensions)
    return _field(number, _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape))))


def _constant(name: str, kind: int, dimensions: list[int], data: bytes) -> bytes:
    sizes = b"".join(_field(1, size) for size in dimensions)
    return _field(5, sizes + _field(2, kind) + _field(8, name) + _field(9, data))


def _model() -> bytes:
    cast = _field(5, _field(1, "to") + _field(3, FLOAT) + _field(20, 2))
    wave = struct.pack(f"<{SAMPLES}f", *(number * 0.13 for number in range(SAMPLES)))
    graph = b"".join(
        [
            _node("Cast", ["input"], "numbers", cast),
            _node("Mul", ["numbers", "nothing"], "silence"),
            _node("Reshape", ["silence", "column"], "steps"),
            _node("Add", ["steps", "wave"], "phases"),
            _node("Sin", ["phases"], "tones"),
            _node("Reshape", ["tones", "flat"], "output"),
            _field(2, "tiny"),
            _constant("nothing", FLOAT, [1], struct.pack("<f", 0.0)),
            _constant("column", INT64, [2], struct.pack("<2q", -1, 1)),
            _constant("wave", FLOAT, [1, SAMPLES], wave),
            _constant("flat", INT64, [3], struct.pack("<3q", 1, 1, -1)),
            _value(11, "input", INT64, [1, "phonemes"]),
            _value(11, "input_lengths", INT64, [1]),
            _value(11, "scales", FLOAT, [3]),
            _value(12, "output", FLOAT, [1, 1, "samples"]),
        ]
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 17))


def write_voice(folder: Path, **changes: Any) -> Path:
    """Write the voice's two files; `changes` go into its description."""
    file = folder / "tiny.onnx"
    file.write_bytes(_model())
    letters = {chr(code): [code] for code in range(ord(" "), 0x3FF)}
    config = {
        "audio": {"sample_rate": RATE},
        "espeak": {"voice": "en-us"},
        "phoneme_type": "espeak",
        "num_symbols": 0x400,
        "num_speakers": 1,
        "phoneme_id_map": {**letters, "_": [0], "^": [1], "$": [2]},
        "inference": {"length_scale": 1.0},
    }
    Path(f"{file}.json").write_text(json.dumps({**config, **changes}))
    return file
