"""Making sales on real PostgreSQL: aligned to its clock, one after another, each once."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection

from sales import services
from sales.certificate import certify
from sales.codes import MAX_ITEMS, MAX_SALE_ID
from sales.conf import SaleOptions
from sales.models import Sale, SaleItem
from sales.rotation import create_sale, kept, rotate
from sales.runtime import Runtime

Sql = Callable[..., list[tuple[Any, ...]]]
OpenWorker = Callable[[], Awaitable[Runtime]]
MakeSale = Callable[..., Sale]
SetClock = Callable[[datetime], None]

YEAR = 365 * 86_400
"""A period whose end no test run meets."""

PATIENCE = 20
"""Seconds after which threads that do not meet are given up."""


@pytest.fixture
def options() -> SaleOptions:
    """Sales of 20 items, an hour each."""
    return SaleOptions(items=20, user_limit=3, checkout_ttl=45, period=3600)


@pytest.fixture
def set_clock(db: None) -> Iterator[SetClock]:
    """Set the clock of the database, as this test's transaction sees it."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA clock")
        cursor.execute("SET LOCAL search_path TO clock, public, pg_catalog")

    def set_to(moment: datetime) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE OR REPLACE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
                f" AS $$ SELECT timestamptz '{moment.isoformat()}' $$"
            )

    yield set_to
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL search_path TO DEFAULT")


def at(clock: str, *, day: int = 6) -> datetime:
    """A time of day far from today, so that nobody's own clock can be behind an answer."""
    return datetime.fromisoformat(f"2031-05-{day:02} {clock}+00:00")


def sale_from(start: str, end: str, *, items: int = 5) -> Sale:
    return create_sale(Sale(starts_at=at(start), ends_at=at(end), items=items, user_limit=1, checkout_ttl=1))


def spans(sales: list[Sale]) -> list[tuple[datetime, datetime]]:
    return [(sale.starts_at, sale.ends_at) for sale in sales]


def stored() -> list[Sale]:
    return list(Sale.objects.order_by("starts_at"))


