"""`hotmesh demo`: workflows on a private PostgreSQL, and a worker killed in the middle.

`workflows` is what a user would write; `activities` fail half of the time; `show` runs it all and checks
every result.
"""
