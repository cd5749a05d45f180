"""Workflows as records: run them by id, search them, join them with a table of your own.

python examples/users.py
"""

import asyncio
import time

import database

from pyhotmesh import MeshData, Numeric, Schema, Tag, Text, workflow

SCHEMA = Schema(
    index="user",
    prefix=["user"],
    fields={"id": Tag(), "first": Text(nostem=True), "active": Tag(), "created": Numeric(sortable=True)},
)


async def user(name: str) -> str:
    await workflow.search().set(active="yes")
    return f"Welcome, {name}."


async def main() -> None:
    async with MeshData(database.prepare(), SCHEMA, namespace="meshdata") as data:
        await data.create_search_index("user")
        await data.connect(entity="user", target=user)
        about = {"id": "jim123", "first": "James", "created": int(time.time())}
        print(await data.exec("user", args=["James"], id="jim123", search={"data": about}, ttl="infinity"))

        found = await data.get("user", "jim123", fields=["id", "first", "active", "created"])
        print(sorted(found or {}))
        for page in (
            await data.find_where("user", [{"field": "active", "is": "=", "value": "yes"}], start=0, size=100),
            await data.find("user", '@active:{yes} @created:[1000000000 +inf] @first:"ja*"'),
        ):
            print([(record.id, record["first"]) for record in page])
        join = """
            select u.first, n.nspname from hotmesh_data."user" u join pg_namespace n on n.nspname = %s
             where u.record_namespace = %s"""  # the view shows those of all namespaces
        print(await data.sql(join, ["public", data.namespace]))


if __name__ == "__main__":
    asyncio.run(main())
