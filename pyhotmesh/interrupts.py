"""KeyboardInterrupt: Ctrl-C, which is the process's, or raised by code that a worker runs, and then that code's failure."""

from __future__ import annotations

import functools
import signal
import threading


def is_ctrl_c(error: BaseException) -> bool:
    """Whether a signal raised it, in the midst of whatever code ran then.

    A handler written in Python (asyncio.run's, which raises for the second Ctrl-C) is seen in the traceback. Those of
    loops (`run_forever` installs one) raise nothing. Python's own, which is there if a loop is run by other means,
    leaves no trace: then each one that is raised in the main thread counts.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not code:
        trace = trace.tb_next
    return trace is not None
