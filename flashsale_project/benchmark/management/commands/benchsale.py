"""``manage.py benchsale``: measures the service, with what it needs to be believed."""

import json
import resource
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from flashsale_project.benchmark.chart import svg
from flashsale_project.benchmark.options import Options
from flashsale_project.benchmark.page import BEGIN, END, filled_in, has_marks
from flashsale_project.benchmark.report import text
from flashsale_project.benchmark.run import run
from flashsale_project.benchmark.wrk import is_installed
from flashsale_project.serving.limits import MAX_WORKERS, SPARE_FILES
from sales.parameters import whole_number

INTERRUPTED = 130
"""What shells call the exit code of a command that was ended by Ctrl-C."""


class Command(BaseCommand):
    """The exit code is 1 where a certificate does not hold, an answer is a failure or a connection breaks."""

    help = (
        "Measures the service on databases of its own: selling out, refusing, an open loop, and references "
        "on the same machine in the same run. It loads the machine for some minutes."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take what is to be measured, and where the figures go."""
        number = _number
        parser.add_argument("--lanes", type=_list_of(_lane), default="express,django", help="(%(default)s)")
        parser.add_argument(
            "--workers",
            type=_list_of(number),
            default="1,2",
            help="numbers of worker processes (%(default)s)",
        )
        parser.add_argument(
            "--connections",
            type=_list_of(number),
            default="128,1000,10000",
            help="numbers of connections (%(default)s); with the first of them everything is measured, "
            "with the others the sell-out and the refusals after it",
        )
        parser.add_argument("--runs", type=number, default=5, help="rounds of the race (%(default)s)")
        parser.add_argument(
            "--long",
            action="store_true",
            help="measure what a cost depends on, too: a million items, past sales, idle connections, "
            "workers (ten minutes more; needs wrk)",
        )
        parser.add_argument("--items", type=number, default=10_000, help="items of a sale (%(default)s)")
        parser.add_argument(
            "--seconds", type=number, default=2, help="length of a phase that is cut off (%(default)s)"
        )
        parser.add_argument(
            "--rate", type=number, default=2000, help="requests/s of the open loop (%(default)s)"
        )
        parser.add_argument(
            "--client",
            choices=["wrk", "builtin"],
            default="wrk" if is_installed() else "builtin",
            help="what sends the random requests (%(default)s)",
        )
        parser.add_argument(
            "--references",
            action=BooleanOptionalAction,
            default=True,
            help="measure the least and the usual of the same uvicorn, and the database alone, too",
        )
        _add_outputs(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Measure and print. Raises `CommandError` where anything failed, or was interrupted."""
        wanted = self._options(options)
        quiet = options["verbosity"] == 0 or options["json"] == "-"
        terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            results = run(wanted, _say_nothing if quiet else self._say)
        except RuntimeError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted; everything was stopped.", returncode=INTERRUPTED) from None
        finally:
            signal.signal(signal.SIGTERM, terminate)
        document = json.dumps(asdict(results), indent=1)
        if options["json"] == "-":
            self.stdout.write(document)
        else:
            self.stdout.write("\n" + text(results))
            if options["json"]:
                Path(options["json"]).write_text(document + "\n")
        if options["page"]:
            options["page"].write_text(filled_in(options["page"].read_text(), results))
        if options["svg"]:
            options["svg"].write_text(svg(results))
        if not results.ok:
            raise CommandError("The run FAILED: its figures are not to be believed.")

    def _say(self, text: str) -> None:
        self.stdout.write(f"… {text}")
        self.stdout.flush()

    @staticmethod
    def _options(options: dict[str, Any]) -> Options:
        wanted = Options(**{name: options[name] for name in Options.__dataclass_fields__})
        if sys.platform != "linux":
            raise CommandError("benchsale asks what processes share of their memory: it needs Linux.")
        if max(wanted.workers) > MAX_WORKERS:
            raise CommandError(f"--workers must be at most {MAX_WORKERS}.")
        if wanted.client == "wrk" and not is_installed():
            raise CommandError("wrk is not installed; --client builtin needs nothing.")
        if wanted.long and wanted.client != "wrk":
            raise CommandError("--long needs wrk: it asks for some of a million items.")
        page = options["page"]
        if page is not None and not (page.is_file() and has_marks(page.read_text())):
            raise CommandError(f"{page} has no place for the tables, from {BEGIN} to {END}.")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and max(wanted.connections) + SPARE_FILES > most:
            raise CommandError(
                f"--connections {max(wanted.connections)} needs more open files than the {most} that "
                "this system allows (ulimit -Hn)."
            )
        return wanted


def _add_outputs(parser: ArgumentParser) -> None:
    """Take where the figures go, besides the standard output."""
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON; - is the standard output")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw the ratios to the references")
    parser.add_argument(
        "--page",
        metavar="FILE",
        type=Path,
        help="put the tables of the race between the marks in this page, in Markdown",
    )


def _list_of(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A parser of values with commas between them, in the order given, each once."""

    def parse_list(text: str) -> list[Any]:
        return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))

    return parse_list


def _number(text: str) -> int:
    if not (number := whole_number(text)):
        raise ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return number


def _lane(text: str) -> str:
    if text not in settings.LANES:
        raise ArgumentTypeError(f"{text!r} is not a lane: {', '.join(settings.LANES)}")
    return text


def _say_nothing(text: str) -> None:
    pass
