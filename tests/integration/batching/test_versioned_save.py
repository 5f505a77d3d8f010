"""The versioned bulk save, against real PostgreSQL."""

import threading
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from tests.models import Coded, Sample

pytestmark = pytest.mark.django_db


def make(count: int) -> list[Sample]:
    return Sample.objects.bulk_create([Sample(integer=n) for n in range(count)])


def stored(sample: Sample, *fields: str) -> tuple[object, ...]:
    return Sample.objects.values_list(*fields).get(pk=sample.pk)


def test_saves_all_fresh_rows_in_one_statement() -> None:
    samples = make(100)
    for sample in samples:
        sample.integer = sample.integer + 1000

    with CaptureQueriesContext(
        connection,
    ) as queries:
        saved = Sample.objects.bulk_save(samples, ["integer"])

    assert len(queries) == 1
    assert saved == set(samples)
    assert [sample.version for sample in samples] == [1] * 100
    assert list(Sample.objects.order_by("pk").values_list("integer", "version")) == [
        (n + 1000, 1) for n in range(100)
    ]


def test_one_stale_row_does_not_come_back_and_harms_no_neighbour() -> None:
    samples = make(3)
    Sample.objects.filter(pk=samples[1].pk).update(integer=-1, version=F("version") + 1)
    for sample in samples:
        sample.integer = 7

    saved = Sample.objects.bulk_save(samples, ["integer"])

    assert saved == {samples[0], samples[2]}
    assert [sample.version for sample in samples] == [1, 0, 1]
    assert stored(samples[1], "integer", "version") == (-1, 1)
    assert stored(samples[0], "integer", "version") == (7, 1)


def test_a_stale_row_can_be_reloaded_and_saved() -> None:
    (sample,) = make(1)
    Sample.objects.update(version=5)
    assert Sample.objects.bulk_save([sample], ["integer"]) == set()

    sample.refresh_from_db()
    sample.integer = 9

    assert Sample.objects.bulk_save([sample], ["integer"]) == {sample}
    assert stored(sample, "integer", "version") == (9, 6)


def test_all_stale_rows_change_nothing() -> None:
    samples = make(3)
    Sample.objects.update(version=1)
    assert Sample.objects.bulk_save(samples, ["integer"]) == set()
    assert list(Sample.objects.order_by("pk").values_list("integer", "version")) == [(0, 1), (1, 1), (2, 1)]


def test_a_row_that_is_gone_is_stale() -> None:
    samples = make(2)
    Sample.objects.filter(pk=samples[0].pk).delete()
    assert Sample.objects.bulk_save(samples, ["integer"]) == {samples[1]}


def test_an_empty_batch_sends_nothing(django_assert_num_queries: object) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert Sample.objects.bulk_save([], ["integer"]) == set()


def test_a_duplicate_in_the_batch_is_refused_before_anything_is_sent() -> None:
    (sample,) = make(1)
    twin = Sample.objects.get(pk=sample.pk)
    with CaptureQueriesContext(connection) as queries, pytest.raises(ValueError, match="comes twice"):
        Sample.objects.bulk_save([sample, twin], ["integer"])
    assert len(queries) == 0
    assert stored(sample, "version") == (0,)


def test_an_object_that_was_never_saved_is_refused() -> None:
    with pytest.raises(ValueError, match="no primary key"):
        Sample.objects.bulk_save([Sample()], ["integer"])


VALUES = {
    "integer": -(2**31),
    "big": 2**63 - 1,
    "small": 32767,
    "real": 1.5,
    "exact": Decimal("123456789.125"),
    "flag": True,
    "short": "ünï'\"%s",
    "long": "line\nline\t{,}\\",
    "moment": datetime(2026, 2, 28, 23, 59, 59, 999999, tzinfo=UTC),
    "day": date(2024, 2, 29),
    "span": timedelta(days=-1, microseconds=1),
    "uuid": uuid.UUID(int=2**128 - 1),
    "document": {"a": [1, None, "%s"], "ü": {"b": 1.5}},
    "raw": b"\x00\xff%s",
    "renamed": 5,
}


