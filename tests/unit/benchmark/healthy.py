"""What a healthy run has found: the clients, the database, and a client that counts answers."""

from dataclasses import replace

from flashsale_project.benchmark.books import Books
from flashsale_project.benchmark.crowd_process import Outcome
from flashsale_project.benchmark.latency import Latency
from flashsale_project.benchmark.wrk import Traffic

LATENCY = Latency(count=1, p50=1.5, p99=20.25, p999=300, maximum=300)

OUTCOME = Outcome(
    seconds=1,
    finished=True,
    answers=5,
    held=2,
    bought=2,
    refused=1,
    failed={},
    errors={},
    told_sold_out=True,
    bought_99_percent_after=0.8,
    bought_last_after=0.9,
    checkouts=LATENCY,
    purchases=LATENCY,
    refusals=LATENCY,
    all_answers=LATENCY,
    sending_lag=LATENCY,
    connections=3,
    connections_served=3,
    connect_errors=0,
    resets=0,
    unanswered=0,
    client_cpu=0.5,
    codes=["a", "b"],
    bought_codes=["a", "b"],
)
BOOKS = Books(is_valid=True, certificate="fine", sold=2, codes=frozenset("ab"), purchased=frozenset("ab"))
TRAFFIC = Traffic(
    client="wrk",
    connections=10,
    seconds=2,
    held=3,
    bought=2,
    refused=95,
    failed=0,
    connection_errors=0,
    latency=LATENCY,
)
REFUSALS = replace(TRAFFIC, held=0, bought=0, refused=100)
