"""All SQL stands in `sales.statements`, and no two locks share a name."""

import ast
import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sales import statements
from sales.statements import locks

ROOT = Path(__file__).parents[3]

# Servers of their own, which know nothing of sales; and SQL that is written down once, as it was.
ROOMS = ("sales/statements", "sales/migrations", "flashsale_project/postgres", "flashsale_project/benchmark")

MODULES = [
    path
    for package in ("sales", "flashsale_project")
    for path in sorted((ROOT / package).rglob("*.py"))
    if not path.relative_to(ROOT).as_posix().startswith(ROOMS)
]

SQL = re.compile(
    r"""
    ^ \s* (?: SELECT \s | INSERT \s INTO \s | UPDATE \s .* \s SET \s | DELETE \s FROM \s
            | WITH \s .* \s AS \s | SET \s | SHOW \s | LOCK \s | BEGIN \b | (?: CREATE | ALTER | DROP ) \s )
    | \b FROM \s+ sales_ | \b pg_ (?: try_ )? advisory_
    """,
    re.VERBOSE | re.DOTALL,
)


def strings(source: str) -> Iterator[str]:
    """The text of all literals, with a gap for what an f-string puts in; docstrings are comments."""
    gc.disable()  # a collection in between makes CPython 3.11 lose count of its depth (gh-106905)
    try:
        tree = ast.parse(source)
    finally:
        gc.enable()
    comments = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
            yield node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_module_has_sql(path: Path) -> None:
    assert [text for text in strings(path.read_text()) if SQL.search(text)] == []


@pytest.mark.parametrize(
    "source",
    [
        "x = 'SELECT 1'",
        'x = f"SELECT {columns} FROM y"',
        'x = """\n    WITH a AS (SELECT) SELECT"""',
        "x('SET LOCAL jit TO off')",
        "x('SHOW server_version')",
        "x(' WHERE id IN (SELECT sale_id FROM sales_checkout)')",
    ],
)
def test_sql_is_recognised(source: str) -> None:
    assert any(SQL.search(text) for text in strings(source))


def test_every_statement_has_one_name() -> None:
    texts = [getattr(statements, name) for name in statements.__all__ if name.isupper()]
    plain = [text for text in texts if isinstance(text, str)]

    assert len(set(plain)) == len(plain)


def test_every_lock_stands_in_the_table() -> None:
    taken = [
        re.search(r"hashtext\('(.*?)'\)", text)[1]
        for name, text in vars(locks).items()
        if name.isupper() and not name.startswith("UNLOCK")
    ]

    assert len(set(taken)) == len(taken)
    assert sorted(taken) == sorted(re.findall(r"^(flashsale \w+)", locks.__doc__, re.MULTILINE))
