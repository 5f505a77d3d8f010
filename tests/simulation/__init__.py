"""The service on a virtual clock, a seeded scheduler and a model of the database."""
