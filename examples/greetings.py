"""Greets in two languages at once, by activities that fail half of the time.

    python examples/greetings.py

The workflow does not see the failures: an activity is tried again until it succeeds.
"""

import asyncio
import sys

import activities
import database

from pyhotmesh import Client, RetryPolicy, Worker, guid, workflow

acts = workflow.proxy_activities(activities, retry_policy=RetryPolicy(initial_interval="100 ms", maximum_interval="1 s"))


@workflow.defn
async def example(name: str) -> list[str]:
    return await asyncio.gather(acts.greet(name), acts.saludar(name))


async def main(name: str = "HotMesh") -> None:
    async with (
        Client(database.prepare()) as client,
        Worker(client, task_queue="greetings", workflows=[example], activities=activities),
    ):
        handle = await client.workflow.start(example, args=[name], task_queue="greetings", workflow_id=guid())
        print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
