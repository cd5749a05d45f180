"""MeshData: workflows with a record each, that can be searched, aggregated and joined."""

from .blocking import SyncMeshData
from .mesh import MeshData
from .results import Groups, Page, Record

__all__ = ["Groups", "MeshData", "Page", "Record", "SyncMeshData"]
