"""What one worker knows of a sale, and what it decides from that."""

import random

import pytest

from batching import Undecided
from sales import limits
from sales.inventory import (
    AVAILABLE,
    EXPIRY_MARGIN,
    HELD,
    SOLD,
    Hold,
    HoldBatch,
    Inventory,
    ItemRow,
    RequestKey,
    SaleEnded,
    SaleFacts,
)
from sales.refusals import (
    ALL_HELD,
    HOLD_LIMIT,
    INVALID_PARAMETER,
    ITEM_HELD,
    ITEM_SOLD,
    PAUSED,
    SOLD_OUT,
    USER_LIMIT,
    Reason,
)
from tests.support.refusals import refuses

NOW = 1_000_000.0


def facts(*, items: int = 5, user_limit: int = 2, paused: bool = False) -> SaleFacts:
    return SaleFacts(
        id=1,
        starts_at=NOW - 100,
        ends_at=NOW + 100,
        items=items,
        user_limit=user_limit,
        checkout_ttl=60,
        paused=paused,
    )


def held(item: int, version: int = 1, user: int = 1, until: float = NOW + 60) -> ItemRow:
    return ItemRow(item, version, HELD, user, until)


def sold(item: int, version: int = 2, user: int = 1) -> ItemRow:
    return ItemRow(item, version, SOLD, user, NOW + 60)


def free(item: int, version: int) -> ItemRow:
    return ItemRow(item, version, AVAILABLE, None, None)


def snapshot(inventory: Inventory) -> tuple[object, ...]:
    """Everything that can be asked, for comparing before and after."""
    items = range(inventory.sale.items)
    return (
        inventory.sold,
        inventory.held,
        inventory.available,
        [inventory.version(item) for item in items],
        sorted(inventory.free_item(place) for place in range(inventory.available)),  # type: ignore[type-var]
        [inventory.taken(user) for user in range(10)],
        inventory.unswept,
    )


def test_a_new_sale_is_all_free() -> None:
    inventory = Inventory(facts(), [])
    assert (inventory.sold, inventory.held, inventory.available) == (0, 0, 5)


def test_rows_are_learned_in_any_order_and_any_number_of_times() -> None:
    history = [held(0), sold(0), held(1, user=2), free(1, 2), held(1, 3, user=3), held(2, user=1)]
    expected = snapshot(Inventory(facts(), history))
    assert expected[:3] == (1, 2, 2)
    for seed in range(50):
        rows = history * 2
        random.Random(seed).shuffle(rows)
        assert snapshot(Inventory(facts(), rows)) == expected


def test_counts_of_users_follow_the_items() -> None:
    inventory = Inventory(facts(), [held(0, user=7), sold(1, user=7), held(2, user=8)])
    assert (inventory.taken(7), inventory.taken(8), inventory.taken(9)) == (2, 1, 0)
    inventory.learn([free(0, 2)])
    assert (inventory.taken(7), inventory.taken(8)) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "user", "item", "reason"),
    [
        ([held(0)], 9, 0, ITEM_HELD),
        ([sold(0)], 9, 0, ITEM_SOLD),
        ([held(0), held(1)], 1, 2, USER_LIMIT),
        ([held(0), sold(1)], 1, None, USER_LIMIT),
        ([sold(n, user=n) for n in range(5)], 9, None, SOLD_OUT),
        ([sold(n, user=n) for n in range(4)] + [held(4)], 9, None, ALL_HELD),
        ([], 9, 5, INVALID_PARAMETER),
        ([], 9, 10**20, INVALID_PARAMETER),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    rows: list[ItemRow], user: int, item: int | None, reason: Reason
) -> None:
    inventory = Inventory(facts(), rows)
    before = snapshot(inventory)
    refused = inventory.refusal(user, item, NOW)
    assert refused is not None
    assert refused.name == reason.name
    batch = HoldBatch(inventory, NOW)
    with refuses(reason):
        batch.hold(user, item)
    assert batch.holds == {}
    assert snapshot(inventory) == before


def test_who_lets_hold_after_hold_go_gets_no_more_of_them() -> None:
    inventory = Inventory(facts(items=3, user_limit=1), [])
    most = limits.max_unused(1)
    for number in range(most):
        assert inventory.refusal(1, 0, NOW) is None
        inventory.learn([held(0, 2 * number + 1), free(0, 2 * number + 2)])
    before = snapshot(inventory)
    assert inventory.refusal(1, 0, NOW) is inventory.refusal(1, None, NOW) is HOLD_LIMIT
    assert snapshot(inventory) == before
    assert inventory.refusal(2, 0, NOW) is None


def test_a_hold_that_was_bought_or_is_over_unswept_is_not_one_let_go() -> None:
    inventory = Inventory(facts(items=300, user_limit=300), [])
    inventory.learn(held(item) for item in range(300))
    inventory.learn(sold(item) for item in range(150))
    inventory.expire(NOW + 61)
    assert not inventory._unused
    inventory.learn(free(item, 2) for item in range(150, 300))
    assert inventory._unused == {1: 150}


def test_a_paused_sale_refuses_everybody() -> None:
    assert Inventory(facts(paused=True), []).refusal(1, 1, NOW) is PAUSED


