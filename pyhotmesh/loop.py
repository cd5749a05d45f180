# mypy: disable-error-code="override"
"""A deterministic asyncio event loop, one for each workflow run.

It has no clock, no selector and no threads: time stands still between events, and the only things
that move it are callbacks that workflow code made ready itself. ``run_ready`` runs until nothing is
ready; then the next event of the journal is delivered. Timers become commands.

asyncio keeps tasks and futures in sets, and sets order by hash, which is the memory address: the
tasks and futures here hash by the order of their creation, so that a replay cancels and completes
them in the same order.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio.events import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NoReturn

from .interrupts import is_ctrl_c

if TYPE_CHECKING:
    from .replay import Instance


class Handle:
    """A callback that is ready to run."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context | None) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class TimerHandle(Handle):
    """A callback that a durable timer makes ready."""

    __slots__ = ("due", "loop", "number")

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        loop: WorkflowLoop,
    ) -> None:
        super().__init__(callback, args, context)
        self.loop = loop
        self.due = 0  # µs
        self.number = 0  # of its command

    def cancel(self) -> None:
        if not self.is_cancelled:
            self.is_cancelled = True
            self.loop.instance.end(self.number)

    def when(self) -> float:
        return self.due / 1_000_000


class WorkflowTask(asyncio.Task[Any]):
    """A task that hashes by creation."""

    _index: int

    def __hash__(self) -> int:
        return self._index

    def __eq__(self, other: object) -> bool:
        return self is other


class WorkflowFuture(asyncio.Future[Any]):
    """A future that hashes by creation."""

    __slots__ = ("_index",)  # without a dictionary: each step makes one

    _index: int

    def __hash__(self) -> int:
        return self._index

    def __eq__(self, other: object) -> bool:
        return self is other


class DurableFuture(WorkflowFuture):
    """The outcome of a command. Cancelling it ends the command: nothing waits for it any more."""

    __slots__ = ()

    def cancel(self, msg: Any | None = None) -> bool:
        if super().cancel(msg):
            loop = self.get_loop()
            assert isinstance(loop, WorkflowLoop)
            loop.instance.end(self._index)
            return True
        return False


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(f"workflow code cannot {what}: its result would differ on replay. Do it in an activity.")


class WorkflowLoop(asyncio.AbstractEventLoop):
    """See the module's head."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._ready: deque[Handle] = deque()
        # asyncio keeps the tasks of all loops in one set: the hashes of different runs must differ.
        self._created = (instance.info.run_id * 0x9E3779B97F4A7C15) & 0x0FFF_FFFF_FFFF_FFFF
        self._tasks: list[WorkflowTask] = []
        self._prune_at = 64

    # ------------------------------------------------------------------------------ running --

    def run_ready(self) -> None:
        """Runs until nothing is ready."""
        ready = self._ready
        before = _get_running_loop()
        _set_running_loop(self)
        try:
            while ready:
                handle = ready.popleft()
                if not handle.is_cancelled:
                    context = handle.context
                    try:
                        if context is None:
                            handle.callback(*handle.args)
                        else:
                            context.run(handle.callback, *handle.args)
                    except (SystemExit, KeyboardInterrupt) as error:
                        # Its task has it as its outcome; asyncio raises it once more to end the process. But it is
                        # the workflow that has ended, not the worker.
                        if is_ctrl_c(error):
                            raise
        finally:
            _set_running_loop(before)

    def close_tasks(self) -> None:
        """Ends what still waits, so that ``finally`` blocks run; what they ask for is ignored."""
        if not self._tasks:
            return
        before = _get_running_loop()
        _set_running_loop(self)
        try:
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    try:
                        task.get_coro().close()
                    except BaseException as error:  # it awaits in a finally block, in vain, or raises there
                        if is_ctrl_c(error):
                            raise
        finally:
            _set_running_loop(before)
        self._ready.clear()

    # --------------------------------------------------------------- what asyncio needs of a loop --

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None) -> Handle:
        handle = Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Any:
        return self._timer(round(delay * 1_000_000), callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Any:
        return self._timer(round(when * 1_000_000) - self.instance.now, callback, args, context)

    def _timer(
        self,
        delay: int,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> Handle:
        if delay <= 0:
            return self.call_soon(callback, *args, context=context)
        handle = TimerHandle(callback, args, context, self)
        self.instance.start_timer(delay, handle)
        return handle

    def time(self) -> float:
        return self.instance.now / 1_000_000

    def create_future(self) -> WorkflowFuture:
        future = WorkflowFuture(loop=self)
        self._created += 1
        future._index = self._created
        return future

    def create_task(
        self, coro: Any, *, name: object = None, context: contextvars.Context | None = None, **kwargs: Any
    ) -> WorkflowTask:
        self._created += 1
        index = self._created
        WorkflowTask._index = index  # the weak set of all tasks hashes it while it is being made
        task = WorkflowTask(coro, loop=self, name=str(name or "workflow"), context=context, **kwargs)
        task._index = index
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = [t for t in self._tasks if not t.done()]
            self._prune_at = max(64, 2 * len(self._tasks))
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A failure that nobody retrieved: the workflow did not want it."""

    def get_task_factory(self) -> None:
        return None

    async def shutdown_asyncgens(self) -> None:
        return None

    # ----------------------------------------------------------------------------- not here --

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        _refuse("use threads")

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        _refuse("use threads")

    def run_until_complete(self, future: Generator[Any, None, Any] | Any) -> Any:
        _refuse("run an event loop of its own")

    def run_forever(self) -> None:
        _refuse("run an event loop of its own")

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("open connections")

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("open connections")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("open connections")

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("open connections")

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("use the network")

    async def getnameinfo(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("use the network")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("start processes")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        _refuse("start processes")

    def add_reader(self, *args: Any) -> Any:
        _refuse("do I/O")

    def add_writer(self, *args: Any) -> Any:
        _refuse("do I/O")

    def add_signal_handler(self, *args: Any) -> Any:
        _refuse("handle signals")
