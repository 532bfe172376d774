"""The files of deploy/ and the compose file, checked as files: what they name exists and fits together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from offhook.gateway.config import DEFAULT_MAX_CALL_SECONDS, load
from offhook.gateway.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
COMPOSE_VARIABLES = {"PUBLIC_HOST": "voice.test", "POSTGRES_PASSWORD": "secret"}
CREDENTIALS = {
    "TWILIO_ACCOUNT_SID": "AC00000000000000000000000000000000",
    "TWILIO_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
    "PLIVO_AUTH_ID": "MA0000000000000000AA",
    "PLIVO_AUTH_TOKEN": "0123456789abcdef",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    filled = re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda match: COMPOSE_VARIABLES[match[1]], text)
    found: dict[str, Any] = yaml.safe_load(filled)
    return found


def test_the_services(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"gateway", "postgres", "prometheus", "caddy"}


def test_every_image_is_pinned(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    images += re.findall(r"^FROM (\S+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 6
    loose = [image for image in images if not re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z-]+)?$", image)]
    assert not loose


def test_everything_mounted_exists_and_every_volume_is_declared(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                there = (ROOT / source).exists() or source == "./config.yaml"  # yours to write
                assert there, f"{name} mounts {source}"
            else:
                assert source in compose["volumes"]
        for network in service["networks"]:
            assert network in compose["networks"]
        for other in service.get("depends_on", []):
            assert other in compose["services"]


def test_the_gateway_reads_what_compose_tells_it(compose: dict[str, Any]) -> None:
    environment = compose["services"]["gateway"]["environment"]
    config = load(ROOT / "config.example.yaml", CREDENTIALS | environment)
    assert config.public_url == "https://voice.test"
    assert (config.listen.host, config.listen.port) == ("0.0.0.0", 8080)
    assert config.listen.trusted_proxies == [compose["networks"]["inside"]["ipam"]["config"][0]["subnet"]]
    assert config.data_dir == Path("/var/lib/offhook")
    assert config.store_url == "postgresql+asyncpg://offhook:secret@postgres/offhook"


def test_calls_have_time_to_end_before_anything_is_killed(compose: dict[str, Any]) -> None:
    gateway = compose["services"]["gateway"]
    minutes = int(gateway["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 >= DEFAULT_MAX_CALL_SECONDS + 120
    assert "caddy" in gateway["depends_on"], "so that compose stops the gateway before the proxy"
    assert f"stream_close_delay {minutes}m" in (ROOT / "deploy" / "Caddyfile").read_text()
    assert f"TimeoutStopSec={minutes}min" in (ROOT / "docs" / "operations.md").read_text()


def test_only_the_proxy_is_open_to_the_world(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert name == "caddy" or port.startswith("127.0.0.1:")
    caddyfile = (ROOT / "deploy" / "Caddyfile").read_text()
    assert "path /metrics /readyz" in caddyfile
    assert "respond @inside 404" in caddyfile


def test_the_image_has_every_room_and_runs_as_somebody_else() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists()
    assert all(f"COPY {room} {room}" in dockerfile for room in ("codecs", "providers", "agents", "gateway", "qa"))
    last_stage = dockerfile.split("\nFROM ")[-1]
    assert re.search(r"^USER offhook$", last_stage, re.MULTILINE)
    assert "HEALTHCHECK" in last_stage
    assert "/healthz" in last_stage
    assert "STOPSIGNAL SIGTERM" in last_stage


def test_alerts_ask_for_metrics_that_exist() -> None:
    metrics = Metrics()
    names = {family.name for family in metrics.registry.collect()}
    source = (ROOT / "gateway" / "metrics.py").read_text()
    names |= set(re.findall(r'"(offhook_\w+)"', source))
    rules = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        for used in re.findall(r"offhook_\w+", rule["expr"]):
            assert re.sub(r"_(total|bucket|sum|count)$", "", used) in names, f"{rule['alert']}: {used}"
        assert rule["annotations"]["summary"]
    loaded = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    assert [(ROOT / "deploy" / name).is_file() for name in loaded["rule_files"]] == [True]


def test_docker_compose_agrees(tmp_path: Path) -> None:
    probe = shutil.which("docker") and subprocess.run(
        ["docker", "compose", "version"], capture_output=True, check=False
    )
    if not probe or probe.returncode != 0:
        pytest.skip("no docker compose here; the checks above have to do")
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in COMPOSE_VARIABLES.items()))
    command = ["docker", "compose", "--project-directory", str(tmp_path), "config", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