def rows() -> list[tuple[Any, ...]]:
    """Every sale and every item, with its transaction: a row that was only written anew differs too."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT xmin::text, ctid::text, * FROM sales_sale ORDER BY id")
        sales = cursor.fetchall()
        cursor.execute("SELECT xmin::text, ctid::text, * FROM sales_saleitem ORDER BY id")
        return sales + cursor.fetchall()


# --- aligned to the database's clock


@pytest.mark.parametrize(
    ("period", "now", "starts"),
    [
        (3600, at("07:30:00"), (at("07:00"), at("08:00"), at("09:00"))),
        (3600, at("07:59:59.999999"), (at("07:00"), at("08:00"), at("09:00"))),
        (3600, at("08:00:00"), (at("08:00"), at("09:00"), at("10:00"))),
        (3600, at("23:10:00"), (at("23:00"), at("00:00", day=7), at("01:00", day=7))),
        (60, at("07:30:59"), (at("07:30"), at("07:31"), at("07:32"))),
        (90, at("07:31:00"), (at("07:30:00"), at("07:31:30"), at("07:33:00"))),
        (1, at("07:30:00.5"), (at("07:30:00"), at("07:30:01"), at("07:30:02"))),
        (86_400, at("07:30:00"), (at("00:00"), at("00:00", day=7), at("00:00", day=8))),
    ],
)
def test_the_current_and_the_next_sale_are_aligned_to_the_period(
    set_clock: SetClock, options: SaleOptions, period: int, now: datetime, starts: tuple[datetime, ...]
) -> None:
    set_clock(now)
    created = rotate(replace(options, period=period))
    assert spans(created) == [starts[:2], starts[1:]]
    assert spans(stored()) == [starts[:2], starts[1:]]


@pytest.mark.parametrize("period", [7, 1000, 366 * 86_400])
def test_any_period_is_counted_from_the_epoch(set_clock: SetClock, options: SaleOptions, period: int) -> None:
    set_clock(now := at("07:30:00"))
    current, following = rotate(replace(options, period=period))
    assert current.starts_at <= now < current.ends_at
    assert current.starts_at.timestamp() % period == 0
    assert current.ends_at - current.starts_at == timedelta(seconds=period)
    assert spans([following]) == [(current.ends_at, current.ends_at + timedelta(seconds=period))]


def test_without_a_clock_of_the_test_it_is_the_real_hour(db: None, options: SaleOptions) -> None:
    def hour() -> datetime:
        with connection.cursor() as cursor:
            cursor.execute("SELECT date_trunc('hour', clock_timestamp(), 'UTC')")
            return cursor.fetchone()[0]

    before = hour()
    current, following = rotate(options)
    assert current.starts_at in (before, hour())  # two, where the hour has just ended
    assert following.starts_at == current.starts_at + timedelta(hours=1)


def test_new_sales_are_what_the_options_say(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:30"))
    created = rotate(options)
    assert stored() == created
    for sale in stored():
        assert (sale.items, sale.user_limit, sale.checkout_ttl, sale.paused) == (20, 3, 45, False)
        assert sale.units.count() == 20


# --- repeating


def test_repeating_makes_none_and_touches_nothing(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:00"))
    assert len(rotate(options)) == 2
    before = rows()
    for now in ("07:00", "07:30", "07:59:59.999999"):
        set_clock(at(now))
        assert rotate(options) == []
    assert rows() == before


def test_every_period_brings_one_more(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:30"))
    rotate(options)
    for hour in range(8, 12):
        set_clock(at(f"{hour:02}:00"))
        assert spans(rotate(options)) == [(at(f"{hour + 1:02}:00"), at(f"{hour + 2:02}:00"))]
    assert [sale.starts_at.hour for sale in stored()] == [7, 8, 9, 10, 11, 12]


def test_what_nobody_made_in_time_is_not_made_afterwards(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:30"))
    rotate(options)
    set_clock(at("14:30"))
    assert spans(rotate(options)) == [(at("14:00"), at("15:00")), (at("15:00"), at("16:00"))]
    assert len(stored()) == 4


def test_changed_options_shape_new_sales_alone(set_clock: SetClock, options: SaleOptions) -> None:
    set_clock(at("07:30"))
    rotate(options)
    Sale.objects.update(paused=True)
    before = rows()
    changed = SaleOptions(items=7, user_limit=9, checkout_ttl=8, period=1800)
    assert rotate(changed) == []
    assert rows() == before
    set_clock(at("08:30"))
    (made,) = rotate(changed)
    assert spans([made]) == [(at("09:00"), at("09:30"))]
    assert (made.items, made.user_limit, made.checkout_ttl, made.paused) == (7, 9, 8, False)
    old = set(before)
    assert [row for row in rows() if row in old] == before


# --- neighbours made with another period


@pytest.mark.parametrize(
    ("existing", "made"),
    [
        pytest.param([("07:20", "08:20")], [("08:20", "09:00")], id="current-goes-on-to-its-end"),
        pytest.param([("06:40", "09:20")], [("09:20", "10:00")], id="current-is-long"),
        pytest.param([("07:29", "07:31")], [("07:31", "08:00")], id="current-is-short"),
        pytest.param([("07:30", "07:45")], [("07:45", "08:00")], id="current-starts-now"),
        pytest.param(
            [("07:00", "07:20")], [("07:20", "08:00"), ("08:00", "09:00")], id="ended-at-same-start"
        ),
        pytest.param([("06:00", "07:20")], [("07:20", "08:00"), ("08:00", "09:00")], id="ended-from-before"),
        pytest.param([("07:10", "07:30")], [("07:30", "08:00"), ("08:00", "09:00")], id="ends-now"),
        pytest.param([("06:00", "07:00")], [("07:00", "08:00"), ("08:00", "09:00")], id="ended-at-the-start"),
        pytest.param(
            [("07:00", "07:05"), ("07:10", "07:20")],
            [("07:20", "08:00"), ("08:00", "09:00")],
            id="ended-the-last-of-several",
        ),
        pytest.param([("07:45", "08:30")], [("07:00", "07:45")], id="upcoming"),
        pytest.param(
            [("07:45", "07:50"), ("07:55", "08:00")], [("07:00", "07:45")], id="upcoming-the-first-of-several"
        ),
        pytest.param([("07:00", "07:20"), ("07:45", "08:00")], [("07:20", "07:45")], id="between-two"),
        pytest.param([("07:00", "07:30"), ("07:30:01", "08:00")], [("07:30", "07:30:01")], id="one-second"),
        pytest.param([("07:00", "08:00"), ("08:30", "09:30")], [("08:00", "08:30")], id="next-is-cut"),
        pytest.param([("08:00", "09:00")], [("07:00", "08:00")], id="upcoming-at-the-end"),
        pytest.param(
            [("07:50", "07:55")], [("07:00", "07:50")], id="the-next-is-not-made-when-another-is-next"
        ),
        pytest.param([("12:00", "13:00")], [("07:00", "08:00"), ("08:00", "09:00")], id="far-ahead"),
    ],
)
def test_new_sales_fill_the_gap_that_others_leave(
    set_clock: SetClock,
    options: SaleOptions,
    existing: list[tuple[str, str]],
    made: list[tuple[str, str]],
) -> None:
    set_clock(at("07:30"))
    for start, end in existing:
        sale_from(start, end)
    before = rows()
    created = rotate(options)
    assert spans(created) == [(at(start), at(end)) for start, end in made]
    assert [sale.items for sale in created] == [20] * len(made)
    old = set(before)
    assert [row for row in rows() if row in old] == before
    assert all(
        first.ends_at <= second.starts_at for first, second in zip(stored(), stored()[1:], strict=False)
    )
    assert rotate(options) == []
    assert not {one.sale for one in kept(options)} & set(created)  # cut by neighbours, and yet as wished


def test_sales_that_stay_as_they_were_made_are_known_with_what_was_wanted(
    set_clock: SetClock, options: SaleOptions
) -> None:
    set_clock(at("07:30"))
    current, following = rotate(options)
    assert kept(options) == []
    for changed in (
        replace(options, items=7),
        replace(options, user_limit=9),
        replace(options, checkout_ttl=8),
        replace(options, period=1800),
        replace(options, period=10),
        replace(options, period=7200),
    ):
        assert [one.sale for one in kept(changed)] == [current, following]
        wanted = kept(changed)[0].wanted
        length = round((wanted.ends_at - wanted.starts_at).total_seconds())
        assert (wanted.items, wanted.user_limit, wanted.checkout_ttl) == (
            changed.items,
            changed.user_limit,
            changed.checkout_ttl,
        )
        assert length == changed.period
    Sale.objects.filter(pk=current.pk).update(items=7)
    assert [one.sale for one in kept(options)] == [current]
    assert [one.sale for one in kept(replace(options, items=7))] == [following]


def test_a_gap_before_the_next_but_one_is_filled_when_its_time_comes(
    set_clock: SetClock, options: SaleOptions
) -> None:
    sale_from("07:45", "07:50")
    set_clock(at("07:30"))
    assert spans(rotate(options)) == [(at("07:00"), at("07:45"))]
    set_clock(at("07:45"))
    assert spans(rotate(options)) == [(at("07:50"), at("08:00"))]
    set_clock(at("07:50"))
    assert spans(rotate(options)) == [(at("08:00"), at("09:00"))]


# --- items


def test_ten_thousand_items_are_numbered_from_zero_and_free(db: None) -> None:
    sale = create_sale(
        Sale(starts_at=at("07:00"), ends_at=at("08:00"), items=10_000, user_limit=1, checkout_ttl=1)
    )
    units = SaleItem.objects.filter(sale=sale).order_by("item_id")
    assert list(units.values_list("id", "item_id")) == [(sale.pk * MAX_ITEMS + n, n) for n in range(10_000)]
    columns = ("version", "state", "user_id", "code", "held_until", "purchased_at")
    assert list(units.values_list(*columns).order_by().distinct()) == [
        (0, "available", None, None, None, None)
    ]


def test_a_sale_of_one_item_has_number_zero(db: None) -> None:
    sale = sale_from("07:00", "08:00", items=1)
    assert list(sale.units.values_list("item_id", flat=True)) == [0]


@pytest.mark.parametrize(
    ("start", "end"), [("07:30", "08:30"), ("06:30", "07:30"), ("07:20", "07:40"), ("06:00", "09:00")]
)
def test_a_sale_that_would_overlap_is_refused_with_all_its_items(db: None, start: str, end: str) -> None:
    sale_from("07:00", "08:00")
    before = rows()
    with pytest.raises(IntegrityError, match="sales_do_not_overlap"):
        sale_from(start, end)
    assert rows() == before


def test_where_the_next_sale_cannot_be_made_the_current_one_is_not_either(
    set_clock: SetClock, options: SaleOptions
) -> None:
    """The ids that codes have room for are used up after one more."""
    set_clock(at("07:30"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('sales_sale_id_seq', nextval('sales_sale_id_seq'))")
        (last,) = cursor.fetchone()
        cursor.execute("SELECT setval('sales_sale_id_seq', %s)", [MAX_SALE_ID - 1])
    try:
        with pytest.raises(IntegrityError, match="sale_id_fits_codes"):
            rotate(options)
        assert rows() == []
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('sales_sale_id_seq', %s)", [last])


# --- at once


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returned or raised, all begun at the same time, each on its own connection."""
    together = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            together.wait(PATIENCE)
            return call()
        except IntegrityError as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


