"""A workflow that does something every week, until somebody interrupts it.

    python examples/weekly.py              serve, start it (once), and show when it is due
    python examples/weekly.py interrupt    end it by its handle

A sleeping workflow is a row in the database that is due later. It needs no process: run the first
command again in a week, or let a worker run all the time.
"""

import asyncio
import sys

import database

from pyhotmesh import Client, Worker, workflow

WORKFLOW_ID = "weekly-report"


async def report() -> None:
    print("the weekly report", flush=True)


@workflow.defn
async def weekly() -> None:
    while await workflow.sleep_for("1 week"):
        await workflow.execute_activity(report)


async def main() -> None:
    async with Client(database.prepare()) as client:
        worker = Worker(client, task_queue="weekly", workflows=[weekly], activities=[report])
        async with worker:
            handle = await client.workflow.start(
                weekly, task_queue="weekly", workflow_id=WORKFLOW_ID, id_conflict_policy="use_existing"
            )
            while await handle.status() != "waiting":
                await asyncio.sleep(0.05)
            print(f"sleeps until {(await handle.describe())['due_at']:%Y-%m-%d %H:%M}")


async def interrupt() -> None:
    async with Client(database.prepare()) as client:
        await client.get_handle(WORKFLOW_ID).interrupt("no more reports, please")
        print("interrupted")


if __name__ == "__main__":
    asyncio.run(interrupt() if sys.argv[1:] == ["interrupt"] else main())
