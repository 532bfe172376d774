"""The scenario that `offhook qa init` writes: short, working, and with every line explained."""

from __future__ import annotations

import re
from typing import Final

MAX_NAME: Final = 80

_FIRST: Final = """\
# A test call. Check this file with `offhook qa validate {file}`, and call your bot:
#
#   offhook qa run {file} --target sip:bot@127.0.0.1:5060
#   offhook qa run {file} --target twilio+http://127.0.0.1:8080/twilio/voice
#
# All that can stand here: docs/qa-scenarios.md.
schema: 1
name: {name}
description: Greets in time, answers, and stops when it is interrupted.

# ${{question}} below is this, unless --set question=… says otherwise.
vars:
  question: What can you help me with? Please tell me everything.

target:
  to: {target}   # --target goes before it
  from: "+15550100"

caller:
  end_silence: 700ms   # after so much silence the caller takes the bot's turn to be over

steps:
  # The phone rings; the bot answers and greets. `within` counts from the end of the step before, here from the answer.
  - expect: {{answer: true, within: 10s}}
  - expect: {{agent_speaks: true, within: 2s, as: greeting}}
  - wait: agent_done

  # A question. `within` counts from the caller's last voiced sample.
  - say: ${{question}}
    expect: {{agent_speaks: true, within: 2s, as: answer}}

  # When the bot has spoken for 800 ms the caller interrupts.
  - barge_in: {{text: "Sorry, one moment please. Are you open on Sunday?", after: 800ms}}
    expect: {{agent_stops_within: 1s, agent_speaks: true, within: 2s, as: interruption}}
  - wait: agent_done

  # What else a caller does:
  #   - dtmf: "12#"      # press keys; in quotes, for # begins a comment elsewhere
  #   - silence: 10s     # say nothing, to see what the bot does
  #     expect: {{agent_speaks: true, as: reprompt}}
  #   - backchannel: {{sound: hum, after: 600ms}}   # make a sound of listening, which must not stop the bot
  #     expect: {{agent_keeps_talking: 1s}}
  #   - say: Goodbye.
  #     expect: {{hangup: by_agent, tail_intact: true, within: 12s}}
  - hang_up: true

assert:
  # Measured on the wire, without any model.
  wire:
    v2v_ms: {{p50: "<=1000", max: "<=2000"}}
    missed_interrupts: 0
    dead_air_max_s: "<=4s"
    holes: 0
  # Found by the offline recogniser, or the service under `stt:`. Take the signs away to use it.
  # speech:
  #   must_hear: ["monday"]
  #   never_hear: ["as an AI language model"]
"""


def first_scenario(name: str = "first-call", target: str = "", *, file: str = "") -> str:
    """The text of a first scenario.

    Args:
        name: of the scenario; what cannot stand in a name is replaced by `-`.
        target: whom it calls; empty: a bot on this machine, by SIP.
        file: what the file is called, for the commands in its head.
    """
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:MAX_NAME] or "first-call"
    to = '"' + (target or "sip:bot@127.0.0.1:5060").replace("\\", "\\\\").replace('"', '\\"').replace("${", "$${") + '"'
    return _FIRST.format(name=slug, target=to, file=file or f"{slug}.yaml")
