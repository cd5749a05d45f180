"""`python -m pyhotmesh.cli`: the command `hotmesh` of this very interpreter."""

from . import main

main(prog_name="hotmesh")
