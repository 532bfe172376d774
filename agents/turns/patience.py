"""How long the turn-taker waits where nobody needs to choose: seconds, each with its reason."""

from __future__ import annotations

from typing import Final

AGENT_TAIL: Final = 0.3
"""Seconds at the end of the agent's speech in which people already answer: a "yes" there is no back-channel."""

STABLE: Final = 0.2
"""Seconds a partial must stand in a pause until it is believed: two reports of a streaming service."""

UNHEARD_PAUSE: Final = 0.3
"""Seconds without a new word that make a pause when the detector hears nothing: it gives no help there."""

MODEL: Final = 0.5
"""Seconds the end-of-turn model may take; it needs less than 0.1, but shares its core with other calls."""

BATCH: Final = 2.0
"""Seconds more for the text of a service without partials: it transcribes the whole pause when asked."""

STALL: Final = 2.0
"""Seconds of voice without a new word, from a service that gives partials, after which the voice is noise."""

NOISE_OVER_AGENT: Final = 1.2
"""The same over the agent, which is silent so long: the first word of somebody who means it is text by then."""

MAX_FALSE_HOLDS: Final = 2
"""Sounds without words after which a voice alone no longer stops the agent, until the caller has said something."""

MUTE_TAIL: Final = 1.0
"""Seconds after the caller counts again in which text may still be of what he said before."""

RESIDUE: Final = 1.5
"""Seconds after a turn ended before its text was settled, in which new words are taken for the rest of it."""
