"""A Django database backend on the embedded PostgreSQL: use this package's name as ENGINE."""
