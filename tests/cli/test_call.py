"""`hotmesh call`, and `hotmesh worker` with a MeshCall."""

from __future__ import annotations

import json

from tests.cli.command import HotMesh, read_until

MESH = """
from pyhotmesh import MeshCall

mesh = MeshCall()

@mesh.connect("greet")
async def greet(name):
    if name == "nobody":
        raise ValueError("nobody is there")
    return f"Hello, {name}!"
"""


def test_a_topic_is_served_and_called(hotmesh: HotMesh) -> None:
    (hotmesh.directory / "mesh.py").write_text(MESH)
    assert "has not ended within 0.1 s" in hotmesh("call", "greet", "--arg", '"early"', "--timeout", "0.1", code=5)
    said = hotmesh("call", "pirce", "--timeout", "2", code=5)
    assert "Nobody serves topic 'pirce' in namespace 'default' now; waiting for somebody" in said
    worker = hotmesh.start("worker", "mesh:mesh")
    read_until(worker, "serves call:greet")
    assert hotmesh("call", "greet", "--arg", '"World"') == '"Hello, World!"\n'
    kept = ("--id", "k", "--ttl", "15 minutes")
    for name in ("Ada", "Bob"):
        said = hotmesh("call", "greet", "--arg", f'"{name}"', *kept, "--json")
        assert json.loads(said) == {"topic": "greet", "result": "Hello, Ada!"}
    assert "ValueError: nobody is there" in hotmesh("call", "greet", "--arg", '"nobody"', code=4)
    assert "--ttl needs --id" in hotmesh("call", "greet", "--ttl", "1 hour", code=2)
    worker.terminate()
    worker.communicate(timeout=20)
    assert worker.returncode == 0
