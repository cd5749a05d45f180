"""Serving entities: their indexes, and workers for their functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from ..errors import InvalidQuery, PayloadError
from ..replay import Definition
from ..search.indexes import IndexReport, create
from ..worker import Worker
from .spaces import Spaces, queue_of, type_of_hook


class Serving(Spaces):
    """``create_search_index``, ``connect``, ``close``."""

    async def create_search_index(self, entity: str | None = None, *, namespace: str | None = None) -> IndexReport:
        """Declares what of an entity's records can be searched, builds the indexes, and makes the view
        ``hotmesh_data."<entity>"``. Does nothing that is done already; many servers may call it at start.

        Writers do not wait for it; it waits for transactions that are older than itself. But before an entity
        has more than 10,000 records it gets a table of its own, so that other entities' indexes cost it nothing: for
        that, writers of records may wait a second. If others are in the way for longer it shares a table,
        ``shared`` of the report says why, and the next call tries again, for 0.2 s. What a former schema had and this one has not
        stays, and is listed in ``would_drop`` as statements.
        ``InvalidQuery``: a name or type cannot be used.
        """
        if not self.schema.index:
            raise InvalidQuery("there is no schema to make indexes of", hint="MeshData(connection, schema)")
        name = self._entity(entity or self.schema.prefix[0])
        return await create(self.client.dsn, namespace or self.namespace, name, self.schema)

    async def connect(
        self,
        entity: str,
        target: Callable[..., Any],
        *,
        namespace: str | None = None,
        hooks: Iterable[Callable[..., Any]] = (),
    ) -> None:
        """Serves an entity with a workflow function until ``close()``; ``hooks``: functions for ``hook``.

        They are workflow code, async, and use ``workflow.search()`` for the record.
        """
        self._entity(entity)
        space = self._space(namespace)
        key = space.namespace, entity
        if key in self._workers:
            raise ValueError(f"entity {entity!r} is connected already")
        if not isinstance(hooks, Iterable):
            raise PayloadError("hooks", f"must be a list of functions, not {hooks!r:.100}")
        named: dict[str, Callable[..., Any]] = {}
        for fn in hooks:
            name = type_of_hook(entity, fn)
            if name in named:
                raise PayloadError(
                    "hooks", f"two are called {fn.__name__!r}", "each goes by its name: leave one out, or rename it"
                )
            named[name] = fn
        served = [_as_workflow(target, entity), *(_as_workflow(fn, name) for name, fn in named.items())]
        worker = Worker(space, task_queue=queue_of(entity), workflows=served, **self._options)
        await worker.__aenter__()
        self._workers[key] = worker

    async def close(self) -> None:
        """Serves no more, hands back what is not done, and closes the connections."""
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            await worker.__aexit__(None, None, None)
        for space in self._spaces.values():
            await space.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def _as_workflow(fn: Callable[..., Any], name: str) -> Any:
    """A plain async function, as the worker registers workflows."""

    def target(*args: Any) -> Any:
        return made.fn(*args)

    found = vars(fn).get("__hotmesh_workflow__") if hasattr(fn, "__dict__") else None
    made = found if isinstance(found, Definition) else Definition(name, fn)
    if made.fn is fn and not inspect.iscoroutinefunction(fn):
        raise TypeError(f"{name}: {fn!r:.100} must be an async function: it is workflow code")
    target.__hotmesh_workflow__ = Definition(name, made.fn)  # type: ignore[attr-defined]
    return target
