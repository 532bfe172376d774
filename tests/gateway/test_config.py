"""The configuration: the file, the environment over it, and what is said about mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from offhook.gateway.config import Config, ConfigError, Limits, environment, load, locate_store, schema

EXAMPLE = """\
public_url: https://voice.example.com          # signatures and answers are built from this, never from Host
carriers:
  twilio: {account_sid: "${TWILIO_ACCOUNT_SID}", auth_token: "${TWILIO_AUTH_TOKEN}"}
  plivo: {auth_id: "${PLIVO_AUTH_ID}", auth_token: "${PLIVO_AUTH_TOKEN}"}
agents:
  front-desk: {kind: receptionist}
  echo: {kind: echo}
routes:
  - {number: "+15550100", agent: front-desk, record: true}
  - {number: "*", agent: echo}
"""

ENV = {
    "TWILIO_ACCOUNT_SID": "AC00000000000000000000000000000000",
    "TWILIO_AUTH_TOKEN": "twilio-auth-token",
    "PLIVO_AUTH_ID": "MA000000000000000000",
    "PLIVO_AUTH_TOKEN": "plivo-auth-token",
}

SMALL = """\
public_url: https://voice.example.com
carriers: {twilio: {account_sid: AC1, auth_token: secret-token}}
agents: {echo: {kind: echo}}
routes: [{number: "*", agent: echo}]
"""


def write(path: Path, text: str) -> Path:
    file = path / "config.yaml"
    file.write_text(text)
    return file


def problems(path: Path, text: str, env: Mapping[str, str] = ENV) -> list[str]:
    """What is said about a configuration, a line a problem, without the directory."""
    with pytest.raises(ConfigError) as caught:
        load(write(path, text), env)
    return str(caught.value).replace(f"{path}/", "").splitlines()


# --- what loads -------------------------------------------------------------------------


def test_the_documented_configuration_loads_as_it_stands(tmp_path: Path) -> None:
    config = load(write(tmp_path, EXAMPLE), ENV)
    assert config.public_url == "https://voice.example.com"
    assert config.public_ws_url == "wss://voice.example.com"
    assert sorted(config.carriers) == ["plivo", "twilio"]
    assert getattr(config.provider_settings("twilio"), "account_sid") == ENV["TWILIO_ACCOUNT_SID"]  # noqa: B009
    assert config.agents["front-desk"].kind == "receptionist"
    assert [(route.number, route.agent, config.records(route)) for route in config.routes] == [
        ("+15550100", "front-desk", True),
        ("*", "echo", False),
    ]
    assert config.store_url == f"sqlite+aiosqlite:///{tmp_path}/var/calls.db"
    assert config.journal_dir == tmp_path / "var/journal"
    assert config.recording_dir == tmp_path / "var/recordings"
    assert config.directory == tmp_path


def test_the_example_file_of_the_project_loads_as_it_stands() -> None:
    example = Path(__file__).parents[2] / "config.example.yaml"
    config = load(example, ENV)
    assert set(config.carriers) == {"twilio", "plivo"}
    assert {route.agent for route in config.routes} <= set(config.agents)


def test_secrets_are_known_and_never_shown(tmp_path: Path) -> None:
    text = EXAMPLE.replace("{kind: echo}", '{kind: echo, api_key: "${SPEECH_KEY}", voice: "${VOICE}"}')
    text += "store: {url: 'postgresql://offhook:p%40ss@db/offhook'}\n"
    config = load(write(tmp_path, text), {**ENV, "SPEECH_KEY": "key-of-speech", "VOICE": "slt"})
    assert {"twilio-auth-token", "plivo-auth-token", "key-of-speech", "p@ss", "p%40ss"} <= config.secrets
    assert "slt" not in config.secrets
    shown = repr(config.carriers)
    assert "twilio-auth-token" not in shown
    assert "plivo-auth-token" not in shown


def test_tracing_is_off_until_it_has_an_endpoint_and_its_headers_are_secrets(tmp_path: Path) -> None:
    assert load(write(tmp_path, SMALL), ENV).tracing.endpoint == ""
    pytest.importorskip("opentelemetry.sdk")
    text = SMALL + "tracing: {endpoint: 'http://c:4318', headers: {x-api-key: key-of-collector}, sample: 0.2}\n"
    config = load(write(tmp_path, text), ENV)
    assert (config.tracing.endpoint, config.tracing.sample) == ("http://c:4318/v1/traces", 0.2)
    assert "key-of-collector" in config.secrets
    assert "key-of-collector" not in repr(config.tracing)


def test_tracing_without_its_extra_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offhook.gateway.config_sections.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"tracing\.endpoint: needs OpenTelemetry; run: pip install 'offhook\[otel\]'"
    ):
        load(write(tmp_path, SMALL + "tracing: {endpoint: 'http://c:4318'}\n"), ENV)


def test_agents_get_their_own_settings_with_the_types_yaml_gives(tmp_path: Path) -> None:
    text = SMALL.replace(
        "{kind: echo}", '{kind: echo, delay: 5, ratio: 0.5, loud: true, pin: "0123", code: 0123, deep: {n: [1, x]}}'
    )
    agent = load(write(tmp_path, text), ENV).agents["echo"]
    assert agent.settings == {
        "delay": 5,
        "ratio": 0.5,
        "loud": True,
        "pin": "0123",
        "code": "0123",
        "deep": {"n": [1, "x"]},
    }


def test_a_class_of_ones_own_gets_a_process_of_its_own(tmp_path: Path) -> None:
    text = SMALL.replace(
        "agents: {", "agents: {mine: {kind: 'my.agents:Clerk'}, fast: {kind: 'a:B', isolation: inline}, "
    )
    agents = load(write(tmp_path, text), ENV).agents
    assert {name: agent.isolation for name, agent in agents.items()} == {
        "mine": "call",
        "fast": "inline",
        "echo": "host",
    }


@pytest.mark.parametrize("number", ["+15550100", '"+15550100"', "+1 555 0100", '"+1 (555) 01-00"'])
def test_numbers_stay_text_however_they_are_written(tmp_path: Path, number: str) -> None:
    text = SMALL.replace('"*"', number)
    assert load(write(tmp_path, text), ENV).routes[0].number == "+15550100"


def test_numbers_that_yaml_would_mangle_stay_what_they_are(tmp_path: Path) -> None:
    text = SMALL.replace(
        '{number: "*", agent: echo}', "{number: 0049301234, agent: echo, fallback: {transfer: 12:30}, ring_budget: 1.5}"
    )
    (line,) = problems(tmp_path, text)
    assert line.startswith("config.yaml:4:55: routes[0].fallback.transfer: '12:30' is no phone number; write it as")
    route = load(write(tmp_path, text.replace("12:30", "0151")), ENV).routes[0]
    assert (route.number, route.fallback and route.fallback.transfer, route.ring_budget) == ("0049301234", "0151", 1.5)


def test_lengths_of_calls_are_the_shorter_of_route_and_limit(tmp_path: Path) -> None:
    text = SMALL.replace(
        '[{number: "*", agent: echo}]',
        '[{number: "*", agent: echo}, {number: "+1", agent: echo, max_duration: 60},'
        ' {number: "+2", agent: echo, max_duration: 9999}]',
    )
    config = load(write(tmp_path, text), ENV)
    assert [config.max_duration(route) for route in config.routes] == [3300, 60, 3300]


def test_a_section_that_is_commented_out_is_left_out(tmp_path: Path) -> None:
    config = load(write(tmp_path, SMALL + "limits:\n#  max_calls: 5\n"), ENV)
    assert config.limits == Limits()


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = SMALL + "data_dir: data\nrecording: {directory: wav}\nstore: {url: 'sqlite:///db/calls.db'}\n"
    config = load(write(tmp_path, text), ENV)
    assert config.data_dir == tmp_path / "data"
    assert config.recording_dir == tmp_path / "wav"
    assert config.store_url == f"sqlite+aiosqlite:///{tmp_path}/db/calls.db"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_postgres_urls_get_the_async_driver(tmp_path: Path, scheme: str) -> None:
    config = load(write(tmp_path, SMALL + f"store: {{url: '{scheme}://u:p@h/d'}}\n"), ENV)
    assert config.store_url == "postgresql+asyncpg://u:p@h/d"


def test_nothing_changes_after_loading(tmp_path: Path) -> None:
    config = load(write(tmp_path, SMALL), ENV)
    with pytest.raises(ValidationError):
        config.public_url = "https://other.example.com"  # type: ignore[misc]


# --- the environment --------------------------------------------------------------------


def test_the_environment_overrides_single_values(tmp_path: Path) -> None:
    env = {
        **ENV,
        "OFFHOOK_PUBLIC_URL": "https://other.example.com/",
        "OFFHOOK_LISTEN__PORT": "9000",
        "OFFHOOK_LISTEN__TRUSTED_PROXIES": '["10.0.0.0/8"]',
        "OFFHOOK_AGENTS__FRONT_DESK__VAD": "webrtc",
        "OFFHOOK_ROUTES__0__RECORD": "false",
        "OFFHOOK_CARRIERS__TWILIO__AUTH_TOKEN": "0123456789",
        "OFFHOOK_PORT": "tcp://10.0.0.1:8080",  # as Kubernetes sets it for a service called offhook
        "OFFHOOK_SERVICE_HOST": "10.0.0.1",
    }
    config = load(write(tmp_path, EXAMPLE), env)
    assert config.public_url == "https://other.example.com"
    assert (config.listen.port, config.listen.trusted_proxies) == (9000, ["10.0.0.0/8"])
    assert config.agents["front-desk"].settings == {"vad": "webrtc"}
    assert config.routes[0].record is False
    assert "0123456789" in config.secrets


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OFFHOOK_LISEN__PORT", "1", "OFFHOOK_LISEN__PORT: no such setting; did you mean OFFHOOK_LISTEN__PORT?"),
        ("OFFHOOK_ROUTE", "[]", "OFFHOOK_ROUTE: no such setting; did you mean OFFHOOK_ROUTES?"),
        ("OFFHOOK_XYZZY__A", "1", "OFFHOOK_XYZZY__A: no such setting; unset it"),
        ("OFFHOOK_LISTEN__PRT", "1", "OFFHOOK_LISTEN__PRT: listen.prt: unknown key; did you mean 'port'?"),
        ("OFFHOOK_ROUTES__7__AGENT", "x", "routes: '7' is none of them: routes has 2 entries, numbered from 0"),
        ("OFFHOOK_ROUTES", "[{", "OFFHOOK_ROUTES: routes: not a list or mapping as JSON or YAML"),
    ],
)
def test_an_override_of_nothing_is_an_error(tmp_path: Path, name: str, value: str, said: str) -> None:
    (line, *_) = problems(tmp_path, EXAMPLE, {**ENV, name: value})
    assert line.startswith(f"environment variable {name}")
    assert said in line


def test_missing_variables_name_themselves_all_at_once(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, EXAMPLE, {**ENV, "TWILIO_AUTH_TOKEN": ""})
    assert line == (
        "config.yaml:3:62: carriers.twilio.auth_token: environment variable TWILIO_AUTH_TOKEN is empty; set it (in the "
        "environment or in .env beside this file) or write ${TWILIO_AUTH_TOKEN:-default}"
    )
    lines = problems(tmp_path, EXAMPLE, {})
    assert [line.split("variable ")[1].partition(";")[0] for line in lines] == [f"{name} is not set" for name in ENV]


def test_variables_have_defaults_and_can_be_escaped(tmp_path: Path) -> None:
    text = SMALL.replace(
        "{kind: echo}", '{kind: echo, a: "${NO:-x}", b: "${NO:-}", c: "$${NO}", d: "$5", e: "<${A}${A}>"}'
    )
    agent = load(write(tmp_path, text), {**ENV, "A": "${NO}"}).agents["echo"]
    assert agent.settings == {"a": "x", "b": "", "c": "${NO}", "d": "$5", "e": "<${NO}${NO}>"}


def test_a_broken_variable_is_pointed_at(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, SMALL.replace("secret-token", '"${not-a-name}"'))
    assert line.startswith(
        "config.yaml:2:51: carriers.twilio.auth_token: `${not-a-name}` is no variable; write ${NAME}"
    )


def test_dotenv_beside_the_file_counts_and_the_environment_wins(tmp_path: Path) -> None:
    file = write(tmp_path, EXAMPLE)
    lines = [f"{name}={value}" for name, value in ENV.items()] + ["OFFHOOK_LISTEN__PORT=9000", "EMPTY"]
    (tmp_path / ".env").write_text("\n".join(lines))
    config = load(file, environment(file, {"OFFHOOK_LISTEN__PORT": "9001"}))
    assert config.listen.port == 9001
    assert "twilio-auth-token" in config.secrets


# --- mistakes ---------------------------------------------------------------------------


def test_every_fault_is_found_with_its_place_and_remedy(tmp_path: Path) -> None:
    text = """\
