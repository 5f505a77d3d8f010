"""Exact under fire: every fault runs under the load of `tests.acceptance.history`, and its judge decides.

Under pytest each fault is short and on the express lane. ``python -m tests.acceptance.faults`` prints a table
of what happened; with ``--full`` everything is longer, and on both lanes.
"""
