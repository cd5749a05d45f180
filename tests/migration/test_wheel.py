"""The built wheel brings all that a database needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest

from pyhotmesh import migrate

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(directory), str(CHECKOUT)], check=True)
    (built,) = directory.glob("*.whl")
    return built


def test_the_wheel_holds_sql_and_migrations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"pyhotmesh/_sql/{name}" for name in (*migrate.DOMAINS, "schema.snapshot")}
    expected |= {f"pyhotmesh/_migrations/{path.relative_to(migrate.MIGRATIONS)}" for path in migrate.FROZEN.glob("*/*.sql")}
    expected |= {"pyhotmesh/_migrations/env.py", "pyhotmesh/_migrations/catalog.sql", "pyhotmesh/py.typed"}
    assert expected <= names
    assert not [name for name in names if name.split("/")[0] not in ("pyhotmesh", wheel.name.split("-py3")[0] + ".dist-info")]


def test_the_installed_wheel_migrates_a_database(wheel: Path, empty_dsn: str, tmp_path: Path) -> None:
    # Its dependencies are those of this environment, but not the package of the checkout: of a
    # directory named in a .pth file, the .pth files in it do not count.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([str(python), "-c", ask], text=True).strip())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def hotmesh(*arguments: str) -> str:
        command = [
            str(python),
            "-c",
            "from pyhotmesh.cli import main; main()",
            "db",
            *arguments,
            "--dsn",
            empty_dsn,
        ]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [str(python), "-c", "import pyhotmesh; print(pyhotmesh.__file__)"]
    assert subprocess.check_output(where, cwd=tmp_path, env=environment, text=True).startswith(str(site))
    assert hotmesh("upgrade") == f"empty -> {migrate.head()}\n"
    assert hotmesh("check") == "The schema is as it should be.\n"
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute("select hotmesh.now() <= clock_timestamp()").fetchone() == (True,)
