"""The page on scenarios says what the model says, and its examples load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offhook.qa.scenario.load import ScenarioError, parse, suite_paths
from offhook.qa.scenario.reference import filled, main, tables

PAGE = Path(__file__).parents[3] / "docs" / "qa-scenarios.md"
TEXT = PAGE.read_text("utf-8")


def test_the_tables_are_what_the_code_says() -> None:
    assert filled(TEXT) == TEXT, "run python -m offhook.qa.scenario.reference docs/qa-scenarios.md"
    assert set(re.findall(r"<!-- table: (\w+) -->", TEXT)) == set(tables())


def test_every_field_is_explained() -> None:
    for name, table in tables().items():
        for row in table.splitlines()[2:]:
            cells = [cell.strip() for cell in row.strip("|").split(" | ")]
            assert len(cells) >= 4, row
            assert cells[-1], f"{name}: {row}"


def test_a_page_is_filled_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: PassRule -->\nold\n<!-- end -->\nb\n")
    main([str(page)])
    assert page.read_text() == f"a\n<!-- table: PassRule -->\n\n{tables()['PassRule']}\n<!-- end -->\nb\n"


@pytest.mark.parametrize("text", re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
def test_examples_load(text: str) -> None:
    assert parse(text).scenario.steps


def test_the_example_of_faults() -> None:
    (said,) = re.findall(r"^```\n(menu\.yaml.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    text = "name: menu\nsteps:\n  - wait: agent_done\n  - say: x\n    within: 2s\n"
    text += "  - silence: 5\nassert:\n  wire:\n    v2v: 3\n"
    found = []
    # A metric is looked at once the rest is right.
    for written in (text, text.replace("within: 2s", "as: x").replace(": 5", ": 5s")):
        with pytest.raises(ScenarioError) as caught:
            parse(written, "menu.yaml")
        found += map(str, caught.value.problems)
    assert said.splitlines() == found


def test_every_suite_has_its_row() -> None:
    for name in suite_paths():
        assert f"| `{name}` |" in TEXT
