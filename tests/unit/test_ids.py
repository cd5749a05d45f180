"""Default ids are UUIDs in the order of time."""

from __future__ import annotations

import os
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


def test_a_forked_process_has_ids_of_its_own() -> None:
    guid()  # some have been drawn for later
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "".join(guid() for _ in range(50)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 50 * 36).decode()
    assert len(theirs) == 50 * 36
    assert not {theirs[at + 14 : at + 36] for at in range(0, len(theirs), 36)} & {guid()[14:] for _ in range(300)}
