"""Checkout codes."""

from uuid import UUID, uuid4

import pytest

from sales.codes import MAX_ITEMS, MAX_SALE_ID, first_code, new_code, parse_code, place_of


@pytest.mark.parametrize("sale_id", [1, 2, 12345, MAX_SALE_ID])
@pytest.mark.parametrize("item_id", [0, 1, 9999, MAX_ITEMS - 1])
def test_a_code_says_its_place(sale_id: int, item_id: int) -> None:
    code = new_code(sale_id, item_id)
    assert place_of(code) == (sale_id, item_id)
    assert (code.version, code.variant) == (8, "specified in RFC 4122")


def test_72_bits_are_random() -> None:
    codes = [new_code(3, 7).int for _ in range(2000)]
    changed = 0
    for code in codes:
        changed |= code ^ codes[0]
    assert changed.bit_count() == 72
    assert len(set(codes)) == 2000


def test_codes_sort_by_sale_and_item() -> None:
    codes = [new_code(sale, item) for sale in (1, 2, 3) for item in (0, 5, 9999)]
    assert codes == sorted(codes)
    assert first_code(2) < codes[3]
    assert codes[5] < first_code(3)


def test_other_uuids_have_no_place() -> None:
    assert place_of(uuid4()) is None
    assert place_of(UUID(int=0)) is None
    assert place_of(UUID(int=2**128 - 1)) is None


def test_either_case_is_the_same_code() -> None:
    code = new_code(1, 2)
    assert parse_code(str(code)) == parse_code(str(code).upper()) == code


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "0" * 32,
        "{00000000-0000-8000-8000-000000000000}",
        "urn:uuid:00000000-0000-8000-8000-000000000000",
        "00000000-0000-8000-8000-00000000000",
        "00000000-0000-8000-8000-0000000000000",
        "00000000-0000-8000-8000-00000000000g",
        "00000000-0000-8000-8000-00000000000٣",
        " 00000000-0000-8000-8000-000000000000",
        "00000000-0000-8000-8000-000000000000\n",
        "000000000000-8000-8000-0000-00000000",
    ],
)
def test_anything_else_is_not_a_code(text: str) -> None:
    assert parse_code(text) is None
