"""The directory in which the workers of one service keep their figures while it runs."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flashsale_project.serving.exceptions import CannotStart
from sales.metrics import DIRECTORY_VARIABLE


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
def shared_metrics(data_dir: Path) -> Iterator[None]:
    """Make it the directory of this process, and of the workers that it starts. Raises `CannotStart`."""
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(metrics_directory(data_dir))
        except OSError as error:
            raise CannotStart(
                f"The data directory {data_dir} cannot be used: {error.strerror}. "
                "Let FLASHSALE_DATA_DIR name one that this account may write to."
            ) from error
        os.environ[DIRECTORY_VARIABLE] = str(directory)
        yield


@contextlib.contextmanager
def _open(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
