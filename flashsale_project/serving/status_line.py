"""The status line of `runsale`: what all workers together have done since the one before."""

import time
from collections import Counter

from sales import metrics


class StatusLine:
    """Reads the metrics of the workers and tells what has changed since the last reading."""

    def __init__(self) -> None:
        self._read_at = time.monotonic()
        self.answers = 0
        """Answers given since the service was started."""
        self.alarms: list[str] = []
        """Sales whose certificate turned out to be broken since the last call of `next`."""
        self._broken: set[str] = set()
        self.figures = self._read()
        """The figures of the last reading."""

    def next(self, ready: int, workers: int) -> str:
        """The line for the time since the last call."""
        known = set(self._broken)
        now, figures = time.monotonic(), self._read()
        self.alarms = sorted(self._broken - known, key=int)
        seconds = max(now - self._read_at, 0.001)
        change = {name: figures[name] - self.figures[name] for name in figures}
        self._read_at, self.figures = now, figures
        self.answers = int(figures["answers"])
        parts = [
            time.strftime("%H:%M:%S", time.gmtime()),
            f"sale {figures['sale']:.0f}: sold {figures['sold']:,.0f}"
            f"  held {figures['held']:,.0f}  free {figures['available']:,.0f}",
            f"{change.get('answers', 0) / seconds:,.0f} answers/s",
        ]
        if batches := change.get("batches", 0):
            size, seconds = change["operations"] / batches, change["seconds"] / batches
            parts.append(f"batches of {size:.1f} saved in {seconds * 1000:.1f} ms")
        parts.append(f"{ready}/{workers} workers")
        if not figures["database"]:
            parts.append("database unavailable")
        return "  |  ".join(parts)

    def _read(self) -> Counter[str]:
        names = {
            "flashsale_answers_total": "answers",
            "flashsale_batch_size_sum": "operations",
            "flashsale_batch_size_count": "batches",
            "flashsale_batch_seconds_sum": "seconds",
            "flashsale_sale": "sale",
            "flashsale_sold_out_sale": "sold_out",
            "flashsale_database_up": "database",
        }
        figures: Counter[str] = Counter()
        for family in metrics.registry().collect():
            for sample in family.samples:
                if sample.name == "flashsale_items":
                    figures[sample.labels["state"]] = int(sample.value)
                elif sample.name == "flashsale_broken_certificates_total":
                    self._broken.add(sample.labels["sale"])
                elif sample.name in names:
                    figures[names[sample.name]] += sample.value  # type: ignore[assignment]
        return figures
