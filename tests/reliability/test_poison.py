"""One workflow with a payload that cannot be read, put in with SQL, among good ones."""

from __future__ import annotations

import time

import psycopg
import pytest

from pyhotmesh import Client, StartRequest
from tests.reliability.flows import chain, fan, listen, shout
from tests.reliability.kit import Database, serve, until

# JSON to PostgreSQL, which does not look behind the escape; no text to Python.
POISON = '["\\ud800"]'
TROUBLE = "select workflow_id, code, message from hotmesh_engine.trouble join hotmesh_engine.run using (run_id)"


@pytest.mark.limit(90)
async def test_a_poisoned_input_parks_its_workflow_alone(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        requests = [StartRequest(shout, [str(i)], workflow_id=f"g{i}") for i in range(500)]
        requests.insert(250, StartRequest(shout, ["x"], workflow_id="bad"))
        handles = await client.workflow.start_many(requests)
        db.rows("update hotmesh_engine.run set input = %s where workflow_id = 'bad' returning 1", POISON)
        bad = handles.pop(250)
        begin = time.monotonic()
        async with serve(client):
            results = [await handle.result(timeout=60) for handle in handles]
            assert results == [f"{i}!" for i in range(500)]
            assert time.monotonic() - begin < 30
            await until(lambda: db.rows(TROUBLE), "it is parked")
            ((workflow_id, code, message),) = db.rows(TROUBLE)
            assert (workflow_id, code) == ("bad", "HM003")
            assert "cannot be read back" in message
            assert db.value("select trouble is not null from hotmesh.workflows where workflow_id = 'bad'")
            db.rows("update hotmesh_engine.run set input = '[\"mended\"]' where workflow_id = 'bad' returning 1")
            assert db.value("select hotmesh.resume('bad')")
            assert await bad.result(timeout=20) == "mended!"


@pytest.mark.limit(90)
@pytest.mark.parametrize("cache_size", [None, 0])
async def test_a_poisoned_message_parks_its_workflow_alone(dsn: str, db: Database, cache_size: int | None) -> None:
    """It waits in the inbox of a workflow, until somebody mends or removes it."""
    async with Client(dsn) as client:
        async with serve(client):
            waiting = await client.workflow.start(listen, args=["key"], workflow_id="bad")
            await until(lambda: db.waits("bad"), "it waits")
        await client.signal("key", "poisoned below")
        db.rows("select hotmesh.route()")
        found = db.rows("update hotmesh_engine.inbox set payload = %s where kind = 5 returning 1", POISON)
        assert len(found) == 1
        async with serve(client, cache_size=cache_size):
            handles = await client.workflow.start_many([StartRequest(chain, [2]) for _ in range(200)])
            for handle in handles:
                assert await handle.result(timeout=60) == [0, 2]
            await until(lambda: db.rows(TROUBLE), "it is parked")
            ((workflow_id, code, _),) = db.rows(TROUBLE)
            assert (workflow_id, code) == ("bad", "HM003")
            db.rows("update hotmesh_engine.inbox set payload = '\"mended\"' where kind = 5 returning 1")
            db.rows("select hotmesh.resume('bad')")
            assert await waiting.result(timeout=20) == ["mended"]


@pytest.mark.limit(90)
async def test_a_poisoned_journal_parks_its_workflow_alone(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            waiting = await client.workflow.start(listen, args=["key", 2], workflow_id="bad")
            await client.signal("key", "one")
            await until(lambda: "signal_received" in db.events("bad") and db.parked("bad"), "it has one signal, and is parked")
        db.rows("update hotmesh_engine.journal set payload = %s where kind = 5 returning 1", POISON)
        await client.signal("key", "two")
        async with serve(client):
            assert await client.workflow.execute(chain, args=[3], timeout=20) == [0, 2, 4]
            await until(lambda: db.rows(TROUBLE), "it is parked")
            db.rows("update hotmesh_engine.journal set payload = '\"one\"' where kind = 5 returning 1")
            db.rows("select hotmesh.resume('bad')")
            assert await waiting.result(timeout=20) == ["one", "two"]


@pytest.mark.limit(90)
async def test_a_turn_that_is_refused_parks_the_culprit_alone(dsn: str, db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """What one run records is refused by the database: of the hundreds that shared its turn none is parked for a moment."""
    db.rows("alter table hotmesh_engine.outcome add constraint c check (payload::text is distinct from '\"poison!\"')")
    async with Client(dsn) as client:
        requests = [StartRequest(shout, [str(i)]) for i in range(200)]
        requests.insert(100, StartRequest(shout, ["poison"], workflow_id="bad"))
        handles = await client.workflow.start_many(requests)
        bad = handles.pop(100)
        async with serve(client):
            assert [await handle.result(timeout=60) for handle in handles] == [f"{i}!" for i in range(200)]
            await until(lambda: db.rows(TROUBLE), "it is parked")
            ((workflow_id, code, _),) = db.rows(TROUBLE)
            assert (workflow_id, code) == ("bad", "23514")
            parked = [m for _, _, m in caplog.record_tuples if "is parked" in m]
            assert parked
            assert all("workflow bad is parked" in m for m in parked)
            db.rows("alter table hotmesh_engine.outcome drop constraint c")
            db.rows("select hotmesh.resume('bad')")
            assert await bad.result(timeout=20) == "poison!"


@pytest.mark.limit(90)
async def test_a_worker_whose_turn_is_refused_holds_no_other_up(dsn: str, db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """What is to blame goes from worker to worker, is refused by each that has it, and is in nobody's way."""
    db.rows("alter table hotmesh_engine.outcome add constraint c check (payload::text is distinct from '\"poison!\"')")
    async with Client(dsn) as client, serve(client, name="one"), serve(client, name="two"):
        times, done = "select times from hotmesh_engine.trouble", 0
        for refused in (1, 2, 3):
            requests = [StartRequest(shout, [str(n)]) for n in range(20)]
            requests[10:10] = [StartRequest(shout, ["poison"], workflow_id="bad")] * (refused == 1)
            handles = await client.workflow.start_many(requests)
            if refused == 1:
                bad = handles.pop(10)
            await until(lambda refused=refused: db.rows(times) and db.value(times) >= refused, "it is parked")
            assert [await handle.result(timeout=20) for handle in handles] == [f"{n}!" for n in range(20)]
            done += 20
            db.skip("1 minute")
        assert [row[0] for row in db.rows(TROUBLE)] == ["bad"]
        events = "select count(*) from hotmesh.history where event = 'activity_completed' and workflow_id <> 'bad'"
        assert db.value(events) == done, "nothing is recorded twice, or not at all"
        assert all("workflow bad is parked" in m for _, _, m in caplog.record_tuples if "is parked" in m)
        db.rows("alter table hotmesh_engine.outcome drop constraint c")
        db.skip("10 minutes")
        assert await bad.result(timeout=20) == "poison!"


# ------------------------------------------------------ what fails in the engine, for whoever meets it --


async def all_good(client: Client, bad: str, n: int = 500) -> None:
    """n workflows that begin and end beside what is poisoned."""
    handles = await client.workflow.start_many([StartRequest(shout, [str(i)]) for i in range(n)])
    assert [await handle.result(timeout=60) for handle in handles] == [f"{i}!" for i in range(n)]
    assert db_trouble(await client.workflow.list(status="troubled", limit=10), bad) == []


def db_trouble(rows: list[dict[str, object]], bad: str) -> list[object]:
    """Workflows in trouble but the poisoned one."""
    return [row["workflow_id"] for row in rows if row["workflow_id"] != bad]


@pytest.mark.limit(90)
async def test_a_run_that_cannot_be_leased_is_quarantined_alone(dsn: str, db: Database) -> None:
    """Its fence cannot grow: each claim that meets it fails, for every worker."""
    async with Client(dsn) as client:
        bad = await client.workflow.start(shout, args=["x"], workflow_id="bad")
        db.rows("update hotmesh_engine.live set fence = 2147483647 returning 1")
        async with serve(client, name="one"), serve(client, name="two"):
            await all_good(client, "bad")
            assert db.status("bad") == "quarantined"
            ((workflow_id, code, message),) = db.rows(TROUBLE)
            assert (workflow_id, code) == ("bad", "22003")
            assert message == "it cannot be leased: integer out of range"
            db.rows("update hotmesh_engine.live set fence = 7 where run_id = %s returning 1", bad.run_id)
            assert db.value("select hotmesh.resume('bad')")
            assert await bad.result(timeout=20) == "x!"


@pytest.mark.limit(90)
async def test_a_task_that_cannot_be_leased_is_quarantined_alone(dsn: str, db: Database) -> None:
    async with Client(dsn) as client, serve(client):
        bad = await client.workflow.start(fan, args=[2, "helpers"], workflow_id="bad")
        await until(lambda: db.value("select count(*) from hotmesh.activities") == 2, "its activities wait for a helper")
        db.rows("update hotmesh_engine.activity_task set attempt = 2147483647 where command = 2 returning 1")
        async with serve(client, task_queue="helpers", workflows=[]):
            good = await client.workflow.start_many([StartRequest(fan, [5, "helpers"]) for _ in range(20)])
            assert [await handle.result(timeout=60) for handle in good] == [[0, 2, 4, 6, 8]] * 20
            await until(lambda: db.rows(TROUBLE), "it is set aside")
            ((workflow_id, code, message),) = db.rows(TROUBLE)
            assert (workflow_id, code) == ("bad", "22003")
            assert message == "its activity 2 cannot be leased: integer out of range"
            assert message in [t for (t,) in db.rows("select trouble from hotmesh.waiting where workflow_id = 'bad'")]
            db.rows("update hotmesh_engine.activity_task set attempt = 0 where command = 2 returning 1")
            assert db.value("select hotmesh.resume('bad')")
            assert await bad.result(timeout=20) == [0, 2]


@pytest.mark.limit(90)
async def test_a_signal_that_cannot_be_delivered_is_listed_alone(dsn: str, db: Database) -> None:
    """Routing fails on it, in every turn of every worker; nobody is parked for it."""
    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            waiting = await client.workflow.start(listen, args=["key", 2], workflow_id="w")
            other = await client.workflow.start(listen, args=["other"], workflow_id="o")
            await until(lambda: db.parked("w", "o"), "they wait")
        db.rows("alter table hotmesh_engine.inbox add constraint poison check (payload::text <> '\"poison\"')")
        for key, payload in [("other", "1"), ("key", '"poison"'), ("key", '"fine"')]:
            db.rows("select hotmesh.signal(%s, %s)", key, payload)
        async with serve(client, name="one"), serve(client, name="two"):
            await all_good(client, "")
            assert await other.result(timeout=20) == [1]
            await until(lambda: "signal_received" in db.events("w"), "what came after it is delivered")
            assert db.rows(TROUBLE) == []
            ((signal_id, payload, trouble),) = db.rows("select signal_id, payload, trouble from hotmesh.signals")
            assert (signal_id, payload) == ("key", "poison") and "poison" in trouble
            db.rows("alter table hotmesh_engine.inbox drop constraint poison")
            assert db.value("select hotmesh.redeliver('key')") == 1
            assert await waiting.result(timeout=20) == ["fine", "poison"]


@pytest.mark.limit(90)
async def test_an_interrupt_that_cannot_be_carried_out_is_listed_alone(dsn: str, db: Database) -> None:
    async with Client(dsn) as client:
        async with serve(client, cache_size=0):
            bad = await client.workflow.start(listen, args=["key"], workflow_id="bad")
            await until(lambda: db.parked("bad"), "it waits")
        db.rows("update hotmesh_engine.run set retention = '300000 years' where run_id = %s returning 1", bad.run_id)
        with psycopg.connect(dsn, autocommit=True) as conn:  # as it stands when the router that came for it has failed
            conn.execute(
                "insert into hotmesh_engine.inbox (inbox_id, run_id, kind, payload) values (1000000, %s, 101, '{}')",
                (bad.run_id,),
            )
            conn.execute("insert into hotmesh_engine.unrouted (id, kind, run_id) values (1000000, 3, %s)", (bad.run_id,))
        async with serve(client):
            await all_good(client, "bad", 50)
            assert db.rows("select code, reason from hotmesh_engine.undelivered") == [("22008", "timestamp out of range")]
            assert db.rows("select waits_for, trouble from hotmesh.waiting") == [("signal", "timestamp out of range")]


async def test_a_run_that_cannot_be_closed_does_not_stop_the_duties(dsn: str, db: Database) -> None:
    """Its execution timeout has passed, as have those of its neighbours."""
    async with Client(dsn) as client, serve(client):
        handles = [
            await client.workflow.start(listen, args=["never"], workflow_id=f"w{i}", execution_timeout="1 hour") for i in range(9)
        ]
        await until(lambda: all(db.waits(f"w{i}") for i in range(9)), "all wait")
        db.rows("update hotmesh_engine.run set retention = '300000 years' where workflow_id = 'w4'")
        db.skip("2 hours")
        for handle in [*handles[:4], *handles[5:]]:
            with pytest.raises(TimeoutError, match="execution timeout"):
                await handle.result(timeout=20)
        await until(lambda: db.rows(TROUBLE), "it is set aside")
        assert db.rows(TROUBLE) == [("w4", "22008", "it cannot be closed: timestamp out of range")]


@pytest.mark.limit(60)
@pytest.mark.parametrize("code", ["40001", "55P03", "53100", "57014"])
async def test_what_is_nobodys_fault_parks_nobody(dsn: str, db: Database, code: str) -> None:
    """A full disk, a lock, a server that has become a standby: whatever a turn meets for a while, it is repeated whole."""
    db.rows("create sequence refused")
    db.rows(f"""
        create function refuse() returns trigger language plpgsql as $$ begin
          if nextval('public.refused') <= 3 then raise exception using errcode = '{code}', message = 'not now'; end if;
          return new;
        end $$""")
    db.rows("create trigger refuse before insert on hotmesh_engine.outcome for each row execute function refuse()")
    async with Client(dsn) as client, serve(client):
        handles = await client.workflow.start_many([StartRequest(chain, [2]) for _ in range(20)])
        for handle in handles:
            assert await handle.result(timeout=20) == [0, 2]
        assert db.rows(TROUBLE) == []
        assert db.value("select last_value from refused") > 3
    assert db.value("select count(*) from hotmesh.history where event = 'activity_completed'") == 40
