"""Optimistic locking for whole batches: a versioned model and its bulk save, for Django on PostgreSQL.

Each row carries a ``version``. A save names the version it has seen; a row that was changed since then
does not come back, and the caller decides about that one row. The others are saved all the same.
The idea is the optimistic offline lock of Fowler's "Patterns of Enterprise Application Architecture",
for many rows in one statement.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, cast

from django.db import connections, models
from django.db.models.expressions import Combinable, Value
from django.db.models.sql.compiler import SQLCompiler

M = TypeVar("M", bound="VersionedModel")
Field: TypeAlias = "models.Field[Any, Any]"


@dataclass(frozen=True, slots=True)
class VersionedUpdate:
    """One compiled statement that saves any number of rows; see `VersionedQuerySet.versioned_update`.

    ``sql`` has a placeholder for each array and each constant; `parameters` fills them. It returns the
    primary key and the new version of every row it changed, and then the ``returning`` columns.
    """

    sql: str
    fields: tuple[Field, ...]
    set_parameters: tuple[Any, ...]
    where_parameters: tuple[Any, ...]
    using: str

    def parameters(self, rows: Iterable[Sequence[Any]]) -> list[Any]:
        """Turn rows of ``(primary key, version seen, *field values)`` into the statement's parameters.

        Values are passed as they are: already what the database takes. Rows must not repeat a key.
        """
        columns: list[Any] = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in self.fields]
        return [*columns, *self.set_parameters, *self.where_parameters]

    def prepared(self, rows: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Convert the values of rows of Python objects as `Model.save` would, field by field."""
        connection = connections[self.using]
        return [
            tuple(
                field.get_db_prep_save(value, connection)
                for field, value in zip(self.fields, row, strict=True)
            )
            for row in rows
        ]


