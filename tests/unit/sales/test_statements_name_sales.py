"""Every statement says of which sale its rows are: their keys begin with it, and no index is without it."""

import re
from collections.abc import Iterator

import pytest

from sales import statements

TABLES = ("sales_saleitem", "sales_checkout", "sales_allowance", "sales_idempotencykey", "sales_change")

OF_TABLE = re.compile(
    rf"\b(FROM|JOIN|UPDATE|INTO|,)\s+({'|'.join(TABLES)})\b(?:\s+AS\s+(\w+))?", re.IGNORECASE
)

WORDS = re.compile(r"'[^']*'|--[^\n]*")


def all_statements() -> Iterator[tuple[str, str]]:
    """Every statement by its name."""
    for name in statements.__all__:
        value = getattr(statements, name)
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict):
            yield from value.items()
    for keyed in (False, True):
        yield f"hold, keyed: {keyed}", statements.hold(1, 60, keyed=keyed)[1]


def unnamed(statement: str) -> list[str]:
    """The tables of ours in a statement, by their names in it, for which it does not name the sale."""
    text = re.sub(r"%\(\w+\)s", "%s", WORDS.sub("''", statement))
    return [
        alias or table
        for verb, table, alias, scope in _occurrences(text)
        if not _names_sale(verb, alias or table, scope)
    ]


def _occurrences(text: str) -> Iterator[tuple[str, str, str | None, str]]:
    """How a table is used, its name, its alias, and the query between parentheses in which it is."""
    for found in OF_TABLE.finditer(text):
        yield found[1].upper(), found[2], found[3], _scope(text, found.start())


def _scope(text: str, place: int) -> str:
    """The text of the innermost parentheses around a place, without what is in parentheses within it, but for
    the lists of columns and of conditions."""
    depth, start = 0, 0
    for index in range(place - 1, -1, -1):
        depth += (text[index] == ")") - (text[index] == "(")
        if depth < 0:
            start = index + 1
            break
    depth, end = 0, len(text)
    for index in range(place, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth < 0:
            end = index
            break
    scope = text[start:end]
    while (plainer := re.sub(r"(?<=\w)\([^()]*\)", "", scope)) != scope:  # calls of functions
        scope = plainer
    while (plainer := re.sub(r"\(\s*(?:WITH|SELECT|UPDATE|INSERT)\b[^()]*\)", "()", scope)) != scope:
        scope = plainer
    return scope


def _names_sale(verb: str, name: str, scope: str) -> bool:
    own = rf'(?:"?{name}"?\.)"?sale_id"?'
    if verb == "INTO":
        return bool(re.search(rf"\b{name}\s*\([^)]*\bsale_id\b", scope))
    alone = len(OF_TABLE.findall(scope)) == 1
    column = rf'(?:{own}|(?<![.\w"])"?sale_id"?)' if alone else own
    return bool(re.search(rf"{column}\s*=|=\s*{column}|USING\s*\([^)]*\bsale_id\b", scope))


@pytest.mark.parametrize(("name", "statement"), list(all_statements()))
def test_it_names_the_sale_of_each_table(name: str, statement: str) -> None:
    assert unnamed(statement) == []


@pytest.mark.parametrize(
    ("statement", "tables"),
    [
        ("SELECT 1 FROM sales_saleitem WHERE id = 1", ["sales_saleitem"]),
        ("SELECT 1 FROM sales_saleitem WHERE sale_id = 1", []),
        ("SELECT sale_id FROM sales_saleitem WHERE id = 1", ["sales_saleitem"]),
        (
            "SELECT FROM sales_saleitem AS i JOIN sales_checkout AS c ON c.code = i.code WHERE i.sale_id = 1",
            ["c"],
        ),
        ("SELECT 1 FROM sales_change JOIN unnest(1) AS a (sale_id) USING (sale_id)", []),
        (
            "WITH a AS (SELECT 1 FROM sales_change WHERE sale_id = 1) SELECT 1 FROM a, sales_checkout AS c",
            ["c"],
        ),
        ("UPDATE sales_checkout AS c SET state = '' FROM a WHERE c.code = a.code", ["c"]),
        ("INSERT INTO sales_change (xid) SELECT 1 FROM a WHERE a.sale_id = 1", ["sales_change"]),
        ("SELECT 1 FROM sales_saleitem WHERE id IN (SELECT 1 FROM b WHERE sale_id = 1)", ["sales_saleitem"]),
    ],
)
def test_a_table_without_its_sale_is_found(statement: str, tables: list[str]) -> None:
    assert unnamed(statement) == tables


def test_every_table_is_in_some_statement() -> None:
    everything = " ".join(text for _, text in all_statements())
    assert [table for table in TABLES if table not in everything] == []
