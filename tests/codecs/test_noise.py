"""Noise filters: who provides one, and RNNoise on telephone audio."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offhook.codecs import noise as subject
from offhook.codecs.audio import L16_8K
from offhook.codecs.convert import convert_all
from offhook.codecs.noise import NoiseFilter, NoiseFilterError, RnNoise, known_filters, noise_filter
from offhook.codecs.pcm import dbfs, mix
from offhook.codecs.wav import read_wav

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("pyrnnoise") is None, reason="no librnnoise: pip install --no-deps pyrnnoise"
)


def speech() -> bytes:
    format, _, data = read_wav(Path(__file__).with_name("speech.wav"))
    return convert_all(data, format, L16_8K)


def white(seconds: float, level: float) -> bytes:
    samples = np.random.default_rng(1).normal(size=int(seconds * 8000)) * 32768 * 10 ** (level / 20)
    return samples.clip(-32768, 32767).astype("<i2").tobytes()


def run(cleaner: NoiseFilter, pcm: bytes, size: int = 320) -> bytes:
    return b"".join(cleaner.process(pcm[at : at + size]) for at in range(0, len(pcm), size))


# --- the slot


class Whisper(NoiseFilter):
    """Somebody else's filter."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def process(self, pcm: bytes) -> bytes:
        return bytes(len(pcm))


def provide(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = [EntryPoint(name, value, subject.GROUP) for name, value in points.items()]
    monkeypatch.setattr(subject, "entry_points", lambda group: found)


def test_rnnoise_is_known() -> None:
    assert "rnnoise" in known_filters()
    assert subject.filter_class("rnnoise") is RnNoise


def test_a_filter_of_another_package_is_made_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "Whisper", Whisper, raising=False)
    provide(monkeypatch, whisper="offhook.codecs.noise:Whisper")
    cleaner = noise_filter("whisper", {"key": "k"})
    assert isinstance(cleaner, Whisper)
    assert cleaner.settings == {"key": "k"}
    assert cleaner(b"\x01" * 320) == bytes(320)
    assert cleaner.delay == 0
    type(cleaner).warm({})
    cleaner.close()


def test_what_cannot_be_had_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, gone="offhook.codecs.gone:Gone", pcm="offhook.codecs.pcm:tone")
    with pytest.raises(NoiseFilterError, match=r"'krisp' is not installed; installed filters: gone, pcm"):
        noise_filter("krisp")
    with pytest.raises(NoiseFilterError, match="'gone' cannot be imported"):
        noise_filter("gone")
    with pytest.raises(NoiseFilterError, match="no subclass of NoiseFilter"):
        noise_filter("pcm")


# --- RNNoise


def test_a_missing_library_names_the_light_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoiseFilterError, match=r"pip install --no-deps pyrnnoise"):
        noise_filter("rnnoise")


def test_settings_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(NoiseFilterError, match="strength: no such setting"):
        noise_filter("rnnoise", {"strength": 3})
    with pytest.raises(NoiseFilterError, match="no path"):
        noise_filter("rnnoise", {"library": 3})
    other = tmp_path / "librnnoise.so"
    with pytest.raises(NoiseFilterError, match=r"librnnoise\.so is no librnnoise"):
        noise_filter("rnnoise", {"library": str(other)})
    other.write_bytes(b"no library")
    with pytest.raises(NoiseFilterError, match=r"librnnoise\.so is no librnnoise"):
        RnNoise.warm({"library": str(other)})


@needs_library
def test_the_wheels_python_stays_unused() -> None:
    code = (
        "import sys; from offhook.codecs.noise import noise_filter; noise_filter('rnnoise').process(bytes(320));"
        "assert 'pyrnnoise' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_library
def test_noise_goes_and_speech_stays() -> None:
    cleaner = noise_filter("rnnoise")
    noise = run(cleaner, white(0.3, -40))
    assert dbfs(noise[-1600:]) < -70
    voice = speech()[:9600]
    noisy = run(cleaner, mix(voice, white(len(voice) / 16_000, -40)))
    assert dbfs(noisy) == pytest.approx(dbfs(voice), abs=2)
    cleaner.close()


@needs_library
def test_the_delay_is_as_stated() -> None:
    cleaner = noise_filter("rnnoise")
    voice = speech()[:9600]
    one = np.frombuffer(voice, "<i2").astype(float)
    other = np.frombuffer(run(cleaner, voice), "<i2").astype(float)
    alike = np.fft.irfft(np.fft.rfft(other, 2 * len(one)) * np.conj(np.fft.rfft(one, 2 * len(one))))
    assert np.argmax(alike[:2000]) / 8000 == pytest.approx(cleaner.delay, abs=0.0005)
    assert cleaner.delay == pytest.approx(0.026)
    cleaner.close()


@needs_library
@pytest.mark.parametrize("size", [320, 160, 2, 1, 1000, 5001])
def test_as_much_comes_out_as_went_in(size: int) -> None:
    cleaner = noise_filter("rnnoise")
    data = bytes(6000) if size < 100 else white(0.8, -40)
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        assert len(cleaner.process(piece)) == len(piece)
    cleaner.close()


@needs_library
def test_other_pieces_give_the_same_audio_a_little_later() -> None:
    one, other = noise_filter("rnnoise"), noise_filter("rnnoise")
    voice = speech()[:8000]
    straight, pieces = run(one, voice), run(other, voice, 500)
    assert pieces[160:] == straight[:-160]
    assert other.delay == pytest.approx(one.delay + 0.01)


@needs_library
def test_callers_do_not_hear_each_other() -> None:
    alone, beside, other = (noise_filter("rnnoise") for _ in range(3))
    voice, noise = speech()[4000:8000], white(0.25, -30)
    expected = run(alone, voice)
    got = b""
    for at in range(0, len(voice), 320):
        got += beside.process(voice[at : at + 320])
        other.process(noise[at : at + 320])
    assert got == expected


@needs_library
def test_a_state_is_freed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    library = subject._library(subject._library_path({}))
    destroy = library.rnnoise_destroy

    class Watched:
        rnnoise_create, rnnoise_process_frame = library.rnnoise_create, library.rnnoise_process_frame

        def rnnoise_destroy(self, state: int) -> None:
            freed.append(state)
            destroy(state)

    monkeypatch.setattr(subject, "_library", lambda path: Watched())
    cleaner = noise_filter("rnnoise")
    cleaner.close()
    cleaner.close()
    assert len(freed) == 1
    with pytest.raises(RuntimeError, match="closed"):
        cleaner.process(bytes(320))
    forgotten = noise_filter("rnnoise")
    del forgotten
    gc.collect()
    assert len(freed) == 2
