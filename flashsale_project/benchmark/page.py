"""A page with the tables of the race between two marks, such as the README here."""

from flashsale_project.benchmark.race_report import race_page
from flashsale_project.benchmark.results import Results

BEGIN, END = "<!-- benchsale -->", "<!-- end of benchsale -->"


def has_marks(page: str) -> bool:
    """Whether there is a place for the tables."""
    _, begin, rest = page.partition(BEGIN)
    return bool(begin) and END in rest


def filled_in(page: str, results: Results) -> str:
    """The page with these results. Raises `ValueError` where it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("The page has no place for the tables.")
    return f"{before}{BEGIN}\n\n{race_page(results)}\n\n{END}{after}"
