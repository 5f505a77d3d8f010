"""How much of something there may be at once."""


class Budget:
    """A number of bytes that many share."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    def change(self, difference: int) -> bool:
        """Take more, or give back what is negative; false, and nothing is taken, where it is too much."""
        if difference > 0 and self.used + difference > self.total:
            return False
        self.used += difference
        return True
