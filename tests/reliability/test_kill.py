"""A worker killed at any moment: nothing is lost, nothing is recorded twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos.torment import torment


@pytest.mark.limit(120)
async def test_killed_workers_lose_nothing(dsn: str, tmp_path: Path) -> None:
    report = await torment(dsn, tmp_path, workflows=60, kills=4)
    assert report.good, report
    assert (report.started, report.acked, report.closed) == (60, 60, 60)


@pytest.mark.limit(120)
async def test_what_a_stopped_worker_had_in_hand_is_not_accepted_later(dsn: str, tmp_path: Path) -> None:
    report = await torment(dsn, tmp_path, workflows=60, stops=2)
    assert report.good, report
    assert report.closed == 60
