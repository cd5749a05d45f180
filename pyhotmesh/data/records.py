"""Single records from outside of workflow code: read, as they are and were, and changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .. import documents, engine, payloads
from ..durations import Duration
from ..durations import parse as parse_duration
from ..errors import PayloadError
from ..starts import interval
from .spaces import Spaces


class Records(Spaces):
    """``get``, ``set``, ``incr``, ``delete``."""

    async def get(
        self,
        entity: str,
        id: str,
        fields: Sequence[str] | None = None,
        *,
        as_of: datetime | int | None = None,
        namespace: str | None = None,
    ) -> dict[str, Any] | None:
        """The record, or those of its fields that it has; None if there is no record.

        ``as_of``: as it was at a moment (a ``datetime`` with a time zone), or when its workflow had
        journaled that row (a number, see ``Handle.history``): what that workflow found and had changed until then; what
        hooks and others changed meanwhile shows with its own next change. A moment is answered by the last version that is dated
        until then, and all before it: of changes made at once, a later version may have the earlier date, but a later
        moment never gives an earlier version. Each version keeps the whole of the outermost fields that it changed;
        they go with the record (``flush``, ``ttl``).
        """
        key = self._key(entity, id, namespace)
        space = self._space(namespace)
        picked = None if fields is None else documents.field_names(fields)
        if as_of is None:
            text = await space._value(engine.RECORD, (key[1], key[2], key[0], picked))
            return None if text is None else dict(payloads.decode(text))
        if isinstance(as_of, datetime):
            if as_of.tzinfo is None:
                raise PayloadError("as_of", "has no time zone", "use datetime.now(UTC) or the like")
            params = (key[1], key[2], as_of, None, key[0])
        elif isinstance(as_of, int) and not isinstance(as_of, bool):
            params = (key[1], key[2], None, min(max(as_of, -1), 2**31 - 1), key[0])  # type: ignore[assignment]
        else:
            raise PayloadError("as_of", f"must be a moment or a journal row, not {as_of!r:.100}")
        text = await space._value(engine.RECORD_AS_OF, params)
        if text is None:
            return None
        found: dict[str, Any] = payloads.decode(text)
        return found if picked is None else {name: found[name] for name in picked if name in found}

    async def set(
        self,
        entity: str,
        id: str,
        fields: Mapping[str, Any],
        *,
        ttl: Duration | None = None,
        namespace: str | None = None,
    ) -> None:
        """Sets fields; others stay. Makes the record if there is none: for ever, or until ``ttl`` lapses."""
        await self._change(entity, id, "set", documents.fields_of(fields, {}), namespace, ttl=ttl)

    async def incr(
        self, entity: str, id: str, field: str, by: float = 1, *, namespace: str | None = None, idempotency_key: str | None = None
    ) -> Any:
        """Adds to a number of a record, in exact decimals; the new value, beyond 64 bits as a float (in SQL it is exact).
        ``RecordError``: there is no record, or the field is no number. With ``idempotency_key`` a second call of that
        key for this record changes nothing, for 7 days; without it, a reply that was lost raises ``OutcomeUnknown``."""
        args = [documents.field_name(field), documents.number(by)]
        if idempotency_key is not None:
            payloads.check_name(idempotency_key, "idempotency_key")
        return await self._change(entity, id, "incr", args, namespace, key=idempotency_key, safe=idempotency_key is not None)

    async def delete(self, entity: str, id: str, fields: Sequence[str], *, namespace: str | None = None) -> int:
        """Removes fields of a record (``flush`` the whole of it); how many there were."""
        return int(await self._change(entity, id, "delete", documents.field_names(fields), namespace))

    async def _change(
        self, entity: str, id: str, op: str, args: Any, namespace: str | None, *,
        ttl: Duration | None = None, key: str | None = None, safe: bool = True,
    ) -> Any:  # fmt: skip
        kept = None if ttl is None else interval(parse_duration(ttl))
        params = (*self._key(entity, id, namespace), op, documents.encode(args).decode(), kept, key, op == "set")
        text = await self._space(namespace)._value(engine.CHANGE_RECORD, params, safe=safe)
        return None if text is None else payloads.decode(text)
