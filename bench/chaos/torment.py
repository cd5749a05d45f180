"""Workers killed and stopped, and servers restarted, at random moments, while workflows run."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from pyhotmesh import Client, StartRequest

from .flows import expected, order
from .ledger import Ledger, Report, check, recorded_tokens
from .processes import WorkerProcess, until


async def torment(
    dsn: str,
    directory: Path,
    *,
    workflows: int,
    kills: int = 0,
    stops: int = 0,
    restarts: int = 0,
    restart: Callable[[], None] = lambda: None,
    worker_dsn: str | None = None,
    processes: int = 2,
    lease: float = 1.0,
    limit: float = 120.0,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Runs ``workflows`` orders on ``processes`` workers; ``kills`` of these are killed with SIGKILL,
    and ``stops`` are stopped with SIGSTOP until their lease was swept, and then go on. ``restart()`` is
    called ``restarts`` times. ``worker_dsn``: the workers' way to the same database, if it is another.

    Each blow falls after a random share of the work was done, so that all fall while there is work.
    """
    ledger = Ledger(directory / "ledger")
    names = [f"o{i}-{os.urandom(3).hex()}" for i in range(workflows)]
    workers = [WorkerProcess(worker_dsn or dsn, ledger=ledger.path, lease=lease) for _ in range(processes)]
    forbidden: set[str] = set()
    results: dict[str, Any] = {}

    def strike() -> None:
        blows = ["kill"] * kills + ["stop"] * stops + ["restart"] * restarts
        random.shuffle(blows)
        base = ledger.count()
        whole = workflows * (len(expected("")) - 1)
        marks = sorted(random.uniform(0.02, 0.9) * whole for _ in blows)
        for blow, mark in zip(blows, marks, strict=True):
            until(lambda mark=mark: ledger.count() - base >= mark, f"{mark:.0f} effects", limit)
            if blow == "restart":
                say(f"restart after {ledger.count() - base} effects")
                restart()
                continue
            victim = workers.pop(0)
            with psycopg.connect(dsn, autocommit=True) as conn:
                until(lambda victim=victim, conn=conn: victim.registered(conn), "a worker serves")
                say(f"{blow} {victim.name} after {ledger.count() - base} effects")
                if blow == "kill":
                    victim.kill()
                    workers.append(WorkerProcess(worker_dsn or dsn, ledger=ledger.path, lease=lease))
                    continue
                victim.send(signal.SIGSTOP)
                until(lambda victim=victim, conn=conn: victim.released(conn), "a stopped worker loses its lease")
                mine = {e.token for e in ledger.effects() if e.pid == victim.pid}
                forbidden.update(mine - set(recorded_tokens(conn)))
                victim.send(signal.SIGCONT)
                workers.append(victim)

    try:
        async with Client(dsn) as client:
            for name in names:
                ledger.append("intent", name)
            handles = await client.workflow.start_many([StartRequest(order, [n], workflow_id=n) for n in names])
            for name in names:
                ledger.append("acked", name)

            async def collect(name: str, handle: Any) -> None:
                try:
                    results[name] = await handle.result(timeout=limit)
                except TimeoutError:
                    pass
                except Exception as error:
                    results[name] = error

            blows = asyncio.create_task(asyncio.to_thread(strike))
            await asyncio.gather(*[collect(n, h) for n, h in zip(names, handles, strict=True)])
            await blows
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.kill()
    report = check(ledger, dsn, results, {n: expected(n) for n in names}, forbidden)
    report.log_lines = sum(w.log.count(" WARNING ") + w.log.count(" ERROR ") for w in workers)
    return report
