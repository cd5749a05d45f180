"""When a worker looks for work that nobody has told it of.

Whoever makes work tells a worker that says that it is asleep. Two gaps remain: what comes while that flag is down, and
a sender who looked at the flag just before it went up. So a worker looks by itself as well, and by the clock, not by
how long it has been idle: one that always has a little to do would else leave others waiting for ever.
"""

from __future__ import annotations

import random
from collections import deque

POLL = 1.0
POLL_DEAF = 0.1  # without a listener
LOOKS = (0.005, 0.02, 0.08, 0.32)  # after the flag went up with a turn that looked, or after a look that found something
UNLOOKED = 0.02  # after it went up with a turn that did not look; what is made next goes first, and may take the look along
SOON = 0.001  # the first look, in crowded times: a look has found something within the last second
CROWDED = 1.0
ALL = 5.0  # a look at all there is is made so often
ALL_TOLD = 0.5  # or so, as long as callers' transactions commit
LATE = 10.0  # and what was there that long before a look is left to it by the others


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


class Floor:
    """From where on to look for what is due, or to be routed: what lies below was taken, or is an index entry that is
    dead and cannot be removed yet, as somebody pins the horizon.

    A look that took all shows that of what is there; one that took as many as it might, or left what somebody had locked,
    shows nothing, and for as long as one leaves some the floor stays where it is. Some turn up below it later: due, or
    numbered, when their transaction began, seen when that commits; held, and given back. So there is a look without it
    again and again, until one has taken all; soon, if such a commit has been told of.
    """

    def __init__(self) -> None:
        self._taken: deque[tuple[float, int]] = deque()  # looks that took all: monotonic, and where the next would begin
        self._all_at = float("-inf")  # monotonic: of the last one without a floor
        self._told = False

    def at(self, now: float) -> int | None:
        """For a look that is made now; None: look at all."""
        taken = self._taken
        while len(taken) > 1 and now - taken[1][0] > LATE:
            taken.popleft()
        if now - self._all_at > (ALL_TOLD if self._told else ALL) or not taken or now - taken[0][0] <= LATE:
            return None
        return taken[0][1]

    def took_all(self, now: float, upto: int, floor: int | None) -> None:
        """A look from ``floor`` on left nothing that it could see; what comes next is above ``upto``."""
        if floor is None:
            self._all_at = now
            self._told = False
        if self._taken and upto < self._taken[-1][1]:
            self._taken.clear()  # the clock has stepped back, or a standby that lagged behind is the server now
        if not self._taken or now - self._taken[-1][0] > 1.0:
            self._taken.append((now, upto))

    def told(self) -> None:
        """A transaction has committed that may have been open for long."""
        self._told = True

    def forget(self) -> None:
        """Somebody else's rows are wanted as well, of which nothing was seen."""
        self._taken.clear()
