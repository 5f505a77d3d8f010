"""What is said and asked about sessions, and about the server that they lead to."""

from sales.statements.parts import SERVER

# Of each connection of a worker. Its statements are planned once, most likely when the tables are empty, and
# then run while they grow by a million rows: a plan that is good for an empty table would scan them all. So
# they go by the indexes from the beginning, each row of a batch by its whole key: a look into an index is
# said to cost nothing, and each row that is looked at much. That is also the order of locks, see `writes`.
# And compiling a plan takes longer than any of them runs.
# And whatever a role or a database prefers, an answer of 200 is a commit that lasts, and warnings are heard.
SETTINGS = """SELECT set_config('synchronous_commit', CASE WHEN chosen IN ('off', 'local') THEN 'on'
                                                      ELSE chosen END, false)
              FROM current_setting('synchronous_commit') AS chosen;
              SET client_min_messages TO warning;
              SET timezone TO 'UTC'; SET jit TO off; SET max_parallel_workers_per_gather TO 0;
              SET plan_cache_mode TO force_generic_plan;
              SET enable_seqscan TO off; SET enable_bitmapscan TO off;
              SET enable_hashjoin TO off; SET enable_mergejoin TO off;
              SET random_page_cost TO 0; SET seq_page_cost TO 0; SET cpu_index_tuple_cost TO 0;
              SET cpu_operator_cost TO 0; SET cpu_tuple_cost TO 1;
              SELECT set_config('deadlock_timeout', '100ms', false) FROM pg_roles
              WHERE rolname = current_user AND rolsuper"""

SESSION = f"""SELECT pid, backend_start, {SERVER} AS server, pg_is_in_recovery() AS is_standby
              FROM pg_stat_activity WHERE pid = pg_backend_pid()"""

PID = "SELECT pg_backend_pid()"

READ_ONLY = f"""SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean
                       OR NOT has_table_privilege('sales_saleitem', 'UPDATE') AS read_only,
                       {SERVER} AS server, pg_backend_pid() AS pid"""

# Seconds since the epoch, whatever transaction this is in.
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"

# A session that is at work is left to finish, which takes it no longer than its end would: where it waits
# for a standby, ending it would show everybody what no standby has. Behind a lock, or somebody who does not
# read, it may stay for ever, and has committed nothing.
END_SESSION = """SELECT CASE WHEN state = 'active' AND coalesce(wait_event_type, '') NOT IN ('Lock', 'Client')
                             THEN false ELSE pg_terminate_backend(pid) END
                 FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"""

AWAITING_STANDBY = """SELECT pid, backend_start FROM pg_stat_activity
                      WHERE pid = ANY(%s::integer[]) AND wait_event = 'SyncRep'"""

VERSION = "SHOW server_version"
