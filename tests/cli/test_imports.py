"""What a command does not need, it does not wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Each of them takes longer to import than the rest of the package, or not much less.
HEAVY = {"alembic", "croniter", "lark", "rich", "sqlalchemy"}


@pytest.mark.parametrize("module", ["pyhotmesh", "pyhotmesh.cli.workflow", "pyhotmesh.cli.call", "pyhotmesh.cli.worker"])
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    said = subprocess.check_output([sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"], text=True)
    assert HEAVY & set(said.split()) == set()