public_url: voice.example.com
carriers:
  twilio: {account_sid: AC1, auth_tokn: x}
  twillio: {a: 1}
agents:
  front-desk: {kind: recepionist, delay: 5}
  echo: {kind: echo}
  mine: {kind: "x.y", isolation: hst}
lisen: {port: 3}
listen:
  port: eighty
routes:
  - number: +1 (555) 0100
    agent: echo
    record: maybe
    hours: {timezone: Europe/Berln, open: {mon-fry: "9-5"}}
    closed: {saay: x}
  - {number: "+1*5", agent: echo}
  - {number: "+15550100", agent: echo, fallback: {}}
"""
    lines = problems(tmp_path, text)
    expected = [
        "1:1: public_url: write it with its scheme",
        "3:3: carriers.twilio.auth_token: is missing; add it",
        "3:30: carriers.twilio.auth_tokn: unknown key; did you mean 'auth_token'?",
        "4:3: carriers.twillio: no carrier 'twillio'; did you mean 'twilio'?",
        "6:16: agents.front-desk.kind: no agent kind 'recepionist'; did you mean 'receptionist'?",
        "8:10: agents.mine.kind: no agent kind 'x.y'",
        "8:23: agents.mine.isolation: input should be 'host', 'call' or 'inline'",
        "9:1: lisen: unknown key; did you mean 'listen'?",
        "11:3: listen.port: input should be a valid integer",
        "15:5: routes[0].record: input should be a valid boolean",
        "16:13: routes[0].hours.timezone: no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'?",
        "16:37: routes[0].hours.open: 'mon-fry' names no weekdays; write mon, mon-fri",
        "17:14: routes[0].closed.saay: unknown key; did you mean 'say'?",
        "18:6: routes[1].number: '+1*5': `*` stands only at the end",
        "19:40: routes[2].fallback: give `say`, `transfer`, or both",
    ]
    assert len(lines) == len(expected)
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(f"config.yaml:{beginning}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("agent: echo", "agent: eco", "4:24: routes[0].agent: no agent 'eco' under `agents:`; did you mean 'echo'?"),
        ("agent: echo", "agent: echo, closed: echo", "`closed` needs `hours`, or it never happens"),
        (
            "agent: echo",
            "agent: echo, hours: {timezone: UTC, open: {}}, closed: nobody",
            "routes[0].closed: no agent 'nobody'",
        ),
        (
            "agent: echo",
            "agent: echo, hours: {timezone: UTC, open: {}}, closed: {agent: echo, say: hi}",
            "routes[0].closed: give the name of an agent, or `say` and/or `transfer`",
        ),
        ("}]", '}, {number: "*", agent: echo}]', "routes[1].number: routes[0] has this number already; remove one"),
        ("{kind: echo}", "{}", "3:10: agents.echo.kind: is missing; add it"),
        ("{kind: echo}", "echo", "3:10: agents.echo: must be a mapping of keys and values"),
        ("{kind: echo}", "{kind: 'a b:C'}", "is not of the form package.module:Class"),
        ("https://voice.example.com", "https://u:p@h", "public_url: takes no query, fragment or user"),
        (
            "{twilio: {account_sid: AC1, auth_token: secret-token}}",
            "{}",
            "carriers: configure at least one of asterisk, freeswitch, jambonz, plivo, twilio, or `sip:`",
        ),
        ("{twilio: {account_sid: AC1, auth_token: secret-token}}", "[]", "carriers: must be a mapping such as"),
        ('[{number: "*", agent: echo}]', "[]", "routes: "),
        ('[{number: "*", agent: echo}]', "{}", "routes: must be a list"),
        ("agents: {", "store: {url: 'mysql://x'}\nagents: {", "store.url: 'mysql' is no database offhook knows"),
        ("agents: {", "limits: {max_calls: 0}\nagents: {", "limits.max_calls: input should be greater than 0"),
        ("agents: {", "agent_hosts: {hung_after: nan}\nagents: {", "agent_hosts.hung_after: input should be"),
        ("agents: {", "log: {format: xml}\nagents: {", "log.format: input should be 'auto', 'json' or 'console'"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SMALL
    lines = problems(tmp_path, SMALL.replace(old, new))
    assert len(lines) == 1, lines
    assert said in lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2\n", "config.yaml:2:2: this is not YAML: while parsing a flow sequence"),
        ("a:\n\t- b\n", "config.yaml:2:1: this is not YAML: "),
        ("a: 1\na: 2\n", "config.yaml:2:1: a: this key is here twice; remove one"),
        ("- a\n", "config.yaml:1:1: the file must be a mapping of sections"),
        ("? [a]\n: b\n", "config.yaml:1:3: a key must be a word"),
        ("a: &x {b: *x}\n", "more than 32 levels deep; are aliases nested?"),
        ("<<: 5\n", "`<<` merges a mapping"),
        ("", "config.yaml:1:1: agents: is missing; add it"),
    ],
)
def test_broken_yaml_is_pointed_at(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(tmp_path, text)[0]


def test_an_alias_bomb_is_refused_quickly(tmp_path: Path) -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9))
    (line,) = problems(tmp_path, f"l0: &l0 [x, x]\n{levels}\n")
    assert "more than 100000 values; are aliases nested?" in line


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = (
        SMALL.replace('[{number: "*", agent: echo}]', "")
        + """\
  - &usual {number: "*", agent: echo, ring_budget: 2}
  - {<<: *usual, number: "+1", ring_budget: 1}
