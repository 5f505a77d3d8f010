"""The processes of the service: a supervisor, its workers, and what people see of them."""
