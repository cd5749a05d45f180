"""Durable workflows for Python on nothing but PostgreSQL."""

__version__ = "0.1.0"

from . import activity, workflow
from .call import MeshCall
from .client import Client
from .data import Groups, MeshData, Page, Record, SyncMeshData
from .errors import (
    ActivityError,
    ApplicationError,
    CallFailed,
    HotMeshError,
    InvalidDuration,
    InvalidQuery,
    InvalidSchedule,
    NonDeterminismError,
    NotConnected,
    OutcomeUnknown,
    PayloadError,
    RecordError,
    ScheduleNotFound,
    SchemaVersionError,
    TimeoutError,
    WorkflowAlreadyStarted,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowInterrupted,
    WorkflowNotFound,
    WrongLoop,
)
from .handle import Handle
from .ids import guid
from .retry import RetryPolicy
from .schedule import ScheduleHandle
from .search import Boolean, Numeric, Schema, Tag, Text, Timestamp
from .starts import StartRequest
from .sync import SyncClient, SyncHandle, SyncMeshCall, SyncScheduleHandle
from .worker import Worker

__all__ = [
    "ActivityError",
    "ApplicationError",
    "Boolean",
    "CallFailed",
    "Client",
    "Groups",
    "Handle",
    "HotMeshError",
    "InvalidDuration",
    "InvalidQuery",
    "InvalidSchedule",
    "MeshCall",
    "MeshData",
    "NonDeterminismError",
    "NotConnected",
    "Numeric",
    "OutcomeUnknown",
    "Page",
    "PayloadError",
    "Record",
    "RecordError",
    "RetryPolicy",
    "ScheduleHandle",
    "ScheduleNotFound",
    "Schema",
    "SchemaVersionError",
    "StartRequest",
    "SyncClient",
    "SyncHandle",
    "SyncMeshCall",
    "SyncMeshData",
    "SyncScheduleHandle",
    "Tag",
    "Text",
    "TimeoutError",
    "Timestamp",
    "Worker",
    "WorkflowAlreadyStarted",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowInterrupted",
    "WorkflowNotFound",
    "WrongLoop",
    "__version__",
    "activity",
    "guid",
    "workflow",
]
