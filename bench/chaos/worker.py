"""A worker process to be killed: `python -m bench.chaos.worker DSN --module bench.chaos.flows`."""

from __future__ import annotations

import argparse
import importlib
import logging

from pyhotmesh import Worker, heartbeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dsn")
    parser.add_argument("--module", default="bench.chaos.flows", help="has WORKFLOWS and ACTIVITIES")
    parser.add_argument("--queue", default="default")
    parser.add_argument("--name")
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--sweep-every", type=float, default=5.0, help="seconds between looks for dead workers")
    parser.add_argument("--cache-size", type=int)
    parser.add_argument("--stall-limit", type=float, default=300.0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s")
    heartbeat.SWEEP_EVERY = given.sweep_every
    module = importlib.import_module(given.module)
    Worker(
        given.dsn, task_queue=given.queue, workflows=module.WORKFLOWS, activities=module.ACTIVITIES, name=given.name,
        lease=given.lease, cache_size=given.cache_size, stall_limit=given.stall_limit,
    ).run_forever()  # fmt: skip


if __name__ == "__main__":
    main()
