"""Replays closed runs from what the database kept of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from pyhotmesh import workflow
from pyhotmesh.payloads import encode
from pyhotmesh.replay import Info, Instance, Row
from tests.reliability.kit import Database

_RUNS = """
    select r.run_id, r.workflow_id, r.workflow_type, q.name, n.name, (extract(epoch from r.created_at) * 1e6)::bigint,
           r.input::text, o.status, o.payload::text
      from hotmesh_engine.run r
      join hotmesh_engine.outcome o using (run_id)
      join hotmesh_engine.queue q using (queue_id)
      join hotmesh_engine.namespace n on n.namespace_id = r.namespace_id
     where r.workflow_type = any (%s) order by r.run_id limit 200"""
_JOURNAL = """
    select seq, kind, command, (extract(epoch from at) * 1e6)::bigint, payload::text, commands::text
      from hotmesh_engine.journal where run_id = %s order by seq"""


def replay_closed(db: Database, workflows: Iterable[Any]) -> int:
    """Runs the code of each closed run again over its journal: it must ask for the same things, see the same
    values, and end as it ended. Returns how many there were."""
    definitions = {d.name: d for d in map(workflow.definition_of, workflows)}
    runs = db.rows(_RUNS, list(definitions))
    for run_id, workflow_id, type_name, queue, namespace, created, given, status, payload in runs:
        info = Info(workflow_id, run_id, type_name, queue, namespace, created)
        instance = Instance(definitions[type_name], info, given.encode())
        for seq, kind, command, at, value, commands in db.rows(_JOURNAL, run_id):
            instance.replay(Row(seq, kind, command, at, _bytes(value), _bytes(commands)))
        if status in (1, 2, 3):
            assert instance.outcome is not None, f"{workflow_id} did not end"
            assert instance.outcome[0] == status, workflow_id
            assert _told(instance.outcome[1]) == _told(payload.encode()), workflow_id
        assert not (instance.outcome and instance.issued), f"{workflow_id} asks for more"
        instance.evict()
    return len(runs)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _told(payload: bytes) -> bytes:
    """An outcome without the places in the code that a failure names."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict) and "stack" in value:
            return {k: plain(v) for k, v in value.items() if k != "stack"}
        return value

    return encode(plain(orjson.loads(payload)))
