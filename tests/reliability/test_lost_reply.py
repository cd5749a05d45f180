"""A turn whose reply is lost: the worker learns what was recorded, keeps what it holds, and doubles nothing."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from bench.chaos.proxy import AFTER, BEFORE, Proxy
from bench.chaos.torment import torment

MIXED = {n: (BEFORE, AFTER)[n // 3 % 2] for n in range(4, 100, 3)}


@pytest.mark.limit(100)
@pytest.mark.parametrize(
    "plan",
    [{3: AFTER}, {3: BEFORE}, {5: AFTER, 6: AFTER, 7: BEFORE}, MIXED],
    ids=["one answer lost", "one turn lost", "three in a row", "every third"],
)
async def test_nothing_is_doubled_and_no_lease_leaks(dsn: str, tmp_path: Path, plan: dict[int, str]) -> None:
    """The lease is a minute and the limit much less: what leaked would not come back in time."""
    async with Proxy(dsn, plan.get) as proxy:
        report = await torment(dsn, tmp_path, workflows=40, worker_dsn=proxy.dsn, processes=1, lease=60.0, limit=40.0)
    assert report.good, report
    assert report.closed == 40
    assert report.extra_effects == 0
    reached = [side for turn, side in plan.items() if turn <= proxy.turns]
    assert proxy.cuts == {BEFORE: reached.count(BEFORE), AFTER: reached.count(AFTER)}
    assert sum(proxy.cuts.values()) >= min(len(plan), 4)
    with psycopg.connect(dsn) as conn:
        left = "select (select count(*) from hotmesh_engine.live), (select count(*) from hotmesh_engine.activity_task)"
        assert conn.execute(left).fetchone() == (0, 0)