"""
    )
    routes = load(write(tmp_path, text), ENV).routes
    assert [(route.number, route.ring_budget) for route in routes] == [("*", 2.0), ("+1", 1.0)]


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such file; copy config\.example\.yaml"):
        load(tmp_path / "none.yaml", ENV)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, ENV)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4\n")
    with pytest.raises(ConfigError, match="byte 3 is not UTF-8"):
        load(tmp_path / "latin.yaml", ENV)
    (tmp_path / "large.yaml").write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match="5242880 bytes; the limit is 4194304"):
        load(tmp_path / "large.yaml", ENV)


def test_a_configuration_made_in_code_is_checked_too() -> None:
    sections = {
        "public_url": "https://h",
        "carriers": {"twilio": {"account_sid": "AC1", "auth_token": "t"}},
        "agents": {"echo": {"kind": "echo", "delay": 5}},
    }
    config = Config.model_validate({**sections, "routes": [{"number": "*", "agent": "echo"}]})
    assert config.agents["echo"].settings == {"delay": 5}
    with pytest.raises(ValidationError, match="write the number in quotes"):
        Config.model_validate({**sections, "routes": [{"number": 15550100, "agent": "echo"}]})


def test_errors_never_quote_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, SMALL.replace("account_sid: AC1", "acount_sid: AC1")), ENV)
    assert "secret-token" not in f"{caught.value} {caught.value.__cause__}"


# --- for programs -----------------------------------------------------------------------


def test_the_store_is_found_without_the_carriers_secrets(tmp_path: Path) -> None:
    file = write(tmp_path, EXAMPLE)
    assert locate_store(file, {}) == f"sqlite+aiosqlite:///{tmp_path}/var/calls.db"
    file = write(tmp_path, EXAMPLE + 'store: {url: "postgresql://u:${PG}@h/d"}\n')
    assert locate_store(file, {"PG": "pw"}) == "postgresql+asyncpg://u:pw@h/d"
    with pytest.raises(ConfigError, match=r"store\.url: environment variable PG is not set"):
        locate_store(file, {})
    with pytest.raises(ConfigError, match=r"store\.urll: unknown key; did you mean 'url'\?"):
        locate_store(write(tmp_path, "store: {urll: x}\n"), {})


def test_the_schema_types_carriers_and_lets_variables_stand_for_numbers() -> None:
    found = schema()
    json.dumps(found)
    carriers = found["properties"]["carriers"]
    assert set(carriers["properties"]) == {"asterisk", "freeswitch", "jambonz", "plivo", "twilio"}
    assert "account_sid" in carriers["properties"]["twilio"]["required"]
    assert carriers["additionalProperties"] is False
    port = found["$defs"]["Listen"]["properties"]["port"]
    assert {"type": "string", "pattern": r"\$\{"} in port["anyOf"]
    assert "Address to bind" in found["$defs"]["Listen"]["properties"]["host"]["description"]
    references = set(_references(found))
    assert references
    assert all(reference.removeprefix("#/$defs/") in found["$defs"] for reference in references)


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        inner = [found for value in node.values() for found in _references(value)]
        return [*inner, node["$ref"]] if isinstance(node.get("$ref"), str) else inner
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []


def test_the_examples_of_pbxs_and_trunks_in_the_example_file_are_valid(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "config.example.yaml").read_text()
    lines = example.splitlines()
    first = lines.index("# sip:")
    last = next(number for number, line in enumerate(lines) if number > first and not line.startswith("#"))
    begins = ("  # asterisk:", "  # freeswitch:", "  #   username:", "  #   password:")
    pbxs = [line.replace("  # ", "  ", 1) for line in lines if line.startswith(begins)]
    text = "\n".join(["carriers:", *pbxs, *(line[2:] for line in lines[first:last])])
    rest = "public_url: https://voice.acme.test\nagents: {echo: {kind: echo}}\nroutes: [{number: '*', agent: echo}]\n"
    env = {"ASTERISK_PASSWORD": "a", "FREESWITCH_PASSWORD": "f", "PBX_PASSWORD": "p"}
    config = load(write(tmp_path, rest + text), env)
    assert set(config.carriers) == {"asterisk", "freeswitch"}
    assert config.sip is not None
    assert config.sip.trunks["pbx"].transfer == "attended"
    assert {"a", "f", "p"} <= config.secrets


def test_sip_alone_needs_no_public_url_and_carriers_do(tmp_path: Path) -> None:
    rest = "agents: {echo: {kind: echo}}\nroutes: [{number: '*', agent: echo}]\n"
    assert load(write(tmp_path, rest + "sip: {trunks: {pbx: {sources: [192.0.2.1]}}}\n"), {}).public_url == ""
    with pytest.raises(ConfigError, match="public_url: is missing; add it"):
        load(write(tmp_path, rest + "carriers: {plivo: {auth_id: MA1, auth_token: t}}\n"), {})


def test_paths_of_certificates_are_relative_to_the_file(tmp_path: Path) -> None:
    rest = "agents: {echo: {kind: echo}}\nroutes: [{number: '*', agent: echo}]\n"
    sip = "sip: {tls: {cert_file: a.pem}, trunks: {pbx: {sources: [192.0.2.1], tls: {ca_file: b.pem}}}}\n"
    config = load(write(tmp_path, rest + sip), {})
    assert config.sip is not None
    assert config.sip.tls.cert_file == tmp_path / "a.pem"
    trunk = config.sip.trunks["pbx"].tls
    assert trunk is not None
    assert trunk.ca_file == tmp_path / "b.pem"


@pytest.mark.parametrize(
    ("sip", "problem"),
    [
        ("{trunks: {pbx: {source: [192.0.2.1]}}}", "sip.trunks.pbx.source: unknown key; did you mean 'sources'?"),
        ("{trunks: {pbx: {registr: {}}}}", "sip.trunks.pbx.registr: unknown key; did you mean 'register'?"),
        ("{trunks: {pbx: {sources: [trunk.acme.test]}}}", "sip.trunks.pbx.sources[0]: "),
        ("{trunks: {pbx: {sources: [192.0.2.1], codecs: [g729]}}}", "sip.trunks.pbx.codecs[0]: "),
    ],
)
def test_a_mistake_in_a_trunk_is_named(tmp_path: Path, sip: str, problem: str) -> None:
    rest = "agents: {echo: {kind: echo}}\nroutes: [{number: '*', agent: echo}]\n"
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, f"{rest}sip: {sip}\n"), {})
    assert problem in str(caught.value)


def test_what_the_example_file_comments_out_are_the_defaults(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "config.example.yaml").read_text()
    head, _, tail = example.partition("# listen:\n")
    # A commented section begins with `# word:` and goes on with indented lines; everything else is prose.
    uncommented = re.sub(r"^# ((?:\w+:|  +\w+:).*)$", r"\1", "# listen:\n" + tail, flags=re.MULTILINE)
    assert uncommented.count("\n  ") >= 15
    env = {**ENV, "POSTGRES_PASSWORD": "pw", "COLLECTOR_KEY": "k", "OFFHOOK_API_TOKEN": "t" * 16}
    default, spelled = load(write(tmp_path, head), env), load(write(tmp_path, head + uncommented), env)
    assert spelled.store_url == "postgresql+asyncpg://offhook:pw@localhost/offhook"
    assert spelled.recording_dir == default.recording_dir
    assert spelled.tracing.endpoint
    assert not default.tracing.endpoint
    assert spelled.api.token is not None
    assert default.api.token is None
    left_out = {"store", "recording", "tracing", "api"}
    assert spelled.model_dump(exclude=left_out) == default.model_dump(exclude=left_out)
