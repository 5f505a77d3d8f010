"""The directory in which the workers of one service keep their figures while it runs."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def metrics_directory(data_dir: Path) -> Iterator[Path]:
    """Make a new directory in the data directory, and remove it at the end.

    Removes those of services that were killed too. A service keeps a lock on its own as long as it lives:
    a process id would not do, because in a container every service has the same. Raises `OSError`.
    """
    home = data_dir / "metrics"
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _open(home) as all_of_them:
            fcntl.flock(all_of_them, fcntl.LOCK_EX)  # what is made but not locked yet must not look abandoned
            for other in home.iterdir():
                # In use, or another account's: not ours to remove.
                with contextlib.suppress(OSError), _open(other) as abandoned:
                    fcntl.flock(abandoned, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(other, ignore_errors=True)
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home)))
            fcntl.flock(stack.enter_context(_open(directory)), fcntl.LOCK_EX)
        yield directory


@contextlib.contextmanager
def _open(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
