"""Two signals collated by `asyncio.gather`: sent in reverse order, they arrive where they belong.

python examples/collation.py
"""

import asyncio
from typing import Any

import database

from pyhotmesh import Client, Worker, guid, workflow


@workflow.defn
async def collate(order: str) -> list[Any]:
    return await asyncio.gather(workflow.wait_for(f"{order}-paid"), workflow.wait_for(f"{order}-packed"))


async def main() -> None:
    async with (
        Client(database.prepare()) as client,
        Worker(client, task_queue="orders", workflows=[collate]),
    ):
        order = guid()
        handle = await client.workflow.start(collate, args=[order], task_queue="orders", workflow_id=order)
        await client.signal(f"{order}-packed", {"packed by": "Ada"})
        await client.signal(f"{order}-paid", {"amount": "12.50"})
        paid, packed = await handle.result(timeout=60)
        print(f"paid: {paid}, packed: {packed}")


if __name__ == "__main__":
    asyncio.run(main())
