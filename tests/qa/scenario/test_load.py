"""Reading scenarios: what they mean, and what is said of each mistake, where it was made."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from offhook.qa.scenario.load import MAX_FILE, ScenarioError, expand, load, parse, read_model, suite_paths

HEAD = "schema: 1\nname: one\n"
STEPS = "steps:\n  - wait: agent_done\n"


def faults(text: str, **sets: str) -> list[str]:
    """What is said of a text that is wrong."""
    with pytest.raises(ScenarioError) as caught:
        parse(text, "s.yaml", sets=sets)
    return [str(problem) for problem in caught.value.problems]


def fault(text: str, **sets: str) -> str:
    """The same, of one fault alone."""
    (only,) = faults(text, **sets)
    return only


def test_scalars_stay_what_was_written() -> None:
    scenario = parse(
        HEAD + "target: {to: sip:0412@127.0.0.1, from: +15550100}\n"
        "steps:\n  - dtmf: 0412#\n  - say: 10:30\n  - say: off\n  - noise: off\n"
    ).scenario
    assert (scenario.target.from_, scenario.target.to) == ("+15550100", "sip:0412@127.0.0.1")
    dtmf, *says, noise = scenario.steps
    assert dtmf.dtmf is not None
    assert dtmf.dtmf.digits == "0412#"
    assert [step.say.text for step in says if step.say is not None] == ["10:30", "off"]
    assert noise.noise == "off"


def test_settings_of_services_have_their_yaml_types() -> None:
    loaded = parse(HEAD + 'stt: {service: deepgram, tier: 2, fast: true, id: "7", words: [1.5, none]}\n' + STEPS)
    assert loaded.scenario.stt == {
        "service": "deepgram", "tier": 2, "fast": True, "id": "7", "words": [1.5, "none"],
    }  # fmt: skip


def test_variables() -> None:
    text = HEAD + "vars: {who: Miller, greeting: 2s, nothing: }\n"
    text += 'steps:\n  - say: "${who} $${who} ${other:-else}${nothing}"\n'
    text += "    expect: {agent_speaks: true, within: '${greeting}'}\n"
    loaded = parse(text)
    (step,) = loaded.scenario.steps
    assert step.say is not None
    assert step.say.text == "Miller ${who} else"
    assert step.expect is not None
    assert step.expect.within == 2.0
    assert loaded.variables == {"who", "greeting", "nothing", "other"}

    (step,) = parse(text, sets={"who": "${greeting}", "greeting": "500ms", "other": "", "strange": "x"}).scenario.steps
    assert step.say is not None
    assert step.say.text == "${greeting} ${who} else"
    assert step.expect is not None
    assert step.expect.within == 0.5


def test_an_empty_variable_leaves_an_expectation_out() -> None:
    text = HEAD + 'vars: {says: ""}\nsteps:\n  - expect: {agent_speaks: true, heard: "${says}", dtmf: "${says}"}\n'
    expect = parse(text).scenario.steps[0].expect
    assert expect is not None
    assert (expect.heard, expect.dtmf) == (None, None)
    expect = parse(text, sets={"says": "12"}).scenario.steps[0].expect
    assert expect is not None
    assert expect.heard is not None
    assert (expect.heard.all, expect.dtmf) == (["12"], "12")


def test_the_environment_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_TEST_KEY", "s3cret")
    monkeypatch.setenv("OFFHOOK_STEPS__0__SAY", "hijacked")
    text = HEAD + "stt: {service: deepgram, api_key: '${env:QA_TEST_KEY}'}\nsteps:\n  - say: hello\n"
    loaded = parse(text)
    assert loaded.scenario.stt["api_key"] == "s3cret"
    assert loaded.source.secrets == {"s3cret"}
    assert loaded.scenario.steps[0].say is not None
    assert loaded.scenario.steps[0].say.text == "hello"
    monkeypatch.delenv("QA_TEST_KEY")
    assert fault(text) == (
        "s.yaml:3:35: stt.api_key: environment variable QA_TEST_KEY is not set; set it, or write "
        "${env:QA_TEST_KEY:-default}"
    )
    assert "variable QA_TEST_KEY has no value" in fault(text.replace("env:", ""))


def test_where_things_were_written() -> None:
    text = (
        HEAD + "steps:\n  - say: hello\n    expect: {agent_speaks: true, within: 2s}\nassert:\n  wire:\n    holes: 0\n"
    )
    loaded = parse(text, "s.yaml")
    assert loaded.where("steps", 0, "expect", "within") == "s.yaml:5:34"
    assert loaded.where("assert_", "wire", "holes") == "s.yaml:8:5"
    assert loaded.where("steps", 0, "expect", "heard", "any") == "s.yaml:5:5"
    assert loaded.where("version") == "s.yaml:1:1"
    assert loaded.where("pass_", "rate") == "s.yaml:1:1"
    again = pickle.loads(pickle.dumps(loaded))
    assert again.scenario == loaded.scenario
    assert again.where("steps", 0, "say") == "s.yaml:4:5"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("  - barg_in: x", "s.yaml:4:5: steps[0].barg_in: unknown key; did you mean 'barge_in'?"),
        ("  - say: x\n    within: 2s", "s.yaml:5:5: steps[0].within: unknown key; it belongs below `expect:`"),
        ("  - say: x\n    expects: {heard: x}", "s.yaml:5:5: steps[0].expects: unknown key; did you mean 'expect'?"),
        ("  - say: {text: x, mood: 3}", "known are text, wav, sound, gain, after"),
        ("  - wait: agent_don", "agent_done, hangup; did you mean agent_done?"),
        ("  - silence: 5", "steps[0].silence: 5 is no duration; write a number with its unit, such as 800ms"),
        ("  - expect: {agent_speaks: perhaps}", "perhaps is neither true nor false"),
        ("  - say: x\n    wait: 3s", "steps[0]: one step does one thing; this has say and wait"),
        ("  - say: {text: x, wav: y}", "steps[0].say: give one of `text`, `wav` and `sound`"),
        ("  - say: [x]", "steps[0].say: must be text; put it in quotes"),
        ("  - expect: {within: 3s}", "say what is expected"),
        ("  - expect: x", "steps[0].expect: must be a mapping of keys and values"),
        ("  - x", "steps[0]: must be a mapping of keys and values"),
        ("  - noise: {kind: white, snr: 3}", "steps[0].noise.snr: 3 is no level"),
        ("  - noise: loud", "steps[0].noise: must be off, not loud"),
        ("  - dtmf: 12Z", "steps[0].dtmf: 'Z' is no key; keys are 0-9, *, # and A-D"),
        ("  - expect: {dtmf: 12Z}", "steps[0].expect.dtmf: 'Z' is no key"),
        ("  - expect: {heard: '...'}", "steps[0].expect.heard: has no words"),
        ("  - expect: {heard: {regex: '(('}}", "steps[0].expect.heard.regex: is no regular expression"),
        ("  - expect: {transfer: '+['}", "steps[0].expect.transfer: is no regular expression"),
        ("  - say: x\n    expect: {agent_stops_within: 1s}", "it belongs to a step with `barge_in`"),
        ("  - wait: 1s\n    expect: {agent_keeps_talking: 1s}", "it belongs to a step with `backchannel`"),
        ("  - say: {text: x, after: 1s}", "steps[0].say.after: is for barge_in and backchannel"),
        ("  - say: {wav: none.wav}", "steps[0].say.wav: there is no file none.wav beside the scenario"),
        ("  - noise: {file: none.wav}", "steps[0].noise.file: there is no file none.wav"),
        ("  - converse: 10s", "describe them under `caller.persona`"),
        ("  - hang_up: false", "steps[0].hang_up: must be true"),
        ("  - hang_up: true\n  - say: x", "s.yaml:5:5: steps[1]: comes after hang_up"),
        ("  - expect: {answer: false, agent_speaks: true}", "cannot be where the call is not answered"),
    ],
)  # fmt: skip
def test_faults_of_steps(written: str, said: str) -> None:
    assert said in fault(f"{HEAD}steps:\n{written}\n")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("  - dtmf: 12 #", 'steps[0].dtmf: `#` is a comment to YAML, as there is a space before it; write "12#"'),
        ("  - dtmf: {digits: 12 #3\n    }", 'write "12#3"'),
        ("  - dtmf: #", "s.yaml:4:5: steps[0].dtmf: is empty; `#` begins a comment: put the value in quotes"),
        ("  - say:", "s.yaml:4:5: steps[0].say: is empty; give it a value, or remove the line"),
        ("  - expect: {hangup: }", "steps[0].expect.hangup: is empty"),
        ("  -", "steps[0]: is empty"),
    ],
)  # fmt: skip
def test_traps_of_yaml(written: str, said: str) -> None:
    assert said in fault(f"{HEAD}steps:\n{written}\n")


def test_a_comment_behind_keys_is_a_comment() -> None:
    (step,) = parse(HEAD + "steps:\n  - dtmf: 12  # the extension of sales\n").scenario.steps
    assert step.dtmf is not None
    assert step.dtmf.digits == "12"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("schema: 2\nname: one\n" + STEPS, "s.yaml:1:1: schema: must be 1, not 2"),
        ("name: One\n" + STEPS, "name: is a word of small letters"),
        (STEPS, "s.yaml:1:1: name: is missing; add it"),
        (HEAD, "steps: is missing; add it"),
        (HEAD + "steps: []\n", "steps: list should have at least 1 item"),
        (HEAD + "steps: {}\n", "steps: must be a list"),
        (HEAD + "target: {to: 'http://x'}\n" + STEPS, "target.to: 'http://x' has no known scheme; write one of sip:"),
        (HEAD + "requires: [sips]\n" + STEPS, "requires[0]: 'sips' is none of sip, carrier"),
        (HEAD + "media: {network: {jitter: 15}}\n" + STEPS, "s.yaml:3:19: media.network.jitter: 15 is no duration"),
        (HEAD + "caller: {noise: {snr: 3dB}}\n" + STEPS, "caller.noise: name either a `file` or a `kind`"),
        (HEAD + "assert: {wire: {v2v_ms: {p95: fast}}}\n" + STEPS, "assert.wire.v2v_ms.p95: fast is no limit"),
        (HEAD + "assert: {wire: {v2v_ms: fast}}\n" + STEPS, "assert.wire.v2v_ms: fast is no limit"),
        (HEAD + "assert: {wire: {v2v: 3}}\n" + STEPS, "s.yaml:3:17: assert.wire.v2v: there is no such metric; did you"),
        (HEAD + "assert: {wire: {zzz: 3}}\n" + STEPS, "no such metric; known are setup_ms, pdd_ms"),
        (HEAD + "assert: {wire: {v2v_ms: 3%}}\n" + STEPS, "v2v_ms has the unit ms; ==3% cannot be held against it"),
        (HEAD + "assert: {wire: {holes: 3s}}\n" + STEPS, "holes is a bare number; ==3s cannot"),
        (HEAD + "assert: {wire: {v2v_ms: {p42: 3}}}\n" + STEPS, "v2v_ms.p42: is no percentile; take one of p50"),
        (HEAD + "assert: {wire: {v2v_ms: {}}}\n" + STEPS, "v2v_ms: has no limit; write p95: and a limit"),
        (
            HEAD + "assert: {judge: [{ask: 'Polite?', llm: {service: x}, gate: true}]}\n" + STEPS,
            "assert.judge[0].gate: a judge is never the only gate",
        ),
        (HEAD + "assert: {speech: {never_hear: [{regex: '('}]}}\n" + STEPS, "never_hear[0].regex: is no regular"),
        (HEAD + "name: two\n" + STEPS, "s.yaml:3:1: name: this key is here twice"),
        (HEAD + "steps:\n\t- wait: 1s\n", "s.yaml:4:1: this is not YAML"),
        ("- wait: 1s\n", "s.yaml:1:1: the file must be a mapping"),
        ("${x}", "s.yaml:1:1: the file must be a mapping"),
        (HEAD + "vars: [x]\n" + STEPS, "vars: must be a mapping"),
        (HEAD + "steps:\n  - say: ${n o}\n", "`${n o}` is no variable"),
        (HEAD + "vars: {x: 1s}\nsteps:\n  - wait: {time: ${x}}\n", 'within {…} and […] write "${x}" in quotes'),
    ],
)  # fmt: skip
def test_faults_of_files(written: str, said: str) -> None:
    assert said in fault(written)


def test_every_fault_is_told_in_the_order_of_the_file() -> None:
    found = faults(HEAD + "tags: smoke\nsteps:\n  - dtmf: 1 #\n  - silence: 5\n  - say:\nrepeat: often\n")
    assert [line.split(":")[1] for line in found] == ["3", "5", "6", "7", "8"]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("\ufeff" + HEAD + STEPS, "utf-8")
    loaded = load(path)
    assert (loaded.path, loaded.folder) == (path, tmp_path)
    for data, said in (
        (b"\xff", "byte 0 is not UTF-8"),
        (b"#" * (MAX_FILE + 1), f"has more than {MAX_FILE} bytes"),
    ):
        path.write_bytes(data)
        with pytest.raises(ScenarioError, match=said):
            load(path)
    with pytest.raises(ScenarioError, match="there is no such file; `offhook qa init` writes one"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load(tmp_path)


def test_files_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "hello.wav").touch()
    loaded = parse(HEAD + "steps:\n  - say: {wav: hello.wav}\n", tmp_path / "one.yaml")
    assert loaded.scenario.steps[0].say is not None
    assert loaded.scenario.steps[0].say.wav == "hello.wav"


def test_other_kinds_of_file_by_the_same_rules(tmp_path: Path) -> None:
    class Plan(BaseModel):
        rate: int

    path = tmp_path / "load.yaml"
    path.write_text("rate: ${rate}\n")
    plan, source, asked = read_model(path, Plan, sets={"rate": "4"})
    assert plan.rate == 4
    assert asked == {"rate"}
    assert source.origin(("rate",)).line == 1
    with pytest.raises(ScenarioError, match=r"load.yaml:1:1: rate: input should be a valid integer"):
        read_model(path, Plan, sets={"rate": "x"})


def test_expand(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    one, two, plan = tmp_path / "one.yaml", tmp_path / "below" / "two.yml", tmp_path / "load.yaml"
    for path in (one, two):
        path.write_text(HEAD + STEPS)
    plan.write_text("schema: 1\nmix: []\n")
    assert expand([tmp_path]) == [two, one]
    assert expand([one, tmp_path, str(one)]) == [one, two]
    assert expand([plan]) == [plan]
    greeting = suite_paths()["greeting"]
    assert expand(["suite:greeting", "suite:all"]) == [greeting, *(p for p in suite_paths().values() if p != greeting)]
    for name, said in (
        ("greeting", "greeting: there is no such file or directory; did you mean suite:greeting?"),
        ("suite:greting", "suite:greting: there is no such scenario; did you mean suite:greeting?"),
        ("suite:zzz", "there are angry-double-talk, back-channel"),
        (str(tmp_path / "none"), "`offhook qa init` writes a first scenario"),
    ):
        with pytest.raises(ScenarioError) as caught:
            expand([name])
        assert said in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScenarioError, match="there is no scenario in this directory"):
        expand([tmp_path / "empty"])


def test_a_large_file_takes_linear_time() -> None:
    def seconds(steps: int) -> float:
        text = HEAD + "steps:\n" + '  - say: "hello ${who} # and ${who}"\n    expect: {agent_speaks: true}\n' * steps
        began = time.process_time()
        parse(text, sets={"who": "you"})
        return time.process_time() - began

    seconds(5)
    assert seconds(60) < 10 * max(seconds(20), 0.01)
