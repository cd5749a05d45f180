"""The demonstration: two worker processes, 500 greetings, a kill in the middle, and SQL about it all."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import Client, Handle, StartRequest, WorkflowNotFound, guid, migrate
from ..embedded import EmbeddedServer
from . import activities, workflows

QUEUE = "demo"
PATIENCE = 60.0  # seconds until the demonstration gives up
PROMISED = 30.0  # seconds that it takes at most, on a machine with nothing else to do
PLAIN = 5000  # workflows of the last part

TABLE = """
create table demo_log (
  at timestamptz not null default clock_timestamp(), workflow_id text not null, activity text not null,
  attempt int not null, worker text not null, succeeded boolean not null)
"""
STATES = "select workflow_type, status, count(*)\n  from hotmesh.workflows group by 1, 2 order by 1, 2"
ATTEMPTS = (
    "select activity, count(*) as attempts, count(*) filter (where succeeded) as succeeded, max(attempt) as most_for_one\n"
    "  from demo_log group by 1 order by 1"
)
WHO = (
    "select w.name as worker, w.status, count(*) as attempts, count(*) filter (where l.succeeded) as succeeded\n"
    "  from hotmesh.workers w join demo_log l on l.worker = w.name group by 1, 2 order by 1"
)
RECORDED = "select event, count(*) from hotmesh.history\n where event like 'activity%' group by 1"
OF_OTHERS = """
select count(*) from hotmesh.workflows f, (select worker_id from hotmesh.workers where name = 'B') b
 where f.workflow_type = 'example' and f.closed_at is null and f.worker_id is distinct from b.worker_id
   and not exists (select from hotmesh.activities a where a.run_id = f.run_id and a.worker_id = b.worker_id)
"""
OPEN = "select workflow_id, status, due_at from hotmesh.workflows\n where closed_at is null order by 1"


def run(count: int) -> int:
    """Runs it all with so many greetings and prints what happens; the exit code."""
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    began = time.perf_counter()
    before = signal.signal(signal.SIGTERM, _end)  # so that workers and server go as after Ctrl-C
    # A shell starts what a script leaves in the background with SIGINT ignored; `_end` needs it.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        console.print("[bold]pyhotmesh[/]: durable workflows on PostgreSQL\n")
        with EmbeddedServer() as server:
            migrate.upgrade(server.dsn)
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                conn.execute(TABLE)
                version = conn.execute("show server_version").fetchone()
                assert version is not None
                _say(console, f"PostgreSQL {version[0]} started and migrated in {time.perf_counter() - began:.1f} s")
                with Workers(server.dsn, ("A", "B")) as workers:
                    right = asyncio.run(Show(console, server.dsn, conn, workers, count).play())
                    if not right:
                        console.print(f"\nThe workers' log ends with:\n{workers.said()}", markup=False)
        console.print(f"\n{'[green]All results are right.' if right else '[bold red]Not all results are right.'}[/]")
        console.print(_took(time.perf_counter() - began))
        return 0 if right else 1
    except KeyboardInterrupt:
        console.print("\ninterrupted")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


def _took(seconds: float) -> str:
    """How long it all took: a promise too, but not one that a busy machine keeps."""
    said = f"The demonstration took {seconds:.1f} s"
    if seconds <= PROMISED:
        return f"{said}."
    return f"{said}, more than the {PROMISED:.0f} s that it takes at most on a machine with nothing else to do."


def _end(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)  # asyncio.run cancels what it runs, and raises KeyboardInterrupt


class Workers:
    """Worker processes by name; none outlives the block, nor this process."""

    def __init__(self, dsn: str, names: Sequence[str]) -> None:
        self._dsn = dsn
        self._names = names
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._pipe = os.pipe()

    def __enter__(self) -> Workers:
        read = str(self._pipe[0])
        command = [sys.executable, "-m", "pyhotmesh.cli", "worker", f"{workflows.__name__}:worker", "--until-eof", read]
        for name in self._names:
            env = {**os.environ, "HOTMESH_DATABASE_URL": self._dsn, activities.WORKER: name}
            self.processes[name] = subprocess.Popen(
                command, env=env, stdout=self._log, stderr=self._log, pass_fds=[self._pipe[0]], process_group=0
            )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(self._pipe[0])
        os.close(self._pipe[1])
        self._log.close()

    def kill(self, name: str) -> None:
        """SIGKILL: nothing of the process gets to say a word."""
        self.processes[name].kill()
        self.processes[name].wait()

    def dead(self) -> str | None:
        """What a worker that died by itself has said."""
        for process in self.processes.values():
            if process.poll() not in (None, -signal.SIGKILL):
                return self.said()
        return None

    def said(self) -> str:
        """The end of what the workers have logged. Read at a place: they write at the file's own."""
        log = self._log.fileno()
        return os.pread(log, 3000, max(0, os.fstat(log).st_size - 3000)).decode(errors="replace")


