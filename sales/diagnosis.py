"""What an error of the database means for whoever typed a command, in a sentence or two."""

import psycopg
from django.db import DatabaseError, connection

MIGRATE = "`python manage.py runsale` makes them, and so does `python manage.py migrate`."


def diagnose(error: Exception) -> str:
    """Name the database, what it said, and what to do; never the password. No line breaks."""
    cause = error.__cause__ if isinstance(error, DatabaseError) and error.__cause__ is not None else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # Where a server was reached, what it said follows where it was.
    said = lines[0].rpartition("FATAL:")[2].strip().rstrip(".") if lines else type(cause).__name__
    match cause:
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            return f"The database has not all tables of this version ({said}): {MIGRATE}"
        case psycopg.errors.InsufficientPrivilege():
            role = connection.settings_dict["USER"]
            return (
                f"The database does not allow this to {role} ({said}): make {role} the owner of the database."
            )
        case psycopg.OperationalError() if cause.sqlstate is None:  # it was not reached, or let nobody in
            return f"{_where()} cannot be used: {said}. Is DATABASE_URL right?"
    return f"{_where()} cannot be used: {said}."


def _where() -> str:
    database = connection.settings_dict
    return f"The database {database['NAME']} at {database['HOST'] or 'localhost'}:{database['PORT'] or 5432}"
