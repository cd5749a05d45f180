"""A workflow id that is freed, or taken anew, between a start's attempt to have it and its look at who has it.

Triggers hold the start before and after each of its attempts, until the test lets it go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.reliability.engine import Hand, start
from tests.reliability.kit import Database

PAUSES = """
create sequence hotmesh_engine.pauses;
create function hotmesh_engine.pause() returns trigger language plpgsql as $$
begin
  if current_setting('application_name') = 'starter' then
    perform pg_advisory_xact_lock_shared(77, nextval('hotmesh_engine.pauses')::int);
  end if;
  return null;
end $$;
create trigger b before insert on hotmesh_engine.open_id for each statement execute function hotmesh_engine.pause();
create trigger a after insert on hotmesh_engine.open_id for each statement execute function hotmesh_engine.pause();
"""
CALL = (
    "select run_id, started from hotmesh_engine.start('default', %s, %s, %s, %s::json[],"
    " array(select gen_random_uuid() from generate_series(1, %s)), p_on_conflict => %s, p_reuse => %s)"
)


class Starter:
    """A start on a connection of its own, stepped from pause to pause: one before and one after each attempt. One of
    several ids begins with an attempt that fails whole, and so has but the first; one of a single id with one more."""

    def __init__(self, db: Database) -> None:
        db.rows(PAUSES)
        self.db = db
        self.conn = psycopg.connect(db.dsn, autocommit=True, application_name="starter")
        self.found: list[Any] = []
        self.at = 0

    def begin(self, *ids: str, conflict: str = "fail", reuse: str = "allow_duplicate") -> None:
        self.db.rows("select pg_advisory_lock(77, n) from generate_series(1, 20) n")

        def call() -> None:
            try:
                n = len(ids)
                params = ["t"] * n, list(ids), ["q"] * n, ["[]"] * n, n, conflict, reuse
                self.found.extend(self.conn.execute(CALL.encode(), params).fetchall())
            except psycopg.Error as error:
                self.found.append(error.sqlstate)

        self.thread = threading.Thread(target=call)
        self.thread.start()

    def until(self, pause: int) -> None:
        """Lets it go on to this pause."""
        while self.at < pause:
            if self.at:
                self.db.rows("select pg_advisory_unlock(77, %s)", self.at)
            self.at += 1
            while self.db.value("select last_value from hotmesh_engine.pauses") < self.at or not self.db.waits_for_a_lock(
                self.conn
            ):
                assert self.thread.is_alive(), f"it has ended before pause {self.at}: {self.found}"

    def ends(self) -> list[Any]:
        self.db.rows("select pg_advisory_unlock_all()")
        self.thread.join()
        return self.found


@pytest.fixture
def starter(db: Database) -> Iterator[Starter]:
    made = Starter(db)
    yield made
    made.conn.close()


@pytest.fixture
def closes(db: Database) -> Callable[[int], None]:
    """Closes an open run, as its worker does."""
    worker = Hand(db, 1)

    def close(run: int) -> None:
        assert worker.claim() == {run}
        assert worker.step(run, end=1)

    return close


def takes(db: Database, workflow_id: str) -> int:
    """The run that has this id from now on."""
    start(db, workflow_id)
    return int(db.value("select run_id from hotmesh_engine.open_id where workflow_id = %s", workflow_id))


def opened(db: Database) -> list[tuple[str, int]]:
    return db.rows("select workflow_id, run_id from hotmesh_engine.open_id order by 1")


LOOKS = {"allow_duplicate": 5, "reject_duplicate": 2}  # the pause after which a start of one id looks who has it


@pytest.mark.parametrize("conflict", ["fail", "use_existing", "terminate_existing"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "pruned"])
@pytest.mark.parametrize("reuse", ["allow_duplicate", "reject_duplicate"])
def test_an_id_that_is_freed_before_the_look_is_tried_again(
    db: Database, starter: Starter, closes: Callable[[int], None], conflict: str, kept: bool, reuse: str
) -> None:
    run = takes(db, "w")
    starter.begin("w", conflict=conflict, reuse=reuse)
    starter.until(LOOKS[reuse])
    closes(run)
    if not kept:
        db.skip("8 days")
        assert db.value("select hotmesh.prune()") == 1
    found = starter.ends()
    if kept and reuse == "reject_duplicate":
        assert found == ["HM001"] and opened(db) == []
    else:
        ((new, started),) = found
        assert started and new != run and opened(db) == [("w", new)]


@pytest.mark.parametrize("conflict", ["fail", "use_existing", "terminate_existing"])
def test_an_id_that_is_taken_anew_before_the_look_is_judged_by_who_has_it(
    db: Database, starter: Starter, closes: Callable[[int], None], conflict: str
) -> None:
    run = takes(db, "w")
    starter.begin("w", conflict=conflict)
    starter.until(LOOKS["allow_duplicate"])
    closes(run)
    heir = takes(db, "w")
    found = starter.ends()
    if conflict == "fail":
        assert found == ["HM001"] and opened(db) == [("w", heir)]
    elif conflict == "use_existing":
        assert found == [(heir, False)] and opened(db) == [("w", heir)]
    else:
        ((new, started),) = found
        assert started and new != heir and opened(db) == [("w", new)]
        assert db.value("select status from hotmesh.workflows where run_id = %s", heir) == "interrupted"


def test_of_many_what_was_free_is_not_lost_when_what_has_been_freed_is_tried_again(
    db: Database, starter: Starter, closes: Callable[[int], None]
) -> None:
    run = takes(db, "b")
    starter.begin("a", "b", "c", conflict="use_existing")
    starter.until(3)
    closes(run)
    found = starter.ends()
    assert [started for _, started in found] == [True] * 3
    assert opened(db) == list(zip("abc", [new for new, _ in found], strict=True))


def test_an_id_that_is_freed_and_taken_before_each_attempt_is_given_up(
    db: Database, starter: Starter, closes: Callable[[int], None]
) -> None:
    """What it had of the others it gives back; the caller may try again."""
    run = takes(db, "b")
    starter.begin("a", "b")
    for attempt in range(3):
        starter.until(3 + 2 * attempt)
        closes(run)
        if attempt < 2:
            starter.until(4 + 2 * attempt)
            run = takes(db, "b")
    assert starter.ends() == ["HM007"]
    assert opened(db) == []
    assert db.value("select count(*) from hotmesh_engine.run") == 3
