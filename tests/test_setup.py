"""Setting up: the Makefile, deploy/bootstrap.sh and deploy/run.sh, with stand-ins for what would change the machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from offhook.gateway.config import load

ROOT = Path(__file__).resolve().parent.parent
BOOTSTRAP = ROOT / "deploy" / "bootstrap.sh"
RUN = ROOT / "deploy" / "run.sh"


class Machine:
    """A PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.log = folder / "bin", folder / "log"
        self.bin.mkdir()
        self.log.write_text("")
        for name in ("bash", "env", "mktemp", "rm", "tail", "tr", "sed", "cat", "grep", "od"):
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)

    def has(self, name: str, script: str = "") -> None:
        """Put a command there that notes how it was called."""
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def run(self, *command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
        whole = {"PATH": str(self.bin), "HOME": str(self.bin)} | env
        bash = str(self.bin / "bash")
        return subprocess.run([bash, *command], cwd=cwd, env=whole, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- bootstrap.sh -------------------------------------------------------------------


def test_nothing_is_installed_that_is_there(machine: Machine) -> None:
    machine.has("flite")
    machine.has("apt-get")
    done = machine.run(BOOTSTRAP, "system", "flite:flite")
    assert (done.returncode, done.stderr, machine.log.read_text()) == (0, "", "")


def test_root_installs_what_is_missing_and_only_that(machine: Machine) -> None:
    machine.has("flite")
    machine.has("id", "echo 0")
    machine.has("apt-get")
    done = machine.run(BOOTSTRAP, "system", "flite:flite", "espeak-ng:espeak-ng", "initdb-of-tests:postgresql")
    assert done.returncode == 0
    assert "installing espeak-ng postgresql" in done.stderr
    called = machine.log.read_text().splitlines()
    assert called[-2] == "apt-get update -q"
    assert called[-1] == "apt-get install -q -y --no-install-recommends espeak-ng postgresql"


def test_others_install_through_sudo(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has("apt-get")
    machine.has("sudo", '"$@"')
    assert machine.run(BOOTSTRAP, "system", "flite:flite").returncode == 0
    assert "sudo apt-get update -q" in machine.log.read_text()


def test_without_root_or_sudo_it_says_what_to_type(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has("apt-get")
    done = machine.run(BOOTSTRAP, "system", "flite:flite")
    assert done.returncode == 1
    assert "needs root for: apt-get install flite" in done.stderr
    assert "apt-get" not in machine.log.read_text()


def test_without_apt_it_names_the_packages(machine: Machine) -> None:
    done = machine.run(BOOTSTRAP, "system", "flite:flite", "espeak-ng:espeak-ng")
    assert done.returncode == 1
    assert "no apt-get here: flite espeak-ng" in done.stderr


def test_a_failed_installation_shows_why(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get", '[ "$1" = update ] || { echo "E: Unable to locate package"; exit 100; }')
    done = machine.run(BOOTSTRAP, "system", "flite:flite")
    assert done.returncode == 1
    assert "E: Unable to locate package" in done.stderr
    assert "could not install: flite" in done.stderr


def test_a_python_that_is_too_old_is_passed_over(machine: Machine) -> None:
    machine.has("python3", "exit 1")  # as one without ensurepip does
    (machine.bin / "python3.12").symlink_to(sys.executable)
    done = machine.run(BOOTSTRAP, "python")
    assert done.stdout.strip() == str(machine.bin / "python3.12")


# --- run.sh -------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "config.example.yaml", folder)
    return folder


def _served(machine: Machine, project: Path, *options: str, **env: str) -> tuple[list[str], dict[str, str], str]:
    """How `offhook` was called, with which environment, and what was said."""
    offhook = project / "offhook"
    offhook.write_text(
        f"#!{sys.executable}\nimport json, os, sys\njson.dump([sys.argv[1:], dict(os.environ)], sys.stdout)\n"
    )
    offhook.chmod(0o755)
    done = machine.run(RUN, offhook, *options, cwd=project, **env)
    assert done.returncode == 0, done.stderr
    arguments, environment = json.loads(done.stdout)
    return arguments, environment, done.stderr


def test_make_run_serves_the_receptionist_on_every_number(machine: Machine, project: Path) -> None:
    arguments, environment, said = _served(machine, project, "--port", "9000", PUBLIC_URL="https://here.test")
    assert arguments == ["serve", "--config", "config.example.yaml", "--port", "9000"]
    config = load(project / "config.example.yaml", environment)
    assert config.public_url == "https://here.test"
    assert [(route.number, route.agent) for route in config.routes] == [("*", "front-desk")]
    assert config.agents["front-desk"].kind == "receptionist"
    assert "calls from TWILIO are refused" in said
    assert "calls from PLIVO are refused" in said


def test_make_run_never_runs_with_a_token_that_can_be_guessed(machine: Machine, project: Path) -> None:
    tokens = {_served(machine, project)[1]["TWILIO_AUTH_TOKEN"] for _ in range(2)}
    assert len(tokens) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", token) for token in tokens)


def test_make_run_takes_credentials_from_the_environment_and_from_env(machine: Machine, project: Path) -> None:
    (project / ".env").write_text("PLIVO_AUTH_ID=MA1\nPLIVO_AUTH_TOKEN=p\n")
    _, environment, said = _served(machine, project, TWILIO_ACCOUNT_SID="AC1", TWILIO_AUTH_TOKEN="t")
    assert environment["TWILIO_AUTH_TOKEN"] == "t"
    assert "PLIVO_AUTH_TOKEN" not in environment, "offhook reads .env itself"
    assert "refused" not in said


def test_make_run_prefers_a_configuration_of_your_own(machine: Machine, project: Path) -> None:
    (project / "config.yaml").write_text("")
    arguments, environment, _ = _served(machine, project)
    assert arguments == ["serve", "--config", "config.yaml"]
    assert "OFFHOOK_ROUTES" not in environment


# --- Makefile -----------------------------------------------------------------------


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_make_help_lists_every_target() -> None:
    listed = set(re.findall(r"^  make ([a-z-]+)", _make().stdout, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert listed == set(phony[1].split())
    assert listed >= {"demo", "test", "check", "run", "bench", "docs"}


def test_make_refuses_a_python_that_does_not_run() -> None:
    done = _make("setup", "PYTHON=no-such-python")
    assert done.returncode == 2
    assert "PYTHON=no-such-python does not run" in done.stderr


def test_another_python_gets_an_environment_of_its_own() -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    done = _make("--dry-run", "demo", f"PYTHON={sys.executable}")
    assert f".venv-{version}/bin/offhook demo" in done.stdout


def test_continuous_integration_calls_make_test_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "exec make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
