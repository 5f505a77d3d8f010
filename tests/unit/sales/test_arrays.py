"""Array literals as PostgreSQL reads them."""

from typing import Any
from uuid import UUID

import psycopg
import pytest

from sales.arrays import ArrayDumper
from sales.connections import connection_info

CODES = [UUID(int=0), UUID(int=2**128 - 1), UUID("00000040-0072-80d2-8b06-7bc5baa26c1e")]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bigint", []),
        ("bigint", [0, -1, 2**63 - 1, None, -(2**63)]),
        ("integer", [1]),
        ("uuid", []),
        ("uuid", [*CODES, None]),
        ("uuid", [None]),
        ("text", ["a", "", "NULL", 'quote " and \\ and , and {}', "'; --"]),
    ],
)
def test_postgresql_reads_what_was_meant(kind: str, values: list[Any]) -> None:
    with psycopg.connect(connection_info()) as connection:
        connection.adapters.register_dumper(list, ArrayDumper)
        cursor = connection.execute(f"SELECT * FROM unnest(%s::{kind}[])", [values])
        assert [value for (value,) in cursor.fetchall()] == values


@pytest.mark.parametrize("element", [1.5, b"x", [1]])
def test_other_elements_are_refused(element: Any) -> None:
    with pytest.raises(TypeError, match="is not expected here"):
        ArrayDumper(list).dump([element])
