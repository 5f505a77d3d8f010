"""``python -m tests.simulation --seed 123`` replays one simulation, ``--seeds 10000`` runs many new ones."""

import argparse
import random
import sys
import time

import django
from django.conf import settings


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="replay this seed and print its trace")
    what.add_argument("--seeds", type=int, help="run so many seeds")
    parser.add_argument("--from", type=int, dest="first", help="the first of them (default: a random one)")
    options = parser.parse_args()
    # No database is ever asked, but the statements are compiled for one.
    settings.configure(
        INSTALLED_APPS=["sales"],
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
        USE_TZ=True,
    )
    django.setup()
    from tests.simulation.simulation import Failure, simulate

    try:
        if options.seed is not None:
            print(simulate(options.seed, trace=print))
            return 0
        first = options.first if options.first is not None else random.randrange(10**9)
        print(f"from seed {first}", flush=True)
        began = time.perf_counter()
        steps = 0
        for count in range(options.seeds):
            steps += simulate(first + count).steps
        seconds = time.perf_counter() - began
    except Failure as failure:
        print(f"seed {failure.seed}: {failure}", file=sys.stderr)
        return 1
    print(
        f"{options.seeds:,} simulations in {seconds:.1f} s: nothing went wrong in {steps:,} steps, "
        f"{steps / seconds:,.0f} a second"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
