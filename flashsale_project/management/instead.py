"""Commands of Django that would not do here what people expect of them."""

import sys
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError


class Instead(BaseCommand):
    """Refuses whatever it is given, and names the command to use."""

    requires_system_checks = []
    reason: ClassVar[str]

    def run_from_argv(self, argv: list[str]) -> None:
        """Refuse and exit with 1. Parses nothing: the options of the command that is meant are not known."""
        if {"-h", "--help"} & set(argv):
            super().run_from_argv(argv)
        sys.exit(f"Error: {self.reason}")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises `CommandError`, always."""
        raise CommandError(self.reason)
