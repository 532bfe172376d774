"""Synthetic callers: carrier simulators and what they measure.

* `simulator`: `CarrierSimulator`, a carrier account with one bot behind its numbers; begin here.
* `call`: `SimulatedCall`, one call as its caller lives through it; `leg`: as the carrier runs it.
* `twilio`, `plivo`: each carrier's webhook fields, signatures and API, behind `carrier.Carrier`.
* `line`: one call's audio on one clock, without sockets; `session`: the same on a media socket.
* `voice`: what callers speak with.
* `activity`, `measure`, `match`: who spoke when, how long everything took, and whether a known sentence was heard.
* `result`: what is left of a call.
"""
