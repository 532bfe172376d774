"""What users may write under `turns:`."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from offhook.agents.turns.settings import TurnSettings


def test_every_setting_is_described_and_has_a_default() -> None:
    for name, field in TurnSettings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name


def test_what_cannot_work_is_refused() -> None:
    for wrong in (
        {"ending": "auto"},
        {"end": "never"},
        {"silence": 0},
        {"language": "English, please"},
        {"short_silence": 2.0, "long_silence": 1.0},
    ):
        with pytest.raises(ValidationError):
            TurnSettings.model_validate(wrong)


def test_the_back_channels_may_be_a_list_of_the_configuration() -> None:
    settings = TurnSettings.model_validate({"back_channels": ["roger"]})
    assert settings.back_channels == ("roger",)
    assert hash(settings)


@pytest.mark.parametrize(
    ("service", "model", "end"),
    [(True, True, "service"), (False, True, "model"), (False, False, "transcript")],
)
def test_auto_takes_the_best_there_is(service: bool, model: bool, end: str) -> None:
    assert TurnSettings().resolve_end(stt_ends_turns=service, has_model=model) == end
