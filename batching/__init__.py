"""Keyed micro-batching for asyncio: many callers, one load and one save, an outcome for each."""

from batching.exceptions import (
    BatchError,
    BatchTimeout,
    LoadFailed,
    ProcessorStopped,
    QueueFull,
    SaveFailed,
)
from batching.metrics import BatchMetric, ProcessorStatistics, SentBy, Subscription
from batching.options import ProcessorOptions, lane_for_key
from batching.processor import KeyedProcessor

__all__ = [
    "BatchError",
    "BatchMetric",
    "BatchTimeout",
    "KeyedProcessor",
    "LoadFailed",
    "ProcessorOptions",
    "ProcessorStatistics",
    "ProcessorStopped",
    "QueueFull",
    "SaveFailed",
    "SentBy",
    "Subscription",
    "lane_for_key",
]
