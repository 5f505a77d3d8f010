"""The advisory locks of the service, all in one place: no two of them may share a name.

======================  ===============================  ================================  ==================
name                    guards                           taken by                          until
======================  ===============================  ================================  ==================
flashsale sweep, sale   the sweep of a sale              a worker's housekeeping, which    the transaction
                                                         leaves it to whoever is at it     ends
flashsale rotation      making the current and the next  workers, ``runsale`` and          the transaction
                        sale                             ``rotatesale``, which wait        ends
flashsale certificate   writing certificates             a worker's certifier, which       its connection is
                                                         leaves it to whoever is at it     closed
flashsale migration     running migrations               ``runsale``, which waits          it is given back
======================  ===============================  ================================  ==================
"""

TRY_LOCK_SWEEP = "SELECT pg_try_advisory_xact_lock(hashtext('flashsale sweep'), %s::integer)"

LOCK_ROTATION = "SELECT pg_advisory_xact_lock(hashtext('flashsale rotation'))"

TRY_LOCK_CERTIFICATES = "SELECT pg_try_advisory_lock(hashtext('flashsale certificate'))"

LOCK_MIGRATION = "SELECT pg_advisory_lock(hashtext('flashsale migration'))"
UNLOCK_MIGRATION = "SELECT pg_advisory_unlock(hashtext('flashsale migration'))"
