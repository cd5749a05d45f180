"""A workflow that waits for a signal; its handle, fetched by id in another process, returns the result.

python examples/wait_for_signal.py             start, wait in another process, signal
python examples/wait_for_signal.py result      what that other process does: fetch the handle and wait
"""

import asyncio
import json
import subprocess
import sys
from typing import Any

import database

from pyhotmesh import Client, Worker, workflow


@workflow.defn(name="waitForExample")
async def wait_for_example() -> Any:
    return await workflow.wait_for("my-sig-nal")


async def main() -> None:
    dsn = database.prepare()
    async with Client(dsn) as client, Worker(client, task_queue="signals", workflows=[wait_for_example]):
        await client.workflow.start(wait_for_example, task_queue="signals", workflow_id="myWorkflow123")
        other = subprocess.Popen([sys.executable, __file__, "result"])
        await client.signal("my-sig-nal", {"hello": "world"})
        sys.exit(await asyncio.to_thread(other.wait))


async def result() -> None:
    async with Client(database.prepare()) as client:
        print(json.dumps(await client.get_handle("myWorkflow123").result(timeout=60)))


if __name__ == "__main__":
    asyncio.run(result() if sys.argv[1:] == ["result"] else main())
