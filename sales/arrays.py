"""Arrays of a batch as PostgreSQL literals, for the one driver connection that carries the hot statements."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from psycopg.adapt import Dumper

Elements = list[int | None] | list[UUID | None] | list[str]


class ArrayDumper(Dumper):
    """Dumps a list of integers, UUIDs or strings, with ``None`` for NULL; the statement must say its type.

    psycopg's own dumper asks every element for its type and quotes it, which takes longer than deciding
    and answering the whole operation; and it sends small numbers as other types than large ones, so that
    one statement would be prepared many times.
    """

    def dump(self, obj: Any) -> bytes:
        """The array literal, such as ``{1,2,NULL}``. Raises `TypeError` for other elements."""
        elements: Elements = obj
        kinds = set(map(type, elements))
        if kinds == {int}:
            texts: Iterable[str] = map(str, elements)
        elif kinds == {UUID}:
            texts = [f"{code.int:032x}" for code in elements]  # type: ignore[union-attr]  # just looked
        else:
            texts = [_literal(element) for element in elements]
        return ("{" + ",".join(texts) + "}").encode()


def _literal(element: int | UUID | str | None) -> str:
    if isinstance(element, int):
        return str(element)
    if element is None:
        return "NULL"
    if isinstance(element, UUID):
        return f"{element.int:032x}"
    if isinstance(element, str):
        return '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'
    raise TypeError(f"an array of {type(element).__name__} is not expected here")
