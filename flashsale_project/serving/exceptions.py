"""What keeps a service from being run."""


class CannotStart(Exception):
    """The service cannot start; the message tells its operator why, and what to do."""
