"""What clients do. Each journey is one visit of one client."""

import asyncio
import time
from uuid import UUID

from sales.codes import place_of
from tests.acceptance.history.driver import Journey, Shopper
from tests.acceptance.history.operations import Call, Operation

FEW_USERS = (0, 1, 2, 3, 5, 8, 2**63 - 1)
"""Users with many clients: their requests meet in one batch, and their limit."""

NONSENSE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)) + b"\r\n\r\n",
    b"POST /checkout?user_id=1 HTTP/9.9\r\n\r\n",
    b"POST /checkout?user_id=1&user_id=2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /checkout?user_id=9223372036854775808 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /checkout?user_id=1&item_id=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /checkout HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PUT /checkout?user_id=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /purchase?code=00000040-0072-80d2-8b06-7bc5baa26c1e HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /purchase?code=00000040-0072 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /checkout?user_id=1 HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n",
    b"POST /checkout?user_id=" + b"9" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /checkout?user_id=1 HTTP/1.1\r\nHost: loc",
    b"POST /checkout?user_id=1",
)
"""Requests that nobody may take for a checkout, the last two of them never finished."""


async def buy_any(shopper: Shopper) -> None:
    """Hold whatever is free and buy it."""
    await _buy(shopper, await _hold(shopper, chosen=False))


async def buy_chosen(shopper: Shopper) -> None:
    """Hold an item that many want and buy it."""
    await _buy(shopper, await _hold(shopper, chosen=True))


async def buy_again(shopper: Shopper) -> None:
    """Buy, then not believe it."""
    held = await _hold(shopper, chosen=False)
    await _buy(shopper, held)
    await _buy(shopper, held)
    if held.code is not None:
        await shopper.ask(Call.RECEIPT, code=held.code)


async def give_back(shopper: Shopper) -> None:
    """Hold, give back, and try to buy what was given back."""
    held = await _hold(shopper, chosen=shopper.random.random() < 0.5)
    if held.status == 200:
        await shopper.ask(Call.RELEASE, code=held.code)
        again = shopper.random.choice((Call.RELEASE, Call.PURCHASE, Call.RECEIPT))
        await shopper.ask(again, code=held.code)


async def abandon(shopper: Shopper) -> None:
    """Hold and forget; come back to it about when its time is over."""
    held = await _hold(shopper, chosen=shopper.random.random() < 0.5)
    if held.code is not None:
        due = time.monotonic() + shopper.load.checkout_ttl + shopper.random.uniform(-0.2, 1)
        shopper.later.append((due, held.code))


async def come_back(shopper: Shopper) -> None:
    """Do something about a hold that was forgotten."""
    while shopper.later and shopper.later[0][0] <= time.monotonic():
        _, code = shopper.later.pop(0)
        await shopper.ask(shopper.random.choice((Call.PURCHASE, Call.RELEASE, Call.RECEIPT)), code=code)
        await shopper.ask(Call.RECEIPT, code=code)
    await shopper.rest()


async def leave(shopper: Shopper) -> None:
    """Ask for something, and leave before the answer."""
    patience = shopper.random.uniform(0, 0.01)
    if shopper.random.random() < 0.5:
        user = next(shopper.load.users)
        await shopper.ask(Call.CHECKOUT, user_id=user, patience=patience)
    else:
        held = await _hold(shopper, chosen=False)
        if held.status == 200:
            await shopper.ask(Call.PURCHASE, code=held.code, patience=patience)
            await shopper.ask(Call.RECEIPT, code=held.code)
            await _buy(shopper, held)


async def hoard(shopper: Shopper) -> None:
    """Be one of the few users who want everything, twice at the same time."""
    user = shopper.random.choice(FEW_USERS)
    held = await asyncio.gather(
        *(shopper.ask(Call.CHECKOUT, user_id=user, connection=number) for number in range(2))
    )
    for operation in held:
        if shopper.random.random() < 0.3:
            await _buy(shopper, operation)


async def hope(shopper: Shopper) -> None:
    """With room for one more, ask for two at once, of which somebody has just taken the first.

    A worker that does not know of it yet takes both for free: the first comes to nothing, so that there is
    room for the second, and nothing that would refuse it.
    """
    user = next(shopper.load.users)
    for _ in range(shopper.load.user_limit - 1):
        if (await shopper.ask(Call.CHECKOUT, user_id=user)).status != 200:
            return
    taken = await shopper.ask(Call.CHECKOUT, user_id=next(shopper.load.users), connection=2)
    if taken.status == 200 and (place := place_of(UUID(taken.code))) is not None:
        await asyncio.gather(
            shopper.ask(Call.CHECKOUT, user_id=user, item_id=place[1], connection=0),
            shopper.ask(Call.CHECKOUT, user_id=user, connection=1),
        )


async def race(shopper: Shopper) -> None:
    """Do two things to one hold at the same time, on two connections."""
    held = await _hold(shopper, chosen=False)
    if held.status == 200:
        calls = shopper.random.choices((Call.PURCHASE, Call.RELEASE, Call.RECEIPT), (4, 3, 2), k=2)
        await asyncio.gather(
            *(shopper.ask(call, code=held.code, connection=number) for number, call in enumerate(calls))
        )


async def look(shopper: Shopper) -> None:
    """Look at the counts."""
    await shopper.ask(Call.SALE)


async def talk_nonsense(shopper: Shopper) -> None:
    """Send what no client of ours sends."""
    data = shopper.random.choice(NONSENSE)
    if shopper.random.random() < 0.2:
        data = shopper.random.randbytes(200)
    await shopper.send(data, patience=0.2)


SHOPPING: dict[Journey, float] = {buy_any: 7, buy_chosen: 3}
"""People who buy."""

EVERYTHING: dict[Journey, float] = {
    buy_any: 20,
    buy_chosen: 20,
    buy_again: 8,
    give_back: 8,
    abandon: 8,
    come_back: 8,
    leave: 8,
    hoard: 8,
    hope: 8,
    race: 8,
    look: 4,
    talk_nonsense: 3,
}
"""All that a sale meets."""


async def _hold(shopper: Shopper, *, chosen: bool) -> Operation:
    """A user who comes for the first time holds an item; the lower its number, the more want it."""
    item = int(shopper.load.items * shopper.random.random() ** 3) if chosen else None
    return await shopper.ask(Call.CHECKOUT, user_id=next(shopper.load.users), item_id=item)


async def _buy(shopper: Shopper, held: Operation) -> None:
    if held.status == 200:
        await shopper.ask(Call.PURCHASE, code=held.code)
