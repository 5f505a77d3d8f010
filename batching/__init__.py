"""Keyed micro-batching for asyncio: many callers, one load and one save, an outcome for each."""

from batching.exceptions import (
    BatchError,
    BatchTimeout,
    LoadFailed,
    ProcessorStopped,
    QueueFull,
    SaveFailed,
)
from batching.processor import KeyedProcessor

__all__ = [
    "BatchError",
    "BatchTimeout",
    "KeyedProcessor",
    "LoadFailed",
    "ProcessorStopped",
    "QueueFull",
    "SaveFailed",
]
