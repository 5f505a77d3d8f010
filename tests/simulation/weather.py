"""How the network and the server of a simulation behave: what becomes of a statement."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How the network and the server behave. Chances are of one statement; times are in seconds."""

    latency: float = 0.001
    request_lost: float = 0
    """The connection breaks before the server knows of the statement."""
    answer_lost: float = 0
    """The connection breaks while the server is at work on the statement, or just after its commit."""
    refused: float = 0
    """The server gives an error, and nothing has happened."""
    late_request: float = 0
    """The statement is under way to the server for longer than most would wait for it."""
    late_answer: float = 0
    """Its answer is."""
    overtaken: float = 0
    """The connection breaks at once, and the statement comes to the server all the same, some time later."""
    batch_lost: float = 0
    """Of the statement of a batch: it is `request_lost` or `overtaken`, and then nothing fails for as long as
    it may take to do it again."""
    read_lost: float = 0
    """The same of any other statement, which never comes to the server then."""
    slow_end: float = 0.1
    """Not of a statement: a session goes on for long when it was told to end."""
    commit: float = 0
    """Seconds, on average, until a commit is on the disk, which nobody sees before; none where it is 0."""

    def fate(self, number: float) -> str:
        """What becomes of a statement that drew this number from 0 to 1."""
        for name in ("request_lost", "answer_lost", "refused", "late_request", "late_answer", "overtaken"):
            number -= getattr(self, name)
            if number < 0:
                return name
        return "done"


CALM = Weather(latency=0.0005)
FAIR = Weather(latency=0.002)
ONE_LOSS = Weather(latency=0.002, batch_lost=0.3, read_lost=0.1, slow_end=0)
SLOW_END = Weather(latency=0.005, overtaken=0.15, slow_end=1)
SLOW_COMMITS = Weather(latency=0.002, commit=0.4)
"""Nothing fails, but commits take long beside short holds."""
BAD = [
    Weather(latency=0.05),
    Weather(latency=0.002, request_lost=0.05, answer_lost=0.05),
    Weather(latency=0.01, answer_lost=0.2),
    Weather(latency=0.002, refused=0.1),
    Weather(latency=0.02, late_request=0.05, late_answer=0.1),
    Weather(latency=0.005, overtaken=0.2),
    Weather(latency=0.01, answer_lost=0.05, overtaken=0.2),
    SLOW_END,
    Weather(
        latency=0.01,
        request_lost=0.03,
        answer_lost=0.05,
        refused=0.03,
        late_request=0.01,
        late_answer=0.01,
        overtaken=0.02,
    ),
]
