from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhook.codecs.audio import FRAME_MS, L16_8K, L16_16K, L16_24K, PCMA, PCMU, RATES, AudioFormat

FORMATS = [PCMU, PCMA, *(AudioFormat("l16", rate) for rate in RATES)]
every_format = pytest.mark.parametrize("format", FORMATS, ids=str)


@every_format
def test_the_written_form_is_read_back(format: AudioFormat) -> None:
    assert AudioFormat.parse(str(format)) == format


def test_the_written_forms() -> None:
    assert [str(format) for format in (PCMU, PCMA, L16_8K, L16_16K, L16_24K)] == [
        "pcmu/8000",
        "pcma/8000",
        "l16/8000",
        "l16/16000",
        "l16/24000",
    ]


@pytest.mark.parametrize("text", ["", "pcmu", "pcmu/", "pcmu/8k", "pcmu/-8000", "l16/１６000", "l16/8000/1"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not of the form encoding/rate"):
        AudioFormat.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("opus/48000", "encoding 'opus' is not one of pcmu, pcma, l16"),
        ("l16/44100", "rate 44100 is not one of 8000"),
        ("pcma/16000", "pcma is defined at 8000 Hz only"),
    ],
)
def test_what_is_not_carried_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AudioFormat.parse(text)


@every_format
def test_a_frame_is_twenty_milliseconds(format: AudioFormat) -> None:
    assert format.frame_bytes == format.rate // 50 * format.sample_bytes
    assert format.duration(format.frame_bytes) == FRAME_MS / 1000
    assert format.size(FRAME_MS / 1000) == format.frame_bytes
    assert len(format.silence) == format.frame_bytes
    assert len(set(format.silence)) == 1


@given(st.sampled_from(FORMATS), st.integers(0, 10**7))
def test_size_is_whole_samples_and_undoes_duration(format: AudioFormat, samples: int) -> None:
    size = samples * format.sample_bytes
    assert format.size(format.duration(size)) == size
    if format is L16_8K:
        assert format.size(format.duration(size + 1)) == size
