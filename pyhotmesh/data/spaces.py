"""What all of a ``MeshData`` begins with: its clients, one for each namespace, and the names of things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from psycopg_pool import AsyncConnectionPool

from .. import payloads
from ..client import Client
from ..errors import PayloadError
from ..search import Schema
from ..worker import Worker


def queue_of(entity: str) -> str:
    """The task queue of an entity's workflows."""
    return f"entity:{entity}"


def workflow_id(entity: str, id: str) -> str:
    """The id of the workflow whose record this is."""
    return f"{entity}:{id}"


def type_of_hook(entity: str, fn: str | Callable[..., Any]) -> str:
    """The workflow type of a function that works on records of an entity."""
    name = fn if isinstance(fn, str) else getattr(fn, "__name__", None)
    if not isinstance(name, str):
        raise PayloadError("hook", f"must be a function with a name, or its name, not {fn!r:.100}", "write an async def for it")
    return f"{entity}.{name}"


class Spaces:
    """Clients of namespaces. They share their connections, so one more namespace costs none."""

    def __init__(
        self,
        connection: str | AsyncConnectionPool[Any] | Client | None = None,
        schema: Schema | Mapping[str, Any] | None = None,
        *,
        namespace: str = "default",
        **options: Any,
    ) -> None:
        self.client = Client(connection, namespace=namespace)
        self.schema = Schema.of(schema) if schema is not None else Schema(index="", prefix=("",))
        self.namespace = namespace
        self._options = options
        self._spaces = {namespace: self.client}
        self._workers: dict[tuple[str, str], Worker] = {}

    def _space(self, namespace: str | None) -> Client:
        name = namespace or self.namespace
        if name not in self._spaces:
            self._spaces[name] = Client(self.client, namespace=name)
        return self._spaces[name]

    def _entity(self, entity: Any) -> str:
        name = payloads.check_name(entity, "entity")
        if ":" in name:
            raise PayloadError("entity", f"must have no colon, this is {name!r:.100}")
        return name

    def _key(self, entity: str, id: str, namespace: str | None) -> tuple[str, str, str]:
        return namespace or self.namespace, self._entity(entity), payloads.check_name(id, "id")
