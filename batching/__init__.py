"""Micro-batching for asyncio: many callers, few calls, an outcome for each."""

from batching.batcher import Batcher, BatcherOptions
from batching.exceptions import (
    BatchError,
    BatchTimeout,
    DuplicateKey,
    LoadFailed,
    NoResult,
    ProcessFailed,
    ProcessorStopped,
    QueueFull,
    SaveFailed,
    Undecided,
)
from batching.loader import DataLoader
from batching.metrics import BatchMetric, ProcessorStatistics, SentBy, Subscription
from batching.options import ProcessorOptions, lane_for_key
from batching.processor import KeyedProcessor

__all__ = [
    "BatchError",
    "BatchMetric",
    "BatchTimeout",
    "Batcher",
    "BatcherOptions",
    "DataLoader",
    "DuplicateKey",
    "KeyedProcessor",
    "LoadFailed",
    "NoResult",
    "ProcessFailed",
    "ProcessorOptions",
    "ProcessorStatistics",
    "ProcessorStopped",
    "QueueFull",
    "SaveFailed",
    "SentBy",
    "Subscription",
    "Undecided",
    "lane_for_key",
]
