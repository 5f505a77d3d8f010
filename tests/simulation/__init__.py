"""The service on a virtual clock, a seeded scheduler and a model of the database.

``python -m tests.simulation --seed 123`` plays one simulation and prints its trace. From the bottom up:

- time and chance: `loop` (virtual time, one step of some process at a time), `weather` and `scenario` (how
  wild it is, drawn from the seed);
- the model of the database: `rows`, `replication` (a standby), `database` (what is committed, who has locked
  what), `transaction` (what each statement does), `sql` (which statement of the service that is); `sides`,
  `comparison` and `test_model` hold it against PostgreSQL;
- the way there, in place of psycopg: `server`, `session`, `connection`;
- the service: `worker`, the real runtime on all of this;
- the judge: `checks` (rows, and what workers know), `memory` (what they knew when), `calls`, `refusals` and
  `answers` (what clients are told, and whether it is true);
- the course: `world`, `asking` and `clients` (what people do), `troubles` (what happens), `ending`, `play`;
  `simulation` runs one, and `test_simulation` many;
- `broken`, `broken_connections`: deliberate faults, each of which must be found.

What is drawn, and in which order, makes a seed: one draw more, or in another place, and every seed is another
simulation.
"""
