"""Serves topics in a process of its own, until its standard input closes: `python -m tests.calls.server DSN DIRECTORY`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from pyhotmesh import MeshCall, RetryPolicy, activity, heartbeat

heartbeat.SWEEP_EVERY = 0.25


async def main(dsn: str, directory: str) -> None:
    ledger = Path(directory) / "calls"

    def note(text: str) -> None:
        with ledger.open("a") as file:
            file.write(f"{text}\n")

    async def who(number: int) -> list[int]:
        note(f"who {number}")
        await asyncio.sleep(0.02)
        return [number, os.getpid()]

    async def deadly(kills: int) -> int:
        attempt = activity.info().attempt
        note(f"deadly {attempt}")
        if attempt <= kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt

    def nightly() -> None:
        with (Path(directory) / "nights").open("a") as file:
            file.write(f"{os.getpid()}\n")

    mesh = MeshCall(dsn, lease=0.5, max_concurrent_calls=10)
    created = await mesh.cron("nightly", nightly, id="myNightlyCron123", interval="0 0 * * *")
    with (Path(directory) / "created").open("a") as file:
        file.write(f"{created}\n")
    await mesh.connect("who", who)
    print("ready", flush=True)  # what follows may be the end of this process
    await mesh.connect("deadly", deadly)
    await mesh.connect("deadly twice at most", deadly, retry_policy=RetryPolicy(maximum_attempts=2))
    await asyncio.to_thread(sys.stdin.read)
    await mesh.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
