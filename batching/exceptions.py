"""What can go wrong in a batch, by what a caller can do about it.

BatchError
├── ProcessorStopped    go elsewhere: this processor accepts nothing more
├── QueueFull           come back later: nothing was queued
├── LoadFailed          nothing was run; __cause__ says why
└── SaveFailed          it was run, but not saved; __cause__ says why
    └── BatchTimeout    load and save together took longer than max_duration
"""


class BatchError(Exception):
    """Base class of all errors of this package."""


class ProcessorStopped(BatchError):
    """The processor is not open: not started yet, stopping, or stopped."""


class QueueFull(BatchError):
    """More than ``max_pending`` operations of this key are waiting. Nothing was queued."""


class LoadFailed(BatchError):
    """``load`` raised: no operation of the batch was run. The cause is chained."""


class SaveFailed(BatchError):
    """``save`` raised: the operations were run, their outcome was not saved. The cause is chained."""


class BatchTimeout(SaveFailed):
    """The batch took longer than ``max_duration`` seconds and was cancelled."""
