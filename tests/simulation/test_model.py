"""The model of the database gives the answers of PostgreSQL: the same calls, in the same order, to both."""

import contextlib
from collections.abc import Callable
from random import SystemRandom
from types import SimpleNamespace

import pytest

from sales.models import Sale as SaleModel
from tests.simulation.comparison import DAY, Comparison
from tests.simulation.sides import Model, Real
from tests.support.waiting import DEADLINE


@pytest.mark.parametrize("seed", [*range(6), "fresh"])
def test_the_model_does_what_postgresql_does(
    make_sale: Callable[..., SaleModel], monkeypatch: pytest.MonkeyPatch, seed: int | str
) -> None:
    monkeypatch.setattr("sales.limits.STATEMENT_TIMEOUT", DEADLINE * 3)
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
