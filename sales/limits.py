"""How long things may take, and how much there may be, in one worker. `tests.unit.sales.test_limits` adds up.

Times are in seconds. Those of the processes and of HTTP are in `flashsale_project.serving.limits`.
"""

# --- housekeeping

TICK = 0.5
"""Between two rounds of housekeeping: what other workers did is known after one of them."""

SWEEP_INTERVAL = 1.0
"""At least between two sweeps of a sale by one worker."""

ROTATION_MARGIN = 2.0
"""Before the end of the last known sale when the next one must exist at the latest."""

# --- questions

LOOK_INTERVAL = 0.05
"""At least between two looks at the database for those who ask for the counts of a sale."""

LOOK_TIMEOUT = 1.0
"""For which they wait for it at most, before they get the counts as this worker knows them."""

# --- calls

MAX_USER_ID = 2**63 - 1

CHECKOUT_PATIENCE = 3.0
"""For which a checkout may wait for its batch. A purchase waits for as long as its hold lasts."""

MAX_STALE = 20
"""How often a hold may fail because other workers were faster, before its caller is told ``overloaded``."""

MAX_PENDING = 10_000
"""Calls of one kind that may wait in a worker before more are refused."""

MAX_PURCHASES = 2_000
"""Purchases under way above which nothing more is held. What cannot be bought in time helps nobody."""

MAX_BATCH = 1_000
"""Operations saved in one statement."""

MAX_DEADLOCKS = 3
"""How often a batch is saved again that the database refused because it and another waited for each other."""

LOAD_CHUNK = 10_000
"""Items that are read at once when a sale is loaded: rows take ten times what is remembered of them."""

SWEEP_BATCH = 5_000
"""Holds that are over and are swept in one statement of housekeeping."""

MARK_BATCH = 2_000
"""Purchases whose checkouts are marked in one round of housekeeping."""

MAX_UNMARKED = 20_000
"""Purchases whose checkouts may wait in a worker for a calm moment to be marked."""

SETTLE_TRIES = 5
"""How often those who are at a hold that is over are looked for, before its buyer is told to try again."""

SETTLE_PAUSE = 0.05
"""Between two of these looks."""

WHY_TIMEOUT = 4.5
"""For which a batch that is saved asks why some of it were not done."""


def max_unused(user_limit: int) -> int:
    """Holds of a sale that one user may let expire or give back.

    Each leaves a row, or two, for ever. Nobody who wants to buy comes near it; it is counted by what a
    worker has seen, so with several of them, or after a restart, it may be more.
    """
    return 100 + 10 * user_limit


# --- the database

CONNECTIONS = 8
"""At most so many for each worker: a batch of each kind for two sales, and some reads."""

CONNECT_TIMEOUT = 2.0
"""For which a batch waits for a connection before its members are told that there is none."""

STATEMENT_TIMEOUT = 3.0
"""For which a connection may be used for one batch or read before it is given up as lost."""

BULK_TIMEOUT = 60.0
"""The same for what goes through all rows of a sale, or of all sales."""

SAVE_TIMEOUT = 15.0
"""After which the saving of a batch is cancelled, should all the limits above fail."""
