"""Ids for workflows."""

from __future__ import annotations

import os
import time
from collections import deque

_BATCH = 256
_FREE = 0x0FFF_3FFF_FFFF_FFFF_FFFF  # the bits that are random; the others say: version 7, variant 2
_FIXED = 0x7000_8000_0000_0000_0000

# Random bits for the next ids: a system call for each took half of an id's time. A child process must not have those of
# its parent.
_noise: deque[int] = deque()
os.register_at_fork(after_in_child=_noise.clear)


def guid() -> str:
    """A time-ordered UUID (version 7, RFC 9562): neighbours in time share index pages."""
    return format_guid(guid_bytes())


def guid_bytes() -> bytes:
    """The same as its 16 bytes."""
    try:
        noise = _noise.popleft()
    except IndexError:
        drawn = os.urandom(10 * _BATCH)
        noise, *others = (int.from_bytes(drawn[at : at + 10]) & _FREE | _FIXED for at in range(0, len(drawn), 10))
        _noise.extend(others)
    return (time.time_ns() // 1_000_000 << 80 | noise).to_bytes(16)


def format_guid(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