@pytest.mark.parametrize("attempt", range(3))
def test_rotations_at_once_make_each_sale_once(
    transactional_db: None, options: SaleOptions, attempt: int
) -> None:
    shape = replace(options, items=500, period=YEAR)
    made = at_once([lambda: rotate(shape)] * 8)
    assert sorted(len(sales) for sales in made) == [0] * 7 + [2]
    (created,) = (sales for sales in made if sales)
    assert stored() == created
    assert created[0].ends_at == created[1].starts_at
    for sale in created:
        assert list(sale.units.order_by("item_id").values_list("item_id", flat=True)) == list(range(500))
    assert SaleItem.objects.count() == 1000


@pytest.mark.parametrize("attempt", range(3))
def test_rotations_at_once_with_different_options_leave_no_gap_and_no_overlap(
    transactional_db: None, options: SaleOptions, attempt: int
) -> None:
    shapes = [replace(options, items=100 + n, period=YEAR - n * 86_400) for n in range(6)]
    made = at_once([lambda shape=shape: rotate(shape) for shape in shapes])
    assert sum(len(sales) for sales in made) == 2
    current, following = stored()
    assert current.starts_at <= datetime.now(UTC) < current.ends_at == following.starts_at
    assert current.items == following.items
    for sale in (current, following):
        assert sale.units.count() == sale.items


