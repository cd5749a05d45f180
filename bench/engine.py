"""What the harness asks of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Engine:
    """An engine to be measured. Subclasses say how to make its schema and name its two parts.

    The parts' methods, called by the workloads below, are:

    worker  `setup(dsn, workload, **options)` connects and registers, but takes no work until `go()`;
            `lateness()` returns what the sleepers noted in code and in steps, in seconds; `stop()` ends it cleanly.
    client  `setup(dsn, **options)`; `enqueue(workload, count)` starts that many and returns the
            seconds; `fan_out(count)` runs W3 and returns the seconds; `round_trips(count)` and
            `signal_trips(count, parked)` return seconds of each; `stop()`.

    They need only the methods of the workloads in which the engine takes part.
    """

    name = ""
    module = ""  # has classes Worker and Client
    workloads: tuple[str, ...] = ("W1", "W2", "W3", "W4", "W5", "W7")  # in which it takes part
    open_runs = ""  # SQL that counts the runs that have not ended
    notes: tuple[str, ...] = ()

    def prepare(self, dsn: str, programs: Path) -> None:
        """Make the schema in an empty database."""
        raise NotImplementedError

    def parts(self, workload: str) -> str:
        """The module with the classes Worker and Client of a workload."""
        return self.module

    def variants(self, workload: str) -> list[dict[str, Any]]:
        """Ways to run a workload: `label`; `options` of both parts' setup; `inside`: the worker's own
        process starts and waits; `share` of the count to run (W4, W5, W6); `straight` (W5); `trips`:
        calls one after another in place of a drain (W6); `enqueue`: arguments of that call (W7)."""
        return [{"label": ""}]
