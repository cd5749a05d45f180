"""Durable workflows for Python on nothing but PostgreSQL."""

__version__ = "0.1.0"

from . import activity, workflow
from .call import MeshCall
from .client import Client
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
)
from .handle import Handle
from .ids import guid
from .retry import RetryPolicy
from .schedule import ScheduleHandle
from .starts import StartRequest
from .sync import SyncClient, SyncHandle, SyncScheduleHandle
from .worker import Worker

__all__ = [
    "ActivityError",
    "ApplicationError",
    "CallFailed",
    "Client",
    "Handle",
    "HotMeshError",
    "InvalidDuration",
    "InvalidQuery",
    "InvalidSchedule",
    "MeshCall",
    "NonDeterminismError",
    "NotConnected",
    "OutcomeUnknown",
    "PayloadError",
    "RecordError",
    "RetryPolicy",
    "ScheduleHandle",
    "ScheduleNotFound",
    "SchemaVersionError",
    "StartRequest",
    "SyncClient",
    "SyncHandle",
    "SyncScheduleHandle",
    "TimeoutError",
    "Worker",
    "WorkflowAlreadyStarted",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowInterrupted",
    "WorkflowNotFound",
    "__version__",
    "activity",
    "guid",
    "workflow",
]
