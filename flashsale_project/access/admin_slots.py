"""How many requests of the admin are served at a time, and which of these places are for staff alone.

Each has a thread and a connection to the database, and the sale goes first. Whoever fills the places of
everybody, with logins or whatever else, must not keep those out who are logged in and want to pause a sale.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sales.admission import Admission

FOR_ALL = 6
"""Requests served at a time, whoever they come from."""

FOR_STAFF = 2
"""As many more for those with a pass (see `staff_pass`)."""

LOGINS = 1
"""Passwords checked at a time: that is slow on purpose, and takes a whole core."""

MAX_WAITING = 40
"""Requests of one kind that may be served or wait for it; more are refused."""


class AdminSlots:
    """The places of one worker, for the running loop."""

    def __init__(self) -> None:
        self._admission = Admission(MAX_WAITING)
        self._for_all = asyncio.Semaphore(FOR_ALL)
        self._for_staff = asyncio.Semaphore(FOR_STAFF)
        self._logins = asyncio.Semaphore(LOGINS)

    @asynccontextmanager
    async def taken(self, *, is_staff: bool, is_login: bool) -> AsyncIterator[None]:
        """Wait for a place and have it as long as the context lasts. Raises `Refusal` (`OVERLOADED`)."""
        who = "staff" if is_staff else "login" if is_login else "all"
        with self._admission.entered(who):
            async with AsyncExitStack() as stack:
                if is_login:
                    await stack.enter_async_context(self._logins)
                use_own = is_staff and self._for_all.locked()
                await stack.enter_async_context(self._for_staff if use_own else self._for_all)
                yield
