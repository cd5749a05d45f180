"""A directory with a user's module, and the command `hotmesh` run in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import APP, HotMesh


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def hotmesh(app: Path, dsn: str) -> Iterator[HotMesh]:
    command = HotMesh(app, dsn)
    yield command
    for process in command.processes:
        process.kill()
        process.communicate()
