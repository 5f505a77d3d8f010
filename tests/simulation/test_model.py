"""The model of the database gives the answers of PostgreSQL: the same calls, in the same order, to both."""

import contextlib
from collections.abc import Callable
from random import SystemRandom
from types import SimpleNamespace

import pytest

from sales.codes import new_code
from sales.inventory import Hold
from sales.models import Sale as SaleModel
from sales.models import SaleItem
from tests.simulation.comparison import DAY, Comparison, facts
from tests.simulation.sides import Model, Real
from tests.support.waiting import DEADLINE


@pytest.mark.parametrize("seed", [*range(6), "fresh"])
def test_the_model_does_what_postgresql_does(
    make_sale: Callable[..., SaleModel], monkeypatch: pytest.MonkeyPatch, seed: int | str
) -> None:
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", DEADLINE * 3)
    monkeypatch.setattr("sales.limits.LOAD_CHUNK", 3)
    number = seed if isinstance(seed, int) else SystemRandom().randrange(10**6)
    sale = make_sale(items=7, user_limit=2, checkout_ttl=DAY // 2, lasts=DAY)
    sales = [sale, make_sale(items=5, user_limit=2, checkout_ttl=DAY // 2, starts_at=sale.ends_at)]
    with contextlib.closing(Real()) as real, contextlib.closing(Model(sales)) as model:
        comparison = Comparison(number, real, model, sales)
        monkeypatch.setattr(
            "sales.storage.random", SimpleNamespace(getrandbits=lambda bits: comparison.batch)
        )
        for step in range(60):
            try:
                comparison.step()
            except AssertionError as difference:
                raise AssertionError(f"seed {number}, step {step}: {difference}") from difference


def test_a_batch_that_deadlocks_is_decided_again_as_in_postgresql(
    make_sale: Callable[..., SaleModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", DEADLINE * 3)
    sale = make_sale(items=5, user_limit=3, checkout_ttl=DAY // 2, lasts=DAY)
    holds = [Hold(item_id, 0, 1, new_code(sale.pk, item_id)) for item_id in (0, 2, 3)]
    codes = [hold.code for hold in holds]
    ids = [SaleItem.id_of(sale.pk, hold.item_id) for hold in holds]
    monkeypatch.setattr("sales.storage.random", SimpleNamespace(getrandbits=lambda bits: 1))
    with contextlib.closing(Real()) as real, contextlib.closing(Model([sale])) as model:
        for side in (real, model):
            side.run(lambda storage: storage.hold(facts(sale), holds))
            bought = side.run_crossed(lambda storage: storage.purchase(sale.pk, codes), ids)
            assert bought.codes == set(codes)
        assert real.tables() == model.tables()
