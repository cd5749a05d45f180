"""SyncMeshData: the same calls for blocking programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from ..search.indexes import IndexReport
from ..sync import SyncClient
from .mesh import MeshData
from .results import Groups, Page


class SyncMeshData:
    """A blocking ``MeshData``; arguments as there. Functions of entities run on its thread's loop."""

    def __init__(self, connection: Any = None, schema: Any = None, **options: Any) -> None:
        self._sync = SyncClient(connection.dsn if isinstance(connection, SyncClient) else connection)
        self._data = MeshData(self._sync._client, schema, **options)

    def create_search_index(self, entity: str | None = None, *, namespace: str | None = None) -> IndexReport:
        """As ``MeshData.create_search_index``."""
        return self._sync._wait(self._data.create_search_index(entity, namespace=namespace))

    def connect(self, entity: str, target: Callable[..., Any], **options: Any) -> None:
        """As ``MeshData.connect``."""
        self._sync._wait(self._data.connect(entity, target, **options))

    def exec(self, entity: str, args: Sequence[Any] = (), **options: Any) -> Any:
        """As ``MeshData.exec``."""
        return self._sync._wait(self._data.exec(entity, args, **options))

    def hook(self, entity: str, id: str, fn: str | Callable[..., Any], args: Sequence[Any] = (), **options: Any) -> str:
        """As ``MeshData.hook``."""
        return self._sync._wait(self._data.hook(entity, id, fn, args, **options))

    def interrupt(self, entity: str, id: str, reason: str = "interrupted", *, namespace: str | None = None) -> None:
        """As ``MeshData.interrupt``."""
        self._sync._wait(self._data.interrupt(entity, id, reason, namespace=namespace))

    def signal(self, signal_id: str, payload: Any = None, **options: Any) -> None:
        """As ``MeshData.signal``."""
        self._sync._wait(self._data.signal(signal_id, payload, **options))

    def flush(self, entity: str, id: str, *, namespace: str | None = None) -> bool:
        """As ``MeshData.flush``."""
        return self._sync._wait(self._data.flush(entity, id, namespace=namespace))

    def get(self, entity: str, id: str, fields: Sequence[str] | None = None, **options: Any) -> dict[str, Any] | None:
        """As ``MeshData.get``."""
        return self._sync._wait(self._data.get(entity, id, fields, **options))

    def set(self, entity: str, id: str, fields: Mapping[str, Any], **options: Any) -> None:
        """As ``MeshData.set``."""
        self._sync._wait(self._data.set(entity, id, fields, **options))

    def incr(self, entity: str, id: str, field: str, by: float = 1, **options: Any) -> Any:
        """As ``MeshData.incr``."""
        return self._sync._wait(self._data.incr(entity, id, field, by, **options))

    def delete(self, entity: str, id: str, fields: Sequence[str], *, namespace: str | None = None) -> int:
        """As ``MeshData.delete``."""
        return self._sync._wait(self._data.delete(entity, id, fields, namespace=namespace))

    def find_where(self, entity: str, query: Any = None, **options: Any) -> Page:
        """As ``MeshData.find_where``."""
        return self._sync._wait(self._data.find_where(entity, query, **options))

    def find(self, entity: str, query: str = "*", **options: Any) -> Page:
        """As ``MeshData.find``."""
        return self._sync._wait(self._data.find(entity, query, **options))

    def count(self, entity: str, query: Any = None, *, namespace: str | None = None) -> int:
        """As ``MeshData.count``."""
        return self._sync._wait(self._data.count(entity, query, namespace=namespace))

    def aggregate(self, entity: str, query: Any = None, **options: Any) -> Groups:
        """As ``MeshData.aggregate``."""
        return self._sync._wait(self._data.aggregate(entity, query, **options))

    def explain(self, entity: str, query: Any = None, **options: Any) -> Any:
        """As ``MeshData.explain``."""
        return self._sync._wait(self._data.explain(entity, query, **options))

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """As ``MeshData.sql``."""
        return self._sync._wait(self._data.sql(query, params))

    def close(self) -> None:
        """As ``MeshData.close``; also ends the thread."""
        self._sync._wait(self._data.close())
        self._sync.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
