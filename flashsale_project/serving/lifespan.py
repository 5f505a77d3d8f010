"""The ASGI lifespan: opens what a worker owns before the first request, closes it after the last."""

import gc
import traceback
from contextlib import AsyncExitStack
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.urls import get_resolver

from sales import metrics
from sales.conf import SaleOptions
from sales.connections import connection_info
from sales.runtime import Runtime


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Run one life of the application; requests find what was opened in the state of their scope."""
    await receive()
    async with AsyncExitStack() as stack:
        try:
            conninfo = await sync_to_async(connection_info)()
            scope["state"]["runtime"] = await stack.enter_async_context(
                Runtime(conninfo, SaleOptions.from_settings())
            )
            if settings.FLASHSALE_TRAIN_EXAMPLE:
                from batching.examples.trains.booking import BookingOffice

                scope["state"]["booking_office"] = await stack.enter_async_context(BookingOffice())
        except Exception:
            await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
            return
        # What opens files at its first use does so now: later there may be none left.
        get_resolver().url_patterns  # noqa: B018
        metrics.open_files()
        # What is loaded now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        # A crowd's requests are many objects that live for a batch and no longer: the usual thresholds take
        # them for old, and look at all of them again and again, for a quarter of the CPU time of an answer.
        gc.set_threshold(20_000, 20, 20)
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
