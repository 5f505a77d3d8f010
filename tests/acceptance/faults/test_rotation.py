"""One sale ends and the next begins at peak, again and again."""

import asyncio

from tests.acceptance.faults.conftest import Judged
from tests.acceptance.history.operations import Call
from tests.support.service import MakeService


async def test_short_hours_at_peak(make_service: MakeService, judged: Judged, full: bool) -> None:
    """Nobody is refused at a boundary, and every hour is exact."""
    hours, period = (24, 5) if full else (2, 6)
    service = make_service("--period", str(period), "--checkout-ttl", "2", "--user-limit", "4", items=3_000)
    await asyncio.to_thread(service.start)
    async with judged(f"rotation at peak: hours of {period} s", service) as run:
        run.runs = hours
        seen: set[int] = set()

        def over() -> bool:
            seen.update(
                o.answer["id"] for o in run.load.operations[-200:] if o.call is Call.SALE and o.answer
            )
            return len(seen) > hours

        await run.load.until(over, 60 + hours * period)
    assert run.failures == set()
    assert not any(operation.reason == "no_sale" for operation in run.load.operations)
    sold = service.sql("SELECT count(DISTINCT sale_id) FROM sales_saleitem WHERE state = 'sold'")
    assert sold[0][0] >= hours
    assert await asyncio.to_thread(service.stop) == 0
    assert "Traceback" not in service.output
