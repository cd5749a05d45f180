"""Ids for workflows."""

from __future__ import annotations

import os
import time


def guid() -> str:
    """A time-ordered UUID (version 7, RFC 9562): neighbours in time share index pages."""
    return format_guid(guid_bytes())


def guid_bytes() -> bytes:
    """The same as its 16 bytes."""
    noise = bytearray(os.urandom(10))
    noise[0] = noise[0] & 0x0F | 0x70
    noise[2] = noise[2] & 0x3F | 0x80
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + noise


def format_guid(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
