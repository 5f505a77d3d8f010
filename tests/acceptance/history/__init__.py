"""A small Jepsen for sales: a load of many clients, its history, and a judge that knows what must hold.

`driver` makes the load and records it, `rows` reads the database once it is over, `checker` compares the
two: pure functions, without a guess. Alone: ``python -m tests.acceptance.history --help``.
"""