class Show:
    """One performance."""

    def __init__(
        self, console: Console, dsn: str, conn: psycopg.Connection[Any], workers: Workers, count: int
    ) -> None:  # fmt: skip
        self._console = console
        self._dsn = dsn
        self._conn = conn
        self._workers = workers
        self._count = count
        self._done = 0
        self._wrong: list[str] = []

    async def play(self) -> bool:
        """Whether everything came out right."""
        async with Client(self._dsn) as client:
            await self._await_workers()
            sleeper = await client.workflow.start(workflows.weekly, workflow_id="weekly-report", task_queue=QUEUE)
            await self._greetings(client)
            if self._done == self._count:
                await self._plain(client)
            self._report(sleeper)
        for line in self._wrong[:10]:
            _say(self._console, f"[bold red]wrong:[/] {line}")
        return not self._wrong

    async def _await_workers(self) -> None:
        began = time.monotonic()
        while self._value("select count(*) from hotmesh.workers") < 2:
            if (said := self._workers.dead()) is not None or time.monotonic() - began > PATIENCE:
                raise RuntimeError(f"the workers did not start: {said}")
            await asyncio.sleep(0.05)
        pids = ", ".join(f"{name} (process {p.pid})" for name, p in self._workers.processes.items())
        _say(self._console, f"two workers serve the task queue {QUEUE!r}: {pids}")

    # --------------------------------------------------------------------------- the greetings --

    async def _greetings(self, client: Client) -> None:
        names = [f"guest {i}" for i in range(1, self._count + 1)]
        began = time.perf_counter()
        handles = await client.workflow.start_many(
            [StartRequest(workflows.example, [name], task_queue=QUEUE, workflow_id=f"greet-{name[6:]}") for name in names]
        )
        took = time.perf_counter() - began
        _say(self._console, f"{self._count} workflows started in {took * 1000:.0f} ms; each greets in two languages at once,")
        _say(self._console, "by activities that fail half of the time\n")
        async with asyncio.TaskGroup() as waits:  # which ends them when this ends early
            for handle, name in zip(handles, names, strict=True):
                waits.create_task(self._check(handle, name))
            with _progress(self._console, self._count) as advance:
                await self._watch(client, advance)
        _say(self._console, f"\n{self._done} of {self._count} finished {time.perf_counter() - began:.1f} s after the start")

    async def _check(self, handle: Handle, name: str) -> None:
        try:
            result = await handle.result(timeout=PATIENCE)
        except Exception as error:
            self._wrong.append(f"{handle.workflow_id}: {error!r}")
            return
        if result != [f"Hello, {name}!", f"¡Hola, {name}!"]:
            self._wrong.append(f"{handle.workflow_id}: {result!r}")
        self._done += 1

    async def _watch(self, client: Client, advance: Any) -> None:
        """Follows the greetings; kills a worker in the middle; uses the lull until its lease ends."""
        killed_at: float | None = None
        shown = resumed = False
        last, moved_at = 0, time.monotonic()
        while self._done + len(self._wrong) < self._count:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            if self._done != last:
                last, moved_at = self._done, now
            advance(self._done)
            if killed_at is None and self._done >= self._count * 0.4:
                held = self._value(
                    "select sum(runs) || ' workflows and ' || sum(activities) || ' activities'"
                    " from hotmesh.workers where name = 'B'"
                )
                self._workers.kill("B")
                killed_at = now
                _say(self._console, f"[bold red]SIGKILL[/] for worker B, which held {held}. A goes on")
            elif killed_at is None or resumed:
                continue
            elif self._value("select status from hotmesh.workers where name = 'B'") == "dead":
                resumed = True
                _say(self._console, f"{now - killed_at:.1f} s after the kill: its lease has ended, A takes over what it held")
            elif not shown and now - moved_at > 0.3 and self._value(OF_OTHERS) == 0:
                shown = True
                _say(self._console, f"only what B held is left; until its lease of {workflows.LEASE:g} s ends, two other things:")
                await self._signals(client)
                self._sleeper()
        if not shown:
            await self._signals(client)
            self._sleeper()
        advance(self._done)

    # ------------------------------------------------------------------------------ other things --

    async def _signals(self, client: Client) -> None:
        first, second = f"first-{guid()}", f"second-{guid()}"
        handle = await client.workflow.start(workflows.collate, args=[first, second], workflow_id="two-signals", task_queue=QUEUE)
        await client.signal(second, {"I am": "the second signal, sent first"})
        await client.signal(first, {"I am": "the first signal, sent second"})
        result = await handle.result(timeout=10)
        if result != [{"I am": "the first signal, sent second"}, {"I am": "the second signal, sent first"}]:
            self._wrong.append(f"two signals: {result!r}")
        _say(self._console, "[magenta]two signals[/] for one workflow, sent in reverse order, arrive where they belong:")
        for value in result:
            _say(self._console, f"  {value}")

    def _sleeper(self) -> None:
        row = self._conn.execute(
            "select status, due_at from hotmesh.workflows where workflow_id = 'weekly-report'"
        ).fetchone()  # fmt: skip
        assert row is not None
        _say(self._console, f"[blue]a sleeping workflow[/] is a row that is due later: {row[0]}, due {row[1]:%Y-%m-%d %H:%M}")

    async def _plain(self, client: Client) -> None:
        """What the engine itself costs, on the one worker that is left."""
        began = time.perf_counter()
        await client.workflow.start_many(
            [StartRequest(workflows.no_steps, [i], task_queue=QUEUE) for i in range(PLAIN)]
        )  # fmt: skip
        started = time.perf_counter() - began
        finished = "select count(*) from hotmesh.workflows where workflow_type = 'no_steps' and result::text = (input -> 0)::text"
        while (done := self._value(finished)) < PLAIN and time.perf_counter() - began < PATIENCE:
            await asyncio.sleep(0.05)
        took = time.perf_counter() - began
        if done < PLAIN:
            self._wrong.append(f"{PLAIN - done} workflows without steps")
        _say(
            self._console,
            f"throughput: {PLAIN:,} workflows without activities in {took:.2f} s on the one worker left, "
            f"[bold]{PLAIN / took:,.0f} a second[/]\n(of which {started:.2f} s passed until they were started)\n",
        )

    # ------------------------------------------------------------------------------------ report --

    def _report(self, sleeper: Handle) -> None:
        if self._value("select status from hotmesh.workflows where run_id = %s", sleeper.run_id) != "waiting":
            self._wrong.append("the sleeping workflow does not wait")
        _say(self._console, "What SQL says:")
        for query in (STATES, ATTEMPTS, WHO, RECORDED, OPEN):
            self._query(query)
        done = self._value("select count(*) from demo_log where succeeded")
        recorded = self._value("select count(*) from hotmesh.history where event = 'activity_completed'")
        if recorded != 2 * self._count:
            self._wrong.append(f"{recorded} results of activities were recorded instead of {2 * self._count}")
        again = done - recorded
        _say(
            self._console,
            f"\nActivities succeeded {done:,} times, and {recorded:,} results were recorded, one for each call: "
            f"the other {again}\nran on the worker that was killed "
            "before it could record them, and ran again. At least once; one result.",
        )

    def _query(self, query: str) -> None:
        cursor = self._conn.execute(query.encode())
        rows, names = cursor.fetchall(), [column.name for column in cursor.description or ()]
        self._console.print(f"\n[dim]{query};[/]")
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for name, value in zip(names, rows[0] if rows else names, strict=True):
            table.add_column(name, justify="right" if isinstance(value, int) else "left")
        for row in rows:
            table.add_row(*(f"{v:%Y-%m-%d %H:%M}" if hasattr(v, "strftime") else str(v) for v in row))
        self._console.print(table)

    def _value(self, query: str, *params: Any) -> Any:
        row = self._conn.execute(query.encode(), params).fetchone()
        if row is None:
            raise WorkflowNotFound(f"nothing answers {query}")
        return row[0]


def _say(console: Console, text: str) -> None:
    console.print(text)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    """A bar in a terminal; elsewhere a line for each fifth. Yields what takes the number done."""
    if not console.is_terminal:
        told = 0

        def tell(done: int) -> None:
            nonlocal told
            if done * 5 // total > told:
                told = done * 5 // total
                console.print(f"  {done}/{total} finished")

        yield tell
        return
    columns = (SpinnerColumn(), TextColumn("greetings"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("greetings", total=total)
        yield lambda done: progress.update(task, completed=done)