class VersionedQuerySet(models.QuerySet[M], Generic[M]):
    """A QuerySet that saves whole batches of versioned rows; see `bulk_save`."""

    def bulk_save(self, objs: Iterable[M], fields: Sequence[str], **shared: Any) -> set[M]:
        """Save these fields of these objects where nobody else has changed the row, in one statement.

        Returns the objects that were saved; each has its new ``version`` and the ``shared`` values. An
        object that is missing there is stale (or its row is gone, or outside this QuerySet): reload it.
        ``shared`` sets a field of all rows to the same value or expression, evaluated by the database.

        Raises `ValueError` for an object that comes twice, one without a primary key, or a field that
        cannot be saved this way, before anything is sent. Database errors come as usual, and then no
        row was saved. Rows are locked in the order of their primary keys, so that batches which meet
        cannot deadlock.
        """
        by_pk: dict[Any, M] = {}
        for obj in objs:
            if obj.pk is None:
                raise ValueError(f"bulk_save needs saved objects, and this one has no primary key: {obj!r}")
            if by_pk.setdefault(obj.pk, obj) is not obj:
                raise ValueError(f"{self.model.__name__} {obj.pk!r} comes twice in the batch")
        if not by_pk:
            return set()
        update = self.versioned_update(fields, returning=tuple(shared), **shared)
        rows = update.prepared(
            (
                obj.pk,
                obj.version,
                *(getattr(obj, field.attname) for field in update.fields[2:]),
            )
            for obj in by_pk.values()
        )
        saved = set()
        with connections[update.using].cursor() as cursor:
            cursor.execute(update.sql, update.parameters(rows))
            for pk, version, *values in cursor.fetchall():
                obj = by_pk[self.model._meta.pk.to_python(pk)]
                obj.version = version
                for name, value in zip(shared, values, strict=True):
                    setattr(obj, self._column(name).attname, value)
                saved.add(obj)
        return saved

    def versioned_update(
        self, fields: Sequence[str], *, returning: Sequence[str] = (), lock: bool = True, **shared: Any
    ) -> VersionedUpdate:
        """Compile the statement behind `bulk_save`, to be run many times on any connection.

        The QuerySet's own filter becomes part of it. Without ``lock`` rows are locked as the update comes to
        them, which is a third cheaper: for connections whose planner is left nothing but nested loops, for
        which that is the order of the rows, and for who can bear a deadlock. Raises `ValueError` for a field
        that cannot be saved this way and for a filter that needs a join.
        """
        # Longer than other functions here: the statement is read best as a whole, beside what goes into it.
        meta = self.model._meta
        connection = connections[self.db]
        pk, version = meta.pk, self._column("version")
        saved = [self._column(name) for name in fields]
        constants = {self._column(name): value for name, value in shared.items()}
        columns = (pk, version, *saved)
        if len({*columns, *constants}) != len(columns) + len(constants):
            raise ValueError("a field is named twice, or is the primary key or the version")

        compiler = self.query.get_compiler(connection=connection)
        where, where_parameters = compiler.compile(self.query.where) if self.query.where else ("", ())
        if sum(1 for count in self.query.alias_refcount.values() if count) > 1:
            raise ValueError("the filter of a versioned update cannot use another table")

        table = connection.ops.quote_name(meta.db_table)
        quoted = {
            field: connection.ops.quote_name(cast(str, field.column))
            for field in (*columns, *constants, *(self._column(name) for name in returning))
        }
        names = ["pk", "seen", *(f"value{n}" for n in range(len(saved)))]
        assignments = [f"{quoted[version]} = {table}.{quoted[version]} + 1"]
        assignments += [
            f"{quoted[field]} = batch.{name}" for field, name in zip(saved, names[2:], strict=True)
        ]
        set_parameters: list[Any] = []
        for field, value in constants.items():
            expression, parameters = _compile_constant(field, value, compiler)
            assignments.append(f"{quoted[field]} = {expression}")
            set_parameters += parameters
        arrays = ", ".join(f"%s::{field.cast_db_type(connection)}[]" for field in columns)
        returned = (pk, version, *(self._column(name) for name in returning))
        # A plain UPDATE … FROM locks rows in whatever order its join finds them, and two of them can
        # deadlock. So the rows are locked first, sorted; MATERIALIZED keeps the planner from inlining.
        locked = f""", locked AS MATERIALIZED (
                SELECT {table}.{quoted[pk]} AS pk
                FROM {table} JOIN batch ON {table}.{quoted[pk]} = batch.pk
                WHERE {table}.{quoted[version]} = batch.seen
                ORDER BY 1 FOR UPDATE OF {table}
            )"""
        # All versions lie between these ends. The planner takes such a condition for one that leaves a single
        # row, so that it begins with the batch and looks each row of the table up by its key.
        first = "" if lock else f"WHERE seen BETWEEN 0 AND {2**31 - 1}"
        sql = f"""
            WITH batch AS MATERIALIZED (
                SELECT * FROM unnest({arrays}) AS batch ({", ".join(names)}) {first}
            ) {locked if lock else ""}
            UPDATE {table} SET {", ".join(assignments)}
            FROM batch {"JOIN locked USING (pk)" if lock else ""}
            WHERE {table}.{quoted[pk]} = batch.pk AND {table}.{quoted[version]} = batch.seen
              {f"AND ({where})" if where else ""}
            RETURNING {", ".join(f"{table}.{quoted[field]}" for field in returned)}
        """
        return VersionedUpdate(
            sql=sql,
            fields=columns,
            set_parameters=tuple(set_parameters),
            where_parameters=tuple(where_parameters),
            using=self.db,
        )

    def _column(self, name: str) -> Field:
        field = self.model._meta.get_field(name)
        if not isinstance(field, models.Field) or field.column is None:
            raise ValueError(f"{self.model.__name__}.{name} is not a column")
        if (field.db_type(connections[self.db]) or "").endswith("]"):
            raise ValueError(f"{self.model.__name__}.{name} is an array, which unnest would flatten")
        return field


def _compile_constant(field: Field, value: Any, compiler: SQLCompiler) -> tuple[str, Sequence[Any]]:
    if isinstance(value, Combinable):
        resolved = cast(Any, value).resolve_expression(compiler.query, allow_joins=False, for_save=True)
        return compiler.compile(resolved)
    constant = Value(value, output_field=field)
    sql, parameters = compiler.compile(constant.resolve_expression(compiler.query, for_save=True))
    return f"{sql}::{field.cast_db_type(compiler.connection)}", parameters


class VersionedModel(models.Model):
    """A model whose rows carry the version that the versioned bulk save compares."""

    version = models.PositiveIntegerField(default=0, editable=False)

    objects = VersionedQuerySet.as_manager()

    class Meta:
        abstract = True


__all__ = ["VersionedModel", "VersionedQuerySet", "VersionedUpdate"]
