# Everything runs from a private virtual environment in .venv, which the first target makes.
# All it needs is make and a Python from 3.11 on with venv; no PostgreSQL, no privileges.

VENV   := .venv
BIN    := $(VENV)/bin
DEV    := $(VENV)/.dev
BENCH  := $(VENV)/.bench
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help demo test check bench chaos freeze clean

help:
	@echo "make demo    start a private PostgreSQL and run workflows on it, with a crash in the middle"
	@echo "make test    run the test suite"
	@echo "make check   run formatter, linter and type checker"
	@echo "make bench   measure against other engines"
	@echo "make chaos   kill and cut things for as long as you like"
	@echo "make freeze  copy sql/ into the newest migration (REV=0001) and rewrite sql/schema.snapshot"
	@echo "make clean   remove $(VENV)"

demo: $(DEV)
	$(BIN)/hotmesh demo

test: $(DEV)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict pyhotmesh

bench: $(BENCH)
	$(BIN)/python -m bench $(ARGS)

chaos: $(DEV)
	$(BIN)/python -m bench.chaos $(ARGS)

freeze: $(DEV)
	$(BIN)/python -m pyhotmesh.migrate freeze $(REV)

clean:
	rm -rf $(VENV)

# The newest Python that really starts (a version manager's shim may exist without one behind it)
# and that can make virtual environments.
$(BIN)/python:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3.14 python3 python; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    rm -rf $(VENV); exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "No Python from 3.11 on with venv was found (Debian: apt install python3-venv)." >&2; \
	echo "If there is one, name it: make PYTHON=/path/to/python3" >&2; \
	exit 1

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

$(BENCH): pyproject.toml $(DEV)
	$(BIN)/python -m pip install -q -e '.[bench]'
	@touch $@
