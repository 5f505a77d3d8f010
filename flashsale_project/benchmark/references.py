"""Starts the applications of `reference_apps`, each in a process of its own."""

import http.client
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Self

from django.conf import settings

from flashsale_project.benchmark import processes, reference_apps
from flashsale_project.serving.listening import listen

START_SECONDS = 30.0
STOP_SECONDS = 10.0


class Reference:
    """One reference, ``bare``, ``open`` or ``stock``, with one worker. Use it with ``with``.

    Raises `RuntimeError` where it does not start.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            (sock,) = listen("127.0.0.1", 0, 1)
            with sock:
                self.port: int = sock.getsockname()[1]
                self._process = subprocess.Popen(
                    [sys.executable, "-m", reference_apps.__name__, self.name, str(sock.fileno())],
                    cwd=settings.BASE_DIR,
                    pass_fds=(sock.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # a Ctrl-C in the terminal is for the command alone
                )
            stack.callback(self._stop)
            self._wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def cpu_seconds(self) -> float:
        """CPU time of its process."""
        return processes.cpu_seconds(self._process.pid)

    def _wait(self) -> None:
        """Until it answers; its socket has been listening from the start."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                connection.request("POST", "/checkout?user_id=0&item_id=0")
                answer = connection.getresponse()
                answer.read()
                break
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"The reference {self.name} did not start.") from error
            finally:
                connection.close()
        if answer.status != reference_apps.PROBLEM["status"]:
            raise RuntimeError(f"The reference {self.name} answers {answer.status}.")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