def test_one_of_several_equal_sales_made_at_once_exists(transactional_db: None) -> None:
    ends = at_once([lambda: sale_from("07:00", "08:00", items=300)] * 6)
    (sale,) = (end for end in ends if isinstance(end, Sale))
    refused = [end for end in ends if isinstance(end, IntegrityError)]
    assert len(refused) == 5
    assert stored() == [sale]
    assert list(sale.units.order_by("item_id").values_list("item_id", flat=True)) == list(range(300))
    assert SaleItem.objects.count() == 300


# --- a worker's own rotation: an hour's sales are made half an hour ahead


async def known(worker: Runtime) -> list[tuple[float, float]]:
    """The sales that a worker knows."""
    sales = [inventory.sale for inventory in worker.memory.inventories.values()]
    return sorted((sale.starts_at, sale.ends_at) for sale in sales)


async def sales_in_database(sql: Sql) -> list[tuple[float, float]]:
    return await asyncio.to_thread(
        sql,
        """SELECT extract(epoch FROM starts_at)::float8, extract(epoch FROM ends_at)::float8
           FROM sales_sale ORDER BY starts_at""",
    )


async def end_in(sql: Sql, sale: Sale, seconds: int) -> float:
    """Move the end of a sale, and return it."""
    statement = """UPDATE sales_sale SET ends_at = clock_timestamp() + make_interval(secs => %s)
                   WHERE id = %s RETURNING extract(epoch FROM ends_at)::float8"""
    return (await asyncio.to_thread(sql, statement, seconds, sale.pk))[0][0]


