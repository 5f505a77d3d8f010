"""What `runsale` writes, on a terminal and elsewhere."""

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator
from io import StringIO

import pytest

from flashsale_project.serving.screen import INTERVAL, Screen

ERASE = "\r\x1b[K"
END = b"\0"


class Terminal:
    """One end of a pseudoterminal, which can tell what was written to the other."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[1] &= ~termios.OPOST  # line ends as they were written
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        self.stream = os.fdopen(theirs, "w")

    def resize(self, columns: int) -> None:
        """As its user does with the window."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def written(self) -> str:
        """All since the last call. It may come in pieces, so that what comes last is our own."""
        os.write(self.stream.fileno(), END)
        written = b""
        while not written.endswith(END):
            written += os.read(self._ours, 65_536)
        return written.removesuffix(END).decode()

    def close(self) -> None:
        """End it."""
        self.stream.close()
        os.close(self._ours)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """One of 40 columns that can move its cursor."""
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    terminal.resize(40)
    yield terminal
    terminal.close()


def test_on_a_terminal_the_status_is_one_line_drawn_again(terminal: Terminal) -> None:
    screen = Screen(terminal.stream)
    for text in ("sold 1", "sold 2"):
        screen.show_status(text)
        assert terminal.written() == f"{ERASE}{text}\r"
    screen.say("Stopping")
    assert terminal.written() == f"{ERASE}Stopping\n"


@pytest.mark.parametrize(("columns", "shown"), [(40, 39), (20, 19), (1, 0), (200, 100), (0, 79)])
def test_the_status_never_needs_a_second_line(terminal: Terminal, columns: int, shown: int) -> None:
    screen = Screen(terminal.stream)
    terminal.resize(columns)
    screen.show_status("x" * 100)
    assert terminal.written() == f"{ERASE}{'x' * shown}\r"


def test_elsewhere_the_status_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("flashsale_project.serving.screen.time.monotonic", lambda: now)
    stream = StringIO()
    screen = Screen(stream)
    for second in range(int(3 * INTERVAL)):
        now = 1_000.0 + second
        screen.show_status(f"{second}")
    assert stream.getvalue() == "0\n60\n120\n"


def test_a_terminal_that_cannot_move_its_cursor_is_like_a_file(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen(terminal.stream)
    screen.show_status("sold 1")
    screen.show_status("sold 2")
    screen.say("Stopping")
    assert terminal.written() == "sold 1\nStopping\n"


def test_a_screen_may_show_no_status(terminal: Terminal) -> None:
    for stream in (terminal.stream, StringIO()):
        screen = Screen(stream, shows_status=False)
        screen.show_status("sold 1")
        screen.say("Stopping")
        if isinstance(stream, StringIO):
            assert stream.getvalue() == "Stopping\n"
        else:
            assert terminal.written() == f"{ERASE}Stopping\n"


def test_a_stream_that_takes_no_more_is_no_error() -> None:
    with open("/dev/full", "w") as full:
        screen = Screen(full)
        screen.say("one")
        screen.show_status("two")
        with pytest.raises(OSError, match="No space"):
            full.flush()
        with open(os.devnull, "w") as takes_all:
            os.dup2(takes_all.fileno(), full.fileno())  # so that it can be closed
