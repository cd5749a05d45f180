"""When a worker looks for work that nobody has told it of.

Whoever makes work tells a worker that says that it is asleep. Two gaps remain: what comes while that flag is down, and
a sender who looked at the flag just before it went up. So a worker looks by itself as well, and by the clock, not by
how long it has been idle: one that always has a little to do would else leave others waiting for ever.
"""

from __future__ import annotations

import random

POLL = 1.0
POLL_DEAF = 0.1  # without a listener
LOOKS = (0.005, 0.02, 0.08, 0.32)  # after the flag went up with a turn that looked, or after a look that found something
UNLOOKED = 0.02  # after it went up with a turn that did not look; what is made next goes first, and may take the look along
SOON = 0.001  # the first look, in crowded times: a look has found something within the last second
CROWDED = 1.0


class Looks:
    """When the next look is due."""

    def __init__(self) -> None:
        self.at = 0.0  # monotonic
        self._step = 0
        self._crowded_until = 0.0

    def after(self, now: float, *, looked: bool, rose: bool, found: bool, untold: bool, is_listening: bool) -> None:
        """A turn has returned. ``looked``: for work of others; ``rose``: the flag went up with it; ``found``: it brought
        something; ``untold``: that was of a look by the clock."""
        if untold:
            self._crowded_until = now + CROWDED
        is_crowded = now < self._crowded_until
        if not looked:
            if rose:
                self._step = 0
                self.at = min(self.at, now + (SOON if is_crowded else UNLOOKED))
            return
        self._step = 0 if rose or found else self._step + 1
        if self._step >= len(LOOKS):
            pause = POLL if is_listening else POLL_DEAF
        else:
            pause = SOON if is_crowded and self._step == 0 else LOOKS[self._step]
        # Not all at once those whom one event has woken, and not in step with whoever sends at a fixed pace: what a
        # worker is told of while it looks waits for that (signal -> result 100 ms after the start: 1.07 times as long).
        self.at = now + pause * random.uniform(0.75, 1.25)
