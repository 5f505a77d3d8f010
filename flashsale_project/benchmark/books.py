"""What the database says of a sale after a run: the other half of every claim of a client."""

import subprocess
import sys
from dataclasses import dataclass

import psycopg
from django.conf import settings

VERIFY_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """The rows of the current sale. ``certificate`` is what `verifysale` prints, ``is_valid`` its verdict.

    ``codes`` are those of all checkouts, ``purchased`` those by which items are sold.
    """

    is_valid: bool
    certificate: str
    sold: int
    codes: frozenset[str]
    purchased: frozenset[str]


def read_books(url: str, environment: dict[str, str]) -> Books:
    """Certify the current sale of this database and read its rows. Raises `RuntimeError` where it cannot."""
    current = "sale_id = (SELECT id FROM sales_sale WHERE now() >= starts_at AND now() < ends_at)"
    try:
        verified = subprocess.run(
            [sys.executable, "manage.py", "verifysale"],
            cwd=settings.BASE_DIR,
            env=environment | {"DATABASE_URL": url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=VERIFY_SECONDS,
            start_new_session=True,  # a Ctrl-C in the terminal is for the command alone
        )
        with psycopg.connect(url, autocommit=True) as connection:
            sold = connection.execute(
                f"SELECT code::text FROM sales_saleitem WHERE {current} AND state = 'sold'"
            ).fetchall()
            held = connection.execute(f"SELECT code::text FROM sales_checkout WHERE {current}").fetchall()
    except (subprocess.SubprocessError, psycopg.Error) as error:
        raise RuntimeError(f"The database cannot be verified: {error}") from error
    return Books(
        is_valid=verified.returncode == 0,
        certificate=verified.stdout + verified.stderr,
        sold=len(sold),
        codes=frozenset(code for (code,) in held),
        purchased=frozenset(code for (code,) in sold),
    )
