"""How many bytes there may be at once of something that many share."""


class Budget:
    """A number of bytes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    def change(self, difference: int) -> bool:
        """Take more, or give back what is negative; false, and nothing is taken, where it is too much."""
        if difference > 0 and self.used + difference > self.total:
            return False
        self.used += difference
        return True


class Share:
    """What one of the many has of a budget. It must be given back, with ``resize(0)``."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def resize(self, size: int) -> bool:
        """Have so many bytes from now on; false, and nothing has changed, where it is too much."""
        if not self._budget.change(size - self.size):
            return False
        self.size = size
        return True
