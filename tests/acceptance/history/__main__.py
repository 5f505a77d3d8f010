"""Put a running service under load and judge it: exit code 1 where anything was wrong."""

import argparse
import asyncio
import sys
from urllib.parse import urlsplit

from tests.acceptance.history.checker import Verdict
from tests.acceptance.history.driver import Load, Plan
from tests.acceptance.history.journeys import EVERYTHING
from tests.acceptance.history.judge import judge_load


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.history", description=__doc__)
    parser.add_argument("--url", action="append", required=True, help="a service; more than one may be given")
    parser.add_argument("--database-url", required=True, help="its database: postgresql://…")
    parser.add_argument("--clients", type=int, default=50, help="how many at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what clients do next (%(default)s)")
    options = parser.parse_args()
    verdict = asyncio.run(_run(options))
    print(verdict)
    return 0 if verdict.exact else 1


async def _run(options: argparse.Namespace) -> Verdict:
    parts = [urlsplit(url) for url in options.url]
    addresses = [(part.hostname or "127.0.0.1", part.port or 80) for part in parts]
    plan = Plan(journeys=EVERYTHING, clients=options.clients, seed=options.seed)
    async with Load(addresses, plan) as load:
        await asyncio.sleep(options.seconds)
    return await judge_load(load, options.database_url)


if __name__ == "__main__":
    sys.exit(main())
