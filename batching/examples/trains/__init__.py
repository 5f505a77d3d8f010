"""Seats on trains: the worked example of `batching`, with Django; after elgopher/batch-example.

Read `models` (what a booking is), then `booking` (how many of them become one save), then `views`.
"""
