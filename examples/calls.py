"""Functions that are called by topic: at once, once in 15 minutes, and every night.

python examples/calls.py               serve the topics, and call them
python examples/calls.py stop          end the nightly call
"""

import asyncio
import sys

import database

from pyhotmesh import MeshCall


async def hello(payload: dict[str, str]) -> dict[str, str]:
    print("called with", payload, flush=True)
    return {"hello": payload["payload"]}


async def tidy() -> None:
    print("tidied up", flush=True)


async def call() -> None:
    async with MeshCall(database.prepare()) as mesh:
        await mesh.connect("my.topic", hello)
        print(await mesh.exec("my.topic", args=[{"payload": "something"}]))

        # One call in 15 minutes, whoever asks; the others get its value.
        for text in ("first", "second"):
            print(await mesh.exec("my.topic", args=[{"payload": text}], id="cached", ttl="15 minutes"))
        await mesh.flush("my.topic", "cached")
        print(await mesh.exec("my.topic", args=[{"payload": "third"}], id="cached", ttl="15 minutes"))

        # At each start of each server: one creates it, all serve it, each night runs once.
        made = await mesh.cron("tidy.up", tidy, id="myNightlyCron123", interval="0 0 * * *")
        print("a nightly call:", "created" if made else "there already")


async def stop() -> None:
    async with MeshCall(database.prepare()) as mesh:
        print("ended" if await mesh.interrupt("tidy.up", "myNightlyCron123") else "there is none")


if __name__ == "__main__":
    asyncio.run(stop() if sys.argv[1:] == ["stop"] else call())
