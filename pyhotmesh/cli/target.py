"""`module:attribute`: how the command line names a worker."""

from __future__ import annotations

import importlib
import os
import sys
from operator import attrgetter

import click

from ..call import MeshCall
from ..worker import Worker


def load_worker(target: str) -> Worker:
    """The worker that MODULE:ATTRIBUTE names: a `Worker`, a `MeshCall` with connected functions, or a function
    that returns one of them.

    The current directory is searched for modules first, as with `python -m`.
    """
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise click.BadParameter(f"{target!r} should be MODULE:ATTRIBUTE, for example app:worker")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        raise click.BadParameter(f"there is no module {error.name!r} in {os.getcwd()} or installed") from None
    try:
        found = attrgetter(attribute)(module)
    except AttributeError:
        raise click.BadParameter(f"module {name!r} has no {attribute!r}") from None
    if not isinstance(found, Worker | MeshCall) and callable(found):
        found = found()
    if isinstance(found, MeshCall):
        found = found.worker()
    if not isinstance(found, Worker):
        raise click.BadParameter(
            f"{target} is {type(found).__name__}: it should be a Worker, a MeshCall, or a function that returns one"
        )
    return found
