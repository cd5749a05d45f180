"""A workflow that runs every night, whatever happens to the processes that serve it.

    python examples/nightly.py             serve, create the schedule (once), and show its next runs
    python examples/nightly.py run         run it now
    python examples/nightly.py delete      delete the schedule

Call the first command at the start of each of your servers: one of them creates the schedule, all of them
serve it, and each night runs once.
"""

import asyncio
import sys

import database

from pyhotmesh import Client, Worker, workflow

SCHEDULE_ID = "nightly-report"


async def report(name: str) -> None:
    print(f"the {name} report", flush=True)


@workflow.defn
async def nightly(name: str) -> None:
    await workflow.execute_activity(report, name)


def worker(client: Client) -> Worker:
    return Worker(client, task_queue="nightly", workflows=[nightly], activities=[report])


async def serve() -> None:
    async with Client(database.prepare()) as client, worker(client):
        made = await client.schedule.create(
            SCHEDULE_ID, nightly, interval="0 3 * * *", time_zone="Europe/Berlin", args=["nightly"], task_queue="nightly",
            catchup="6 hours", jitter="5 minutes",
        )  # fmt: skip
        print("created" if made else "there already")
        for slot in await client.schedule.get(SCHEDULE_ID).next_runs(2):
            print(f"runs at {slot:%Y-%m-%d %H:%M %Z}")


async def run() -> None:
    async with Client(database.prepare()) as client, worker(client):
        handle = await client.schedule.get(SCHEDULE_ID).trigger()
        await handle.result(timeout="1 minute")


async def delete() -> None:
    async with Client(database.prepare()) as client:
        print("deleted" if await client.schedule.get(SCHEDULE_ID).delete() else "there is none")


if __name__ == "__main__":
    command = {"run": run, "delete": delete}.get(sys.argv[1] if len(sys.argv) > 1 else "", serve)
    asyncio.run(command())