async def test_a_worker_that_finds_no_sale_makes_the_current_and_the_next(
    open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    (first, second) = await sales_in_database(sql)
    assert await known(worker) == [first, second]
    assert worker.ready
    assert first[0] <= worker.memory.clock.now() < first[1] == second[0]
    assert [start % 3600 for start, _ in (first, second)] == [0, 0]
    assert (worker.current().sale.starts_at, worker.memory.next_starts_at()) == (first[0], second[0])
    status = await services.status(worker)
    assert (status.available, status.next_starts_at) == (20, second[0])


async def test_a_worker_makes_the_next_sale_when_the_end_is_near(
    sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    end = await end_in(sql, sale, 1700)
    await worker.housekeeping.do_round()
    current, following = await sales_in_database(sql)
    assert current[1] == end == following[0]
    assert following[1] % 3600 == 0
    assert 0 < following[1] - end <= 3600
    assert await known(worker) == [current, following]
    assert worker.current().sale.id == sale.pk
    assert worker.memory.next_starts_at() == end
    (next_sale,) = (i for i in worker.memory.inventories.values() if i.sale.id != sale.pk)
    assert (next_sale.sale.items, next_sale.sold, next_sale.held) == (20, 0, 0)


async def test_a_worker_makes_no_sale_while_the_end_is_far(
    sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    end = await end_in(sql, sale, 1900)
    await worker.housekeeping.do_round()
    assert await sales_in_database(sql) == await known(worker) == [(sale.starts_at.timestamp(), end)]
    assert worker.memory.next_starts_at() == end


async def test_the_end_that_counts_is_that_of_the_last_sale_that_follows(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    end = await end_in(sql, sale, 60)
    following = await asyncio.to_thread(_closing, make_sale, starts_at=datetime.fromtimestamp(end, UTC))
    await worker.housekeeping.do_round()
    assert [start for start, _ in await sales_in_database(sql)] == [sale.starts_at.timestamp(), end]
    assert worker.memory.next_starts_at() == end
    assert sorted(worker.memory.inventories) == [sale.pk, following.pk]


async def test_a_gap_after_the_current_sale_is_filled_when_its_end_is_near(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    worker = await open_worker()
    end = await end_in(sql, sale, 60)
    later = datetime.fromtimestamp(end + 5, UTC)
    await asyncio.to_thread(_closing, make_sale, starts_at=later)
    await worker.housekeeping.do_round()
    assert [start for start, _ in await sales_in_database(sql)] == [
        sale.starts_at.timestamp(),
        end,
        later.timestamp(),
    ]
    filled = (await sales_in_database(sql))[1]
    assert filled[1] <= later.timestamp()
    assert worker.memory.next_starts_at() == end


async def test_keeping_house_again_makes_no_more(sale: Sale, open_worker: OpenWorker, sql: Sql) -> None:
    worker = await open_worker()
    await end_in(sql, sale, 1700)
    await worker.housekeeping.do_round()
    before = await sales_in_database(sql)
    for _ in range(3):
        await worker.housekeeping.do_round()
    after = await sales_in_database(sql)
    # The next sale is cut at the full hour: where that is near too, it is followed by nothing yet.
    assert after == before
    assert len(after) == 2


async def test_workers_that_keep_house_at_once_make_one_next_sale(
    sale: Sale, open_worker: OpenWorker, sql: Sql
) -> None:
    workers = [await open_worker() for _ in range(4)]
    end = await end_in(sql, sale, 1700)
    await asyncio.gather(*(worker.housekeeping.do_round() for worker in workers))
    current, following = await sales_in_database(sql)
    assert following[0] == current[1] == end
    assert [await known(worker) for worker in workers] == [[current, following]] * 4
    assert await asyncio.to_thread(sql, "SELECT count(*) FROM sales_saleitem") == [(120,)]


async def test_a_sale_that_a_worker_made_is_sold_and_certified(open_worker: OpenWorker, sql: Sql) -> None:
    worker = await open_worker()
    await services.purchase(worker, code=await services.checkout(worker, user_id=1))
    certificate = await asyncio.to_thread(_certificate_of, worker.current().sale.id)
    assert certificate.is_valid
    assert (certificate.sold, certificate.available) == (1, 19)


async def test_next_starts_at_is_the_first_start_to_come(
    make_sale: MakeSale, sale: Sale, open_worker: OpenWorker
) -> None:
    """By what this worker knows: then, or at the end of the current sale, or unknown."""
    following = await asyncio.to_thread(_closing, make_sale, starts_at=sale.ends_at + timedelta(seconds=30))
    worker = await open_worker()
    assert worker.memory.next_starts_at() == following.starts_at.timestamp()
    worker.memory.clock.offset += 7150  # the current sale has ended, the other has not begun
    assert worker.memory.next_starts_at() == following.starts_at.timestamp()
    worker.memory.clock.offset += 60
    assert worker.memory.next_starts_at() == following.ends_at.timestamp()
    worker.memory.clock.offset += YEAR
    assert worker.memory.next_starts_at() is None


def _closing(make: MakeSale, **options: Any) -> Sale:
    try:
        return make(**options)
    finally:
        connection.close()


def _certificate_of(sale_id: int) -> Any:
    try:
        return certify(Sale.objects.get(pk=sale_id))
    finally:
        connection.close()
