"""Kill, stop and cut things while workflows run, and count what was lost: `python -m bench.chaos`.

The tests in `tests/reliability` run the same scenarios with small numbers.
"""
