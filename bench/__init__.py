"""Measurements of pyhotmesh beside other engines and the raw limits of the server: `make bench`."""
