"""MeshData: workflows with a record each, that can be searched, aggregated and joined."""

from .blocking import SyncMeshData
from .mesh import MeshData
from .results import Page, Record

__all__ = ["MeshData", "Page", "Record", "SyncMeshData"]
