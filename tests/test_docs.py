"""The documentation says what the code does, builds without the network, and its examples work."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from offhook.agents.conversation.settings import AssistantSettings, read_settings
from offhook.agents.services.registry import GROUPS, service_class
from offhook.gateway.check import try_agent
from offhook.gateway.config import load
from offhook.gateway.reasons import STATUS_OF, CallStatus, EndReason
from offhook.qa.running.load_model import LoadPlan
from offhook.qa.scenario.load import read_model

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "providers" / "README.md"])


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "mkdocs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    made: dict[str, str] = reference.pages()
    return made


# --- made from the code -------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("assistant.md", "configuration.md", "cli.md", "link.md", "limits.md", "metrics.md", "qa-metrics.md"),
        "services.md",
    ],
)
def test_reference_pages_are_what_the_code_says(name: str, pages: dict[str, str]) -> None:
    assert set(pages) == {path.name for path in (DOCS / "reference").glob("*.md")}
    assert (DOCS / "reference" / name).read_text() == pages[name], "run `make docs`"


def test_every_key_of_the_configuration_is_explained(pages: dict[str, str]) -> None:
    rows = [line.split(" | ") for line in pages["configuration.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    plain = {"`number`", "`agent`", "`say`", "`transfer`", "`level`"}  # their sections say what they are for
    assert {row[0].removeprefix("| ") for row in rows if not row[3].strip(" |")} <= plain


def test_the_table_of_end_reasons_is_complete() -> None:
    rows = re.findall(r"^\| (\w+) \| (`.+`) \|$", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    told = {status: set(re.findall(r"`(\w+)`", reasons)) for status, reasons in rows}
    assert told == {
        str(status): {str(reason) for reason in EndReason if STATUS_OF[reason] is status}
        for status in CallStatus
        if status is not CallStatus.LIVE
    }


def test_commands_named_in_the_documentation_exist(pages: dict[str, str]) -> None:
    known = set(re.findall(r"^## `offhook ([a-z ]+)`", pages["cli.md"], re.MULTILINE))
    assert {"serve", "demo", "check", "config schema", "config validate", "calls list", "calls show"} <= known
    known |= {command.split()[0] for command in known}
    alone = {command for command in known if not any(other.startswith(f"{command} ") for other in known)}
    for page in PAGES:
        for named in re.findall(r"`(?:\.venv/bin/)?offhook ([a-z ]+?)(?= ID| --|`)", page.read_text()):
            words = named.split()
            assert " ".join(words[:2]) in known or words[0] in alone, f"{page.name}: offhook {named}"


# --- examples -----------------------------------------------------------------------


def test_the_first_agent_has_at_most_20_lines_and_works(tmp_path: Path) -> None:
    code = next(block for block in _blocks(DOCS / "agents.md", "python") if "class Parrot" in block)
    assert len(code.splitlines()) <= 20
    (tmp_path / "shop.py").write_text(code)
    assert try_agent("shop:Parrot", {}, tmp_path) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_examples_compile(page: Path) -> None:
    for block in _blocks(page, "python"):
        compile(block, str(page), "exec")


ASSISTANT: dict[str, Any] = {"prompt": "p", "stt": {}, "llm": {}, "tts": {}}


def _check_assistant(section: dict[str, Any]) -> None:
    settings = read_settings(section)
    for role in GROUPS:
        for service in getattr(settings, role):
            if service:
                service_class(role, service["service"]).Settings.model_validate(service)


def test_configuration_examples_load(tmp_path: Path) -> None:
    whole: dict[str, Any] = {
        "public_url": "https://voice.test",
        "carriers": {"twilio": {"account_sid": "AC1", "auth_token": "t"}},
        "agents": {"front-desk": {"kind": "echo"}, "parrot": {"kind": "echo"}, "mine": {"kind": "echo"}},
        "routes": [{"number": "*", "agent": "front-desk"}],
    }
    seen = 0
    for page in [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]:
        for block in _blocks(page, "yaml"):
            path = tmp_path / "config.yaml"
            env = dict.fromkeys(re.findall(r"\$\{([A-Z_]+)", block), "x" * 32)
            shown = yaml.safe_load(block)
            if "steps" in shown and "name" in shown:
                continue  # a scenario: tests/qa/scenario tries it
            if "mix" in shown:
                path.write_text(block)
                read_model(path, LoadPlan)
                continue
            agents = shown.get("agents", {})
            if set(shown) <= set(AssistantSettings.model_fields) and not any("kind" in a for a in agents.values()):
                _check_assistant(ASSISTANT | shown)  # a part of an assistant's section
                continue
            for agent in agents.values():
                if agent.get("kind") == "assistant":
                    _check_assistant(ASSISTANT | {name: value for name, value in agent.items() if name != "kind"})
            agents = whole["agents"] | shown.pop("agents", {})
            path.write_text(yaml.safe_dump(whole | shown | {"agents": agents}))
            load(path, env)
            seen += 1
    assert seen >= 5


# --- the site -----------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    inside = [target for target in targets if not target.startswith(("https://", "http://", "mailto:"))]
    assert [target for target in inside if not (page.parent / target).exists()] == []


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    config = DOCS / "mkdocs" / "mkdocs.yml"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(config), "-d", str(tmp_path)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    loads = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?//""")
    sheets = re.compile(r"""<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect))[^>]*\bhref=["']?https?://""")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        assert not loads.search(text), page.name
        assert not sheets.search(text), page.name
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet.name
