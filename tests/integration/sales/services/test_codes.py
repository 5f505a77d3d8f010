"""What the code of a hold is good for: once for a purchase, or for a release."""

from uuid import UUID, uuid4

from sales import services
from sales.codes import new_code
from sales.models import Sale
from sales.refusals import ALREADY_PURCHASED, CHECKOUT_EXPIRED, UNKNOWN_CODE
from sales.runtime import Runtime
from tests.integration.sales.services.calls import gather, known
from tests.support.refusals import refuses
from tests.support.shopping import buy


async def test_a_code_is_bought_once(worker: Runtime) -> None:
    code = await services.checkout(worker, user_id=1)
    ends = await gather(*(services.purchase(worker, code=code) for _ in range(20)))
    assert ends == {"ok": 1, "already_purchased": 19}
    with refuses(ALREADY_PURCHASED) as refused:
        await services.purchase(worker, code=code)
    assert refused.value.reason.members["receipt"].code == code
    assert refused.value.reason.members["receipt"].purchased_at is not None
    assert known(worker) == (1, 0, 99)


async def test_bad_codes_harm_no_neighbour_of_their_batch(worker: Runtime, sale: Sale) -> None:
    good = [await services.checkout(worker, user_id=n) for n in range(10)]
    altered = UUID(int=good[0].int ^ 1)
    bad = [uuid4(), UUID(int=0), new_code(sale.pk, 5), new_code(sale.pk, 10**6), new_code(12345, 5), altered]
    ends = await gather(*(services.purchase(worker, code=code) for code in (*good, *bad)))
    assert ends == {"ok": 10, "unknown_code": 6}
    assert known(worker) == (10, 0, 90)


async def test_a_released_item_is_free_at_once_and_its_code_is_dead(worker: Runtime) -> None:
    code = await services.checkout(worker, user_id=1, item_id=3)
    await services.release(worker, code=code)
    assert known(worker) == (0, 0, 100)
    await services.release(worker, code=code)  # again: no harm, no error
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)
    assert (await services.receipt(worker, code=code)).state == "released"
    await buy(worker, 2, 3)
    with refuses(CHECKOUT_EXPIRED):
        await services.purchase(worker, code=code)


async def test_what_was_bought_cannot_be_released(worker: Runtime) -> None:
    code = await buy(worker, 1, 3)
    with refuses(ALREADY_PURCHASED):
        await services.release(worker, code=code)
    with refuses(UNKNOWN_CODE):
        await services.release(worker, code=new_code(1, 3))
    assert known(worker) == (1, 0, 99)


async def test_release_and_purchase_of_one_code_at_once_have_one_winner(worker: Runtime) -> None:
    for user in range(10):
        code = await services.checkout(worker, user_id=user)
        ends = await gather(services.release(worker, code=code), services.purchase(worker, code=code))
        assert ends in ({"ok": 1, "already_purchased": 1}, {"ok": 1, "checkout_expired": 1})


async def test_unknown_codes_of_unloaded_sales_leave_no_trace(worker: Runtime) -> None:
    ends = await gather(*(services.purchase(worker, code=new_code(n + 50, 1)) for n in range(500)))
    assert ends == {"unknown_code": 500}
    with refuses(UNKNOWN_CODE):
        await services.receipt(worker, code=new_code(77, 1))
