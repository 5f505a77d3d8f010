"""What this service counts, for ``/metrics`` and the status line: prometheus_client in multi-process mode.

With ``PROMETHEUS_MULTIPROC_DIR`` in the environment every worker writes its own files there, and any
process can add them up; without it the figures are those of this process.
"""

import os

import prometheus_client
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_ANSWERS = prometheus_client.Counter(
    "flashsale_answers", "Answers to well-formed calls of the sale.", ["call", "outcome"]
)
BATCH_SIZE = Histogram(
    "flashsale_batch_size",
    "Operations saved in one batch.",
    ["kind"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
BATCH_SECONDS = Histogram(
    "flashsale_batch_seconds",
    "Seconds from a batch's first statement to its commit.",
    ["kind"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5),
)
STALE = prometheus_client.Counter("flashsale_stale", "Holds decided on a stale memory and decided again.")
ITEMS = Gauge("flashsale_items", "Items of the current sale.", ["state"], multiprocess_mode="livemostrecent")
DATABASE = Gauge(
    "flashsale_database_up", "Whether the database answers and takes writes.", multiprocess_mode="livemin"
)
SALE = Gauge("flashsale_sale", "Number of the current sale.", multiprocess_mode="livemostrecent")
SOLD_OUT = Gauge(
    "flashsale_sold_out_sale", "Number of the last sale that was sold out.", multiprocess_mode="mostrecent"
)
BROKEN = prometheus_client.Counter(
    "flashsale_broken_certificates", "Certificates written of sales that break an invariant.", ["sale"]
)

_counted: dict[str, dict[str, int]] = {}


def open_files() -> None:
    """Have every file opened that the figures of this process are kept in."""
    _ANSWERS.labels("checkout", "granted")
    for kind in ("checkout", "purchase", "release"):
        BATCH_SIZE.labels(kind)
        BATCH_SECONDS.labels(kind)
    for state in ("sold", "held", "available"):
        ITEMS.labels(state)


def count_answer(call: str, outcome: str) -> None:
    """Count one answer to this call: ``granted``, ``done``, or the reason of its refusal."""
    try:
        _counted[call][outcome] += 1
    except KeyError:  # the first one; a Counter of pairs takes three times as long for all others
        _counted.setdefault(call, {})[outcome] = 1


def flush_answers() -> None:
    """Hand on what was counted. A counter of prometheus_client costs more than most of our answers."""
    for call, outcomes in _counted.items():
        for outcome, count in outcomes.items():
            _ANSWERS.labels(call, outcome).inc(count)
    _counted.clear()


def registry() -> CollectorRegistry:
    """A registry that adds up all worker processes, or the one of this process."""
    if DIRECTORY_VARIABLE not in os.environ:
        return REGISTRY
    merged = CollectorRegistry()
    multiprocess.MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
    return merged


def exposition() -> bytes:
    """The metrics as Prometheus text. Reads files."""
    return generate_latest(registry())
