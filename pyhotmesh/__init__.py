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
    NonDeterminismError,
    NotConnected,
    OutcomeUnknown,
    PayloadError,
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
from .starts import StartRequest
from .sync import SyncClient, SyncHandle
from .worker import Worker

__all__ = [
    "ActivityError",
    "ApplicationError",
    "CallFailed",
    "Client",
    "Handle",
    "HotMeshError",
    "InvalidDuration",
    "MeshCall",
    "NonDeterminismError",
    "NotConnected",
    "OutcomeUnknown",
    "PayloadError",
    "RetryPolicy",
    "SchemaVersionError",
    "StartRequest",
    "SyncClient",
    "SyncHandle",
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
