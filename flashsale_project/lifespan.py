"""The ASGI lifespan: opens the worker's `Runtime` before the first request, closes it after the last."""

import gc
import traceback
from typing import Any

from asgiref.sync import sync_to_async

from sales.conf import SaleOptions
from sales.runtime import Runtime
from sales.storage import connection_info


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Run one life of the application; requests find the runtime in the state of their scope."""
    await receive()
    try:
        conninfo = await sync_to_async(connection_info)()
        runtime = Runtime(conninfo, SaleOptions.from_settings())
        await runtime.__aenter__()
    except Exception:
        await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
        return
    # What is loaded now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    scope["state"]["runtime"] = runtime
    await send({"type": "lifespan.startup.complete"})
    try:
        await receive()
    finally:
        await runtime.__aexit__(None, None, None)
    await send({"type": "lifespan.shutdown.complete"})
