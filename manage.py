#!/usr/bin/env python
"""Django's command-line utility for administrative tasks."""

import os
import signal
import sys

OURS = ("flashsale_project", "sales", "batching")

ENVIRONMENT = """\
Error: {module} is not installed for {python}.
Activate the virtual environment that has it (. .venv/bin/activate), or make it first:
python3 -m venv .venv && . .venv/bin/activate && pip install -e ."""


def main() -> None:
    """Run administrative tasks. What people may have got wrong is told in a line or two, with exit code 1."""
    if sys.version_info < (3, 11):  # noqa: UP036  (this file may be run by any)
        version = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Error: Python 3.11 or newer is needed; {sys.executable} is {version}.")
    if sys.argv[1:2] == ["runsale"]:
        # It means "new workers"; as long as there are none yet, nothing: the default is to end.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this, which is no reason not to sell
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "flashsale_project.settings")
    try:
        _execute()
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
    except ModuleNotFoundError as error:
        if "--traceback" in sys.argv or not error.name or error.name.partition(".")[0] in OURS:
            raise
        sys.exit(ENVIRONMENT.format(module=error.name, python=sys.executable))


def _execute() -> None:
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import DatabaseError

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"Error: {error}")
    except DatabaseError as error:
        if "--traceback" in sys.argv:
            raise
        from sales.diagnosis import diagnose

        sys.exit(f"Error: {diagnose(error)}")


if __name__ == "__main__":
    main()
