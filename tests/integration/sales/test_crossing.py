"""Batches that cross each other in the database: nothing is lost, and nobody waits for ever."""

import asyncio
import random
import time
from contextlib import closing
from typing import Any

import psycopg
import pytest

from sales import limits
from sales.certificate import certify
from sales.connections import Deadlocked, connection_info
from sales.inventory import Hold, HoldBatch, Inventory
from sales.models import Sale, SaleItem
from sales.storage import Storage
from tests.support.shopping import MakeSale
from tests.support.threads import in_thread

ROUNDS = 100

WAIT = 10.0
"""Seconds that a batch may take on a busy machine; one that is stuck takes for ever."""


async def hold_some(storage: Storage, sale_id: int, seed: random.Random) -> list[Hold]:
    """Hold forty items in any order, for users who come again and again."""
    _, offset, sales = await storage.sales()
    facts = next(sale for sale in sales if sale.id == sale_id)
    _, rows = await storage.load(sale_id)
    batch = HoldBatch(Inventory(facts, rows), time.monotonic() + offset)
    for item in seed.sample(range(facts.items), 40):
        if batch.inventory.refusal(user := seed.randrange(10), item, time.monotonic() + offset) is None:
            batch.hold(user, item)
    granted = await storage.hold(facts, list(batch.holds.values()))
    stale = set(granted.stale)
    return [hold for hold in batch.holds.values() if hold not in stale]


async def test_crossed_batches_lose_nothing(make_sale: MakeSale) -> None:
    sale = await in_thread(make_sale, items=120, user_limit=100, checkout_ttl=1)
    slowest = 0.0

    async def work(storage: Storage, number: int) -> None:
        nonlocal slowest
        seed = random.Random(number)
        for _ in range(ROUNDS // 4):
            began = time.monotonic()
            holds = await hold_some(storage, sale.pk, seed)
            codes = [hold.code for hold in holds]
            seed.shuffle(codes)
            half = len(codes) // 2
            released, _ = await asyncio.gather(
                storage.release(sale.pk, codes[half:]), storage.sweep(sale.pk, range(119, -1, -1))
            )
            assert released.codes <= set(codes[half:])
            slowest = max(slowest, time.monotonic() - began)
            await storage.expire(sale.pk, codes[:half])
            await storage.release(sale.pk, codes[:half][::-1])
        bought = (
            await storage.purchase(sale.pk, [h.code for h in await hold_some(storage, sale.pk, seed)])
        ).codes
        await storage.mark(sale.pk, bought)

    async with Storage(connection_info()) as a, Storage(connection_info()) as b:
        await asyncio.gather(*(work(storage, n) for n, storage in enumerate((a, b, a, b))))
    assert slowest < WAIT
    certificate = await in_thread(certify, sale)
    assert certificate.is_valid, [finding for finding in certificate.findings if finding.broken]
    assert certificate.sold > 0


async def test_a_deadlock_with_somebody_else_decides_the_batch_again(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has item 5 and wants item 3; the batch has item 3 by then and waits for item 5."""
    tries: list[Any] = []
    purchase = Storage._purchase

    async def counted(self: Storage, sale_id: int, codes: Any) -> Any:
        tries.append(codes)
        return await purchase(self, sale_id, codes)

    monkeypatch.setattr(Storage, "_purchase", counted)
    lock = "SELECT FROM sales_saleitem WHERE sale_id = %s AND id = %s FOR UPDATE"
    keys = {item: [sale.pk, SaleItem.id_of(sale.pk, item)] for item in (3, 5)}

    def cross(somebody: psycopg.Connection[Any]) -> None:
        wanted = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        with closing(psycopg.connect(connection_info(), autocommit=True)) as looking:
            while looking.execute(wanted).fetchone() == (0,):
                time.sleep(0.01)
        somebody.execute(lock, keys[3])
        somebody.rollback()

    async with Storage(connection_info()) as storage:
        _, offset, (facts, *_) = await storage.sales()
        batch = HoldBatch(Inventory(facts, []), time.monotonic() + offset)
        holds = [batch.hold(1, item) for item in (3, 5)]
        await storage.hold(facts, holds)
        with closing(psycopg.connect(connection_info())) as somebody:
            # It never looks for a deadlock itself, so that it is the batch that is refused.
            somebody.execute("SET deadlock_timeout TO '60s'")
            somebody.commit()
            somebody.execute(lock, keys[5])
            crossing = asyncio.create_task(asyncio.to_thread(cross, somebody))
            bought = await asyncio.wait_for(storage.purchase(sale.pk, {h.code for h in holds}), WAIT)
            await crossing
    assert bought.codes == {hold.code for hold in holds}
    assert len(tries) == 2
    assert (await in_thread(certify, sale)).is_valid


async def test_a_batch_is_given_up_that_always_deadlocks(sale: Sale, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def refuse(*args: Any) -> Any:
        nonlocal tries
        tries += 1
        raise Deadlocked

    monkeypatch.setattr(Storage, "_purchase", refuse)
    async with Storage(connection_info()) as storage:
        with pytest.raises(Deadlocked):
            await storage.purchase(sale.pk, [])
    assert tries == 1 + limits.MAX_DEADLOCKS