def test_all_held_says_when_the_next_hold_expires() -> None:
    rows = [held(n, user=n, until=NOW + 10 + n) for n in range(5)]
    inventory = Inventory(facts(), rows)
    inventory.learn([free(0, 2), held(0, 3, user=9, until=NOW + 50)])  # the first to expire is gone
    refused = inventory.refusal(9, None, NOW)
    assert refused is not None
    assert refused.name == ALL_HELD.name
    assert refused.retry_after == 12


def test_an_expired_hold_is_free_at_the_version_that_the_sweep_will_give_it() -> None:
    inventory = Inventory(facts(), [held(0, version=5, user=1, until=NOW + 10), held(1, user=1)])
    inventory.expire(NOW + 10 + EXPIRY_MARGIN)
    assert (inventory.held, inventory.available) == (1, 4)
    assert inventory.taken(1) == 1
    assert inventory.version(0) == 6
    assert inventory.needs_sweep(user_id=2, item_id=0)
    assert inventory.needs_sweep(user_id=1, item_id=4)
    assert not inventory.needs_sweep(user_id=2, item_id=4)


def test_a_hold_that_memory_believed_over_may_turn_out_sold() -> None:
    inventory = Inventory(facts(), [held(0, version=5, user=1, until=NOW - 10)])
    inventory.expire(NOW)
    assert inventory.available == 5
    inventory.learn([sold(0, version=6, user=1)])
    assert (inventory.sold, inventory.available, inventory.taken(1)) == (1, 4, 1)
    assert not inventory.unswept


def test_a_swept_hold_is_plainly_free() -> None:
    inventory = Inventory(facts(), [held(0, version=5, until=NOW - 10)])
    inventory.expire(NOW)
    inventory.learn([free(0, 6)])
    assert inventory.version(0) == 6
    assert not inventory.unswept
    assert inventory.available == 5


def test_a_hold_lives_to_its_end() -> None:
    inventory = Inventory(facts(), [held(0, until=NOW + 10)])
    inventory.expire(NOW + 9.999)
    assert inventory.held == 1


def test_what_a_batch_hopes_for_refuses_nobody_and_leaves_memory_alone() -> None:
    inventory = Inventory(facts(), [])
    before = snapshot(inventory)
    batch = HoldBatch(inventory, NOW)
    first = batch.hold(1, 0)
    assert isinstance(first, Hold)
    with pytest.raises(Undecided):
        batch.hold(2, 0)
    batch.hold(1, 1)
    for item in 2, None:
        with pytest.raises(Undecided):
            batch.hold(1, item)
    assert sorted(batch.holds) == [0, 1]
    assert snapshot(inventory) == before


def test_what_is_certain_is_said_at_once_whatever_the_batch_hopes_for() -> None:
    inventory = Inventory(facts(), [held(0), sold(1), held(2, user=2)])
    batch = HoldBatch(inventory, NOW)
    batch.hold(9, 3)
    for user, item, reason in (1, 3, USER_LIMIT), (1, 4, USER_LIMIT), (9, 0, ITEM_HELD), (9, 1, ITEM_SOLD):
        with refuses(reason):
            batch.hold(user, item)
    batch.hold(9, 4)
    with refuses(USER_LIMIT):
        batch.hold(1, None)


def test_any_item_gives_each_caller_another_until_none_is_left() -> None:
    inventory = Inventory(facts(), [sold(3, user=9)])
    batch = HoldBatch(inventory, NOW)
    batch.hold(0, 2)
    items = {batch.hold(user, None).item_id for user in range(1, 4)}
    assert items == {0, 1, 4}
    with pytest.raises(Undecided):
        batch.hold(5, None)


def test_a_key_is_used_once_its_hold_is_saved() -> None:
    batch = HoldBatch(Inventory(facts(), []), NOW)
    first = batch.hold(1, 0, RequestKey("k", 0))
    assert batch.hold(1, 0, RequestKey("k", 0)) is first
    for item in 1, None:
        with pytest.raises(Undecided):
            batch.hold(1, item, RequestKey("k", item))
    assert batch.hold(2, 1, RequestKey("k", 1)) is not first


def test_a_batch_says_whether_it_counts_on_an_expired_hold() -> None:
    inventory = Inventory(facts(), [held(0, until=NOW - 10, user=3)])
    batch = HoldBatch(inventory, NOW)
    batch.hold(1, 1)
    assert not batch.needs_sweep
    assert batch.hold(1, 0).version == 2
    assert batch.needs_sweep


def test_a_batch_of_an_ended_sale_decides_nothing() -> None:
    with pytest.raises(SaleEnded):
        HoldBatch(Inventory(facts(), []), NOW + 100).hold(1, 1)


def test_random_walks_agree_with_a_plain_model() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        inventory = Inventory(facts(items=20, user_limit=100), [])
        model: dict[int, ItemRow] = {}
        for _ in range(300):
            item = rng.randrange(20)
            version = model[item].version + 1 if item in model else 1
            row = rng.choice(
                [held(item, version, rng.randrange(5)), sold(item, version), free(item, version)]
            )
            model[item] = row
            inventory.learn([row])
        rows = list(model.values())
        assert inventory.sold == sum(row.state == SOLD for row in rows)
        assert inventory.held == sum(row.state == HELD for row in rows)
        assert inventory.available == 20 - inventory.sold - inventory.held
        for user in range(5):
            assert inventory.taken(user) == sum(row.user_id == user for row in rows)
        free_items = {inventory.free_item(place) for place in range(inventory.available)}
        assert free_items == set(range(20)) - {row.item_id for row in rows if row.state != AVAILABLE}
