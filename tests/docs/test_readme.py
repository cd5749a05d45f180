"""The README: every snippet runs, in the order in which it stands, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# What sets up the machine: the tests run in its result.
SETS_UP = ("pip install ", "make ", "export HOTMESH_DATABASE_URL=")


class Snippet(NamedTuple):
    language: str
    text: str


def snippets(*languages: str) -> list[Snippet]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    return [Snippet(*each) for each in found if not languages or each[0] in languages]


def lines_of_shell() -> list[str]:
    return [line for snippet in snippets("sh") for line in snippet.text.splitlines()]


def test_each_snippet_is_of_a_kind_that_is_tested() -> None:
    assert {snippet.language for snippet in snippets()} <= {"sh", "python", "text", "sql"}


@pytest.mark.parametrize("page", ["README.md", "sql/README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_targets_of_make_exist() -> None:
    rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [line.split()[1] for line in lines_of_shell() if line.startswith("make ")]
    assert wanted
    assert set(wanted) <= set(rules)


def test_the_snippets_do_what_they_say(empty_dsn: str, tmp_path: Path) -> None:
    for snippet in snippets("python"):
        name = re.match(r"# (\w+\.py)\n", snippet.text)
        assert name is not None, f"the first line should name the file: {snippet.text[:50]}"
        (tmp_path / name[1]).write_text(snippet.text)
    commands = [line for line in lines_of_shell() if not line.startswith(SETS_UP)]
    script = "\n".join(["set -eu", "trap 'kill $(jobs -p); wait' EXIT", *commands])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240,
        env={**os.environ, "HOTMESH_DATABASE_URL": empty_dsn, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert "workflow result count" in script
    for line in "".join(snippet.text for snippet in snippets("text")).splitlines():
        assert line in done.stdout.splitlines(), done.stdout + done.stderr
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        for snippet in snippets("sql"):
            for statement in re.sub(r"--.*", "", snippet.text).split(";"):
                if statement.strip():
                    conn.execute(statement.encode())
