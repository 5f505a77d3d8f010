"""Whether a run may be believed: what was acknowledged is in the database, and nobody was let down."""

from flashsale_project.benchmark.books import Books
from flashsale_project.benchmark.crowd_process import Outcome
from flashsale_project.benchmark.database_alone import Sold
from flashsale_project.benchmark.wrk import RaceOutcome, Traffic


def problems_of_crowd(outcome: Outcome, books: Books) -> list[str]:
    """What is wrong with a run of the crowd, which knows every code that it was given."""
    return [
        *_problems_of_clients(outcome),
        *_problems_of_books(books),
        *_if(
            books.sold != outcome.bought,
            f"{outcome.bought} purchases were acknowledged, {books.sold} items are sold",
        ),
        *_if(
            missing := len(set(outcome.codes) - books.codes),
            f"{missing} acknowledged holds are not in the database",
        ),
        *_if(
            missing := len(set(outcome.bought_codes) - books.purchased),
            f"{missing} acknowledged purchases are not in the database",
        ),
        *_if(len(set(outcome.codes)) != len(outcome.codes), "a code was given twice"),
    ]


def problems_of_sell_out(outcome: Outcome, books: Books, items: int) -> list[str]:
    """The same for a run that must sell everything."""
    return [
        *problems_of_crowd(outcome, books),
        *_if(outcome.bought != items, f"{outcome.bought} of {items} items were bought"),
        *_if(not outcome.told_sold_out, "the service did not say that it was sold out"),
    ]


def problems_of_race(outcome: RaceOutcome, books: Books, items: int) -> list[str]:
    """What is wrong after wrk has bought this many items: it knows how many codes it was given, not which."""
    return [
        *problems_of_purchases(outcome, items),
        *_if(
            books.sold != items, f"{outcome.bought} purchases were acknowledged, {books.sold} items are sold"
        ),
        *_problems_of_books(books),
    ]


def problems_of_purchases(outcome: RaceOutcome, items: int) -> list[str]:
    """What wrk has seen go wrong while it bought this many items."""
    return [
        *_if(outcome.failed, f"{outcome.failed} answers were failures"),
        *_if(outcome.held != items, f"{outcome.held} holds were acknowledged for {items} items"),
        *_if(outcome.bought != items, f"{outcome.bought} of {items} items were bought"),
    ]


def problems_of_traffic(traffic: Traffic, books: Books) -> list[str]:
    """What is wrong with a run that was cut off, so that answers may have been under way at its end."""
    most = traffic.bought + traffic.connections
    return [
        *problems_of_answers(traffic),
        *_problems_of_books(books),
        *_if(
            not traffic.bought <= books.sold <= most,
            f"{traffic.bought} purchases were acknowledged, {books.sold} items are sold",
        ),
    ]


def problems_of_refusals(traffic: Traffic) -> list[str]:
    """What is wrong with a run in which everything had to be refused."""
    return [
        *problems_of_answers(traffic),
        *_if(traffic.held or traffic.bought, f"{traffic.held + traffic.bought} requests were not refused"),
        *_if(not traffic.answers, "nothing was answered"),
    ]


def problems_of_database(sold: Sold, items: int) -> list[str]:
    """What is wrong after the database has sold everything without a service."""
    return [
        *_if(not sold.is_valid, "the certificate does not hold"),
        *_if(sold.items != items, f"{sold.items} of {items} items are sold"),
    ]


def problems_of_answers(traffic: Traffic) -> list[str]:
    """Answers and connections that failed."""
    return [
        *_if(traffic.failed, f"{traffic.failed} answers were failures"),
        *_if(traffic.connection_errors, f"{traffic.connection_errors} connections failed"),
    ]


def _problems_of_clients(outcome: Outcome) -> list[str]:
    return [
        *(f"{count} answers {status}" for status, count in outcome.failed.items()),
        *(f"{count} times: {error}" for error, count in outcome.errors.items()),
        *_if(outcome.connect_errors, f"{outcome.connect_errors} connections were refused"),
        *_if(outcome.resets, f"{outcome.resets} connections were closed on a request"),
        *_if(
            unserved := outcome.connections - outcome.connections_served,
            f"{unserved} connections were never served",
        ),
        *_if(outcome.unanswered, f"{outcome.unanswered} requests were not answered"),
        *_if(not outcome.finished, f"it was not done after {outcome.seconds:.0f} s"),
    ]


def _problems_of_books(books: Books) -> list[str]:
    return _if(not books.is_valid, f"the certificate does not hold: {books.certificate.strip()}")


def _if(condition: object, problem: str) -> list[str]:
    return [problem] if condition else []
