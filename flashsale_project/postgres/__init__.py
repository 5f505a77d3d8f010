"""The embedded PostgreSQL. As a Django database backend: use this package's name as ENGINE."""
