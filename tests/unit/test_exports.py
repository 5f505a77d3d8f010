"""The public names of `batching`, and what it must not know."""

import subprocess
import sys

import batching


def test_every_public_name_exists_and_says_what_it_is() -> None:
    for name in batching.__all__:
        text = getattr(batching, name).__doc__ or ""
        # A dataclass without a docstring gets one of its signature.
        assert text.strip(), name
        assert not text.startswith(f"{name}("), name


def test_all_is_sorted_and_complete() -> None:
    public = {
        name
        for name, value in vars(batching).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("batching")
    }
    assert batching.__all__ == sorted(public)


def test_it_knows_neither_django_nor_the_sale() -> None:
    code = "import sys, batching; print(sorted({'django', 'sales', 'psycopg'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
