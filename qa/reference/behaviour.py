"""What the reference does and when: its delays, and the faults that it can be given by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The delays and habits of the reference. Seconds everywhere."""

    ring: float = 0.1
    "From the INVITE, which is answered with 180 at once, to the 200; or before the webhook is answered."
    greeting: float | None = 0.3
    "From the answer to the first sample of the greeting; None: it does not greet."
    answer: float = 0.7
    "From the caller's last voiced sample to the first sample of the answer, each as it is on the line."
    stop: float = 0.25
    "From the first voiced sample of an interruption to the last sample of the sentence that it cuts short."
    ignore: float = 0.2
    "A sound shorter than this does not interrupt. With `stop` below it, `stop` grows to it."
    deaf: bool = False
    "It lets nobody interrupt."
    level: float = -20.0
    "dBov of the louder half of the 20 ms pieces of every sentence."
    gain: float = 0.0
    "dB by which it is louder than that after all, clipped where it does not fit."
    hole: float = 0.0
    "Silence in the middle of every answer, in place of what it would have said then."
    lose: int = 0
    "RTP packets in a row that are never sent, in the middle of every answer; a hole in a carrier's stream."
    pause: float = 0.0
    "Silence between the two halves of every answer, of which nothing is lost."
    times: int = 1
    "How often it says each answer, with 0.4 s between."
    reprompt: float = 5.0
    "Silence of both after which it asks whether somebody is there: twice, then it says good-bye."
    key_pause: float = 1.0
    "Silence after which keys are complete; `#` completes them at once."
    drop: bool = False
    "It misses the second digit of several."
    farewell: float = 0.6
    "From the last sample of the good-bye to the hang-up."
    cut: float = 0.0
    "How much of the good-bye is missing when it hangs up."
    hangs_up: bool = True
    gives_up: bool = False
    "It hangs up where it should answer for the first time."
    silent: bool = False
    "It says nothing at all."
    transfer_to: str = "+15550123"
    transfer_after: float = 0.0
    "A turn of the caller longer than this makes it transfer the call, as the key 0 does; 0.0: none does."
    replies: Literal["answer", "goodbye", "transfer"] = "answer"
    "What it does with a turn of the caller."
    refuses: bool = False
    "It takes no call: SIP 486, `<Reject>`."
    trusting: bool = False
    "It takes webhooks and media sockets without checking signatures and tokens."


HOLE: Final = 0.120
"""Seconds of the hole of the fault `hole`."""

FAULTS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "ignore-barge-in": ("goes on speaking whatever the caller does", {"deaf": True}),
    "slow-stop": ("stops 1.5 s after an interruption", {"stop": 1.5}),
    "stop-for-anything": ("stops for every sound of 40 ms", {"ignore": 0.04, "stop": 0.1}),
    "cut-tail": ("hangs up within its last word", {"cut": 0.4, "farewell": 0.0}),
    "drop-digit": ("misses the second digit", {"drop": True}),
    "late-answer": ("answers 3 s after the caller", {"answer": 3.0}),
    "late-greeting": ("greets after 6 s", {"greeting": 6.0}),
    "interrupts": ("answers after 250 ms of silence", {"answer": 0.25}),
    "hole": ("has a hole of 120 ms in every answer", {"hole": HOLE}),
    "lost-packets": ("never sends six packets of every answer", {"lose": 6}),
    "dead-air": ("says nothing for 5 s in the middle of every answer", {"pause": 5.0}),
    "hang-up-early": ("hangs up where it should answer", {"gives_up": True}),
    "silent": ("says nothing", {"silent": True}),
    "double-answer": ("says every answer twice", {"times": 2}),
    "no-hangup": ("says good-bye and stays", {"hangs_up": False}),
    "wrong-transfer": ("transfers to another number", {"transfer_to": "+15550666"}),
    "clipped": ("is so loud that it is clipped", {"gain": 20.0}),
    "quiet": ("speaks at -40 dBov", {"level": -40.0}),
    "busy": ("takes no call", {"refuses": True}),
    "trusting": ("checks no signature and no token", {"trusting": True}),
}
"""Name → what it does, and what of the behaviour that changes."""

HABITS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "goodbye": ("says good-bye to whatever the caller says first", {"replies": "goodbye"}),
    "transfer": ("transfers a caller who says anything", {"replies": "transfer"}),
    "patient": ("stops 800 ms after an interruption, and not for sounds below 700 ms", {"stop": 0.8, "ignore": 0.7}),
}
"""The same for ways to behave that are no faults."""


def behaviour(*names: str, base: Behaviour | None = None) -> Behaviour:
    """The reference's behaviour with these faults and habits.

    Raises:
        ValueError: there is none of that name.
    """
    found = base or Behaviour()
    for name in names:
        known = FAULTS.get(name) or HABITS.get(name)
        if known is None:
            raise ValueError(f"there is no fault {name[:40]!a}: choose of {', '.join((*FAULTS, *HABITS))}")
        found = replace(found, **known[1])
    return replace(found, stop=max(found.stop, found.ignore))


def behaviour_of(address: str, base: Behaviour) -> Behaviour:
    """The behaviour for whom was called: faults and habits by name, `cut-tail+goodbye`; any other changes nothing."""
    names = address.split("+")
    return behaviour(*names, base=base) if all(name in FAULTS or name in HABITS for name in names) else base
