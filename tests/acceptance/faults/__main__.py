"""Run the faults and print their table."""

import argparse
import sys
from pathlib import Path

import pytest

from tests.acceptance.faults.table import FaultTable


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the long form, on both lanes")
    parser.add_argument("pytest", nargs="*", help="more for pytest, after --, as -k rotation")
    options = parser.parse_args()
    table = FaultTable(full=options.full)
    here = str(Path(__file__).parent)
    return int(pytest.main([here, "-p", "no:randomly", *options.pytest], plugins=[table]))


if __name__ == "__main__":
    sys.exit(main())
