"""What `runsale` writes for people: lines that stay, and below them a status line."""

import contextlib
import os
import time
from typing import Any

from flashsale_project.logs import is_terminal

INTERVAL = 60.0
"""Seconds between two status lines where they stay, in a file or a pipe."""

WIDTH = 80
"""Columns of a terminal that does not tell."""


class Screen:
    """Writes to a stream; where nobody can read it any more, the sale goes on all the same.

    On a terminal the status line is one line, drawn again and again. The cursor waits at its beginning, so
    that whoever else writes to the terminal, as the log does, writes over it and not behind it. Anywhere
    else it is a line a minute.
    """

    def __init__(self, stream: Any, *, shows_status: bool = True) -> None:
        self._stream = stream
        self._is_terminal = is_terminal(stream)
        self._shows_status = shows_status
        self._due_at = time.monotonic()

    def say(self, text: str) -> None:
        """Write lines that stay."""
        self._write(f"{self._erase}{text}\n")

    def show_status(self, text: str) -> None:
        """Draw the status line; to be called once a second."""
        if not self._shows_status:
            return
        if self._is_terminal:
            self._write(f"{self._erase}{text[: self._width() - 1]}\r")
        elif (now := time.monotonic()) >= self._due_at:
            self._due_at = now + INTERVAL
            self._write(f"{text}\n")

    @property
    def _erase(self) -> str:
        return "\r\x1b[K" if self._is_terminal else ""

    def _width(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or WIDTH
        return WIDTH

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
