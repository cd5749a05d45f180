"""Activities of the demonstration: they take a while, and fail half of the time, at random.

What they did is written into a table of the demonstration's own, so that SQL can count it: the engine
keeps outcomes, not every attempt.
"""

from __future__ import annotations

import asyncio
import os
import random

from psycopg_pool import AsyncConnectionPool

from .. import activity
from ..connection import conninfo

WORKER = "HOTMESH_DEMO_WORKER"  # environment variable: the name of this process
# What is logged need not outlive a crash of the server: no waiting for its disk, which the engine is using.
LOGGED = {"autocommit": True, "options": "-c synchronous_commit=off"}

_pool: AsyncConnectionPool | None = None


class Unlucky(Exception):
    """Not today; try again."""


async def greet(name: str) -> str:
    """In English."""
    return await _say(f"Hello, {name}!")


async def saludar(name: str) -> str:
    """In Spanish."""
    return await _say(f"¡Hola, {name}!")


async def _say(text: str) -> str:
    await asyncio.sleep(random.uniform(0.05, 0.15))
    lucky = random.random() < 0.5
    about = activity.info()
    async with (await _connections()).connection() as conn:
        await conn.execute(
            "insert into demo_log (workflow_id, activity, attempt, worker, succeeded) values (%s, %s, %s, %s, %s)",
            (about.workflow_id, about.name, about.attempt, os.environ.get(WORKER, "?"), lucky),
        )
    if not lucky:
        raise Unlucky(f"{about.name} failed in attempt {about.attempt}")
    return text


async def _connections() -> AsyncConnectionPool:
    global _pool
    if _pool is None:
        pool = AsyncConnectionPool(conninfo(None), open=False, min_size=1, max_size=4, kwargs=LOGGED)
        _pool = pool
        await pool.open()
    return _pool