def test_every_type_comes_back_as_it_was_saved() -> None:
    samples = make(2)
    for name, value in VALUES.items():
        setattr(samples[0], name, value)
    samples[0].parent = samples[1]

    saved = Sample.objects.bulk_save(samples, [*VALUES, "parent"])

    assert saved == set(samples)
    reloaded = Sample.objects.get(pk=samples[0].pk)
    values = {name: getattr(reloaded, name) for name in VALUES}
    values["raw"] = bytes(values["raw"])
    assert values == VALUES
    assert reloaded.parent_id == samples[1].pk


def test_nulls_are_saved_beside_values() -> None:
    samples = [Sample.objects.create(**VALUES) for _ in range(2)]
    for name in VALUES:
        setattr(samples[0], name, None)

    Sample.objects.bulk_save(samples, list(VALUES))

    empty = Sample.objects.values(*VALUES).get(pk=samples[0].pk)
    assert set(empty.values()) == {None}
    assert stored(samples[1], "integer", "short") == (VALUES["integer"], VALUES["short"])


def test_a_uuid_can_be_the_primary_key() -> None:
    coded = [Coded.objects.create(code=uuid.uuid4(), name="a") for _ in range(3)]
    for one in coded:
        one.name = "b"
    assert Coded.objects.bulk_save(coded, ["name"]) == set(coded)
    assert set(Coded.objects.values_list("name", "version")) == {("b", 1)}


def test_shared_values_and_expressions_are_set_and_given_back() -> None:
    samples = make(2)
    before = datetime.now(UTC) - timedelta(seconds=5)

    saved = Sample.objects.bulk_save(
        samples, ["integer"], short="same", moment=Now() + timedelta(hours=1), big=F("integer") + 1
    )

    assert saved == set(samples)
    assert [sample.short for sample in samples] == ["same", "same"]
    assert [sample.big for sample in samples] == [1, 2]
    assert samples[0].moment == samples[1].moment == stored(samples[0], "moment")[0]
    assert samples[0].moment > before + timedelta(hours=1)


def test_the_filter_of_the_queryset_is_part_of_the_statement() -> None:
    samples = make(3)
    saved = Sample.objects.filter(integer__gte=1).exclude(integer=2).bulk_save(samples, [], flag=True)
    assert saved == {samples[1]}
    assert list(Sample.objects.order_by("pk").values_list("flag", flat=True)) == [None, True, None]


@pytest.mark.parametrize(
    ("fields", "shared", "message"),
    [
        (["version"], {}, "named twice"),
        (["id"], {}, "named twice"),
        (["integer", "integer"], {}, "named twice"),
        (["integer"], {"integer": 1}, "named twice"),
        (["sample"], {}, "not a column"),
    ],
)
def test_fields_that_cannot_be_saved_are_refused(
    fields: list[str], shared: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Sample.objects.bulk_save(make(1), fields, **shared)


def test_a_filter_over_another_table_is_refused() -> None:
    with pytest.raises(ValueError, match="another table"):
        Sample.objects.filter(parent__integer=1).bulk_save(make(1), ["integer"])


def test_a_database_error_saves_no_row() -> None:
    samples = make(2)
    samples[0].integer = 7
    samples[1].small = -1  # refused by the column's CHECK
    with pytest.raises(DatabaseError), transaction.atomic():
        Sample.objects.bulk_save(samples, ["integer", "small"])
    assert stored(samples[0], "integer", "version") == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_batches_that_meet_neither_deadlock_nor_overwrite_each_other() -> None:
    """Two threads save the same rows, one forwards and one backwards, again and again."""
    rounds, pks = 30, [sample.pk for sample in make(50)]
    saved: list[int] = []
    failures: list[BaseException] = []
    start = threading.Barrier(2)

    def work(backwards: bool) -> None:
        try:
            start.wait()
            for _ in range(rounds):
                samples = sorted(Sample.objects.filter(pk__in=pks), key=lambda s: s.pk, reverse=backwards)
                for sample in samples:
                    sample.integer += 1
                saved.append(len(Sample.objects.bulk_save(samples, ["integer"])))
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(backwards,)) for backwards in (False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    # Each save that came back is one increment and one version, and no other is.
    total = sum(Sample.objects.values_list("version", flat=True))
    assert total == sum(saved)
    assert sum(Sample.objects.values_list("integer", flat=True)) == total + sum(range(50))
