"""Default ids are UUIDs in the order of time."""

from __future__ import annotations

import time
import uuid

from pyhotmesh import guid


def test_ids_are_version_7_and_new() -> None:
    before = time.time_ns() // 1_000_000
    ids = [uuid.UUID(guid()) for _ in range(10_000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    assert {i.version for i in ids} == {7}
    assert {i.variant for i in ids} == {uuid.RFC_4122}
    times = [i.int >> 80 for i in ids]
    assert times == sorted(times)
    assert before <= times[0] and times[-1] <= after


def test_later_ids_sort_after_earlier_ones() -> None:
    first = guid()
    time.sleep(0.002)
    assert first < guid()
