"""The limits of serving, in one table: how long things may take, how large they may be, how many there are.

Times are in seconds, sizes in bytes. `tests/unit/serving/test_limits.py` adds up those that follow each
other.
"""

# --- the life of a worker

HEARTBEAT = 1.0
"""Between two heartbeats of a worker, and between two rounds in which the supervisor counts."""

READY_TIMEOUT = 60
"""For a new worker to serve before it is killed. Most of it is for loading very large sales."""

SILENCE_TIMEOUT = 15
"""Without a heartbeat before a worker is killed: its event loop is stuck, or it is stopped. What a healthy
one does at one go takes less, also on a busy machine: a sale of a million items takes two seconds."""

LASTING = 1.0
"""For which a worker must have served for its end to be no sign of a worker that cannot live.

Whoever kills worker after worker must not wait longer for each: a sale at its peak needs them all.
"""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Before the next start where workers end soon again and again: it doubles from start to start."""

# --- the end of a worker: step by step, and as long as the supervisor waits for all of it

DRAIN = 0.5
"""For which a stopping worker still takes connections and answers ``503 draining``, and then as long again
for those that it has taken."""

RETIRE = 6
"""For which a retiring worker waits for its connections to close: an idle one is kept for `KEEP_ALIVE`, and
there is a second to spare."""

ANSWERS_TIMEOUT = 10
"""That requests under way may take once the worker has stopped listening."""

STOP_TIMEOUT = 30
"""For workers to stop before they are killed. Each may take two times `DRAIN`, `ANSWERS_TIMEOUT`, and then
the time limit of a batch, for what was accepted and is not saved yet."""

RETIRE_TIMEOUT = 35
"""For a worker to retire before it is killed: the same, with `RETIRE` instead of `DRAIN`."""

# --- a connection

REQUEST_TIMEOUT = 15
"""That a request may take to arrive, and a new connection to send its first."""

KEEP_ALIVE = 5
"""That an idle connection is kept."""

WRITE_TIMEOUT = 30
"""That a client may leave its answers unread."""

LISTENING = 2
"""For which somebody who has closed their side is thought to listen for the answer to a question. Who has
left looks the same. What changes something is answered in any case."""

MAX_KEPT = 64 * 1024 * 1024
"""Of requests that a worker keeps of all its connections together: those that are still coming, those that
wait for their turn, and the bodies of those that are being answered."""

FREE = 4096
"""Of a connection that do not count: no ordinary request is refused for the sake of large ones."""

MAX_HOT = 4096
"""Of a request that the express lane looks at."""

# --- taking connections

BIND_TIMEOUT = 3.0
"""To wait for a port that is taken: the workers of a killed service need a moment to leave it."""

BACKLOG = 4096
"""Connections that may wait for a worker to accept them."""

AT_ONCE = 1000
"""Connections taken in one turn of the loop at most."""

ACCEPT_PAUSE = 1.0
"""Without new connections when the system has no room for one."""

MAX_CONNECTIONS = 10_000
"""How many a worker may have where nobody has counted its files; more are told that it is overloaded."""

SPARE_FILES = 200
"""Open files that are kept from connections, for all else that a process needs."""

MIN_FILES = SPARE_FILES + 100
"""Open files without which a worker could serve next to nobody."""

MAX_WORKERS = 32
"""Worker processes of one service: a slip of the keyboard must not start thousands."""

# --- a request

MAX_TARGET = 8192
"""Of a request's target."""

MAX_LINE = MAX_TARGET + 64
"""Of a request line."""

MAX_HEADERS = 64 * 1024
"""Of headers that a request may have."""

MAX_FIELDS = 128
"""Headers that a request may have, and trailers."""

MAX_BODY = 1024 * 1024
"""Of a body: no more than forms of the admin and small documents have one."""

MAX_EMPTY_LINES = 8
"""Empty lines before a request that are overlooked: some clients send one after a body."""

MAX_CHUNK_LINE = 256
"""Of the line that begins a chunk."""

MAX_EXTENSIONS = 4096
"""Of chunk extensions in a request. Nobody looks at them."""

MAX_TRAILERS = 8192
"""Of trailers. They are dropped: whoever took them for headers could be told anything."""
