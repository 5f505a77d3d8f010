"""What can go wrong in a batch, by what a caller can do about it.

BatchError
├── ProcessorStopped    go elsewhere: this processor accepts nothing more
├── QueueFull           come back later: nothing was queued
├── DuplicateKey        a job with this key is waiting: nothing was queued
├── LoadFailed          nothing was run; __cause__ says why
├── SaveFailed          it was run, but not saved; __cause__ says why
│   └── BatchTimeout    load and save took too long
├── ProcessFailed       the batch of this job raised; __cause__ says why
└── NoResult            the batch went well, and had no result for this job

Undecided is no error of a batch: an operation raises it to be run again in the next one.
"""


class BatchError(Exception):
    """Base class of all errors of this package."""


class Undecided(Exception):
    """What an operation is to do depends on what becomes of its batch: it is run again in the next one.

    Raised by the operation, or said by ``save`` of its result. The operation keeps its place before all
    that wait, and its caller notices nothing; how often it may happen is for the operation to bound. Where
    no operation before it has a result there is nothing to wait for, and it reaches the caller.
    """


class ProcessorStopped(BatchError):
    """The processor or batcher is not open: not started yet, stopping, stopped, or aborted."""


class QueueFull(BatchError):
    """``max_pending`` operations of this key, or jobs, are waiting. Nothing was queued."""


class LoadFailed(BatchError):
    """``load`` raised: no operation of the batch was run. The cause is chained."""


class SaveFailed(BatchError):
    """``save`` raised: the operations were run, their outcome was not saved. The cause is chained."""


class BatchTimeout(SaveFailed):
    """The batch took longer than ``max_duration``, or its save than ``save_timeout``, and was cancelled."""


class ProcessFailed(BatchError):
    """``process`` raised, or its results could not be told apart. The cause is chained."""


class NoResult(BatchError):
    """``process`` gave results for others, and none with the key of this job."""


class DuplicateKey(BatchError):
    """A job with the same key is waiting to be sent. Nothing was queued."""
