"""What happens to the sales, as events of the log: once for a service, whichever workers see it first."""

import logging

from flashsale_project.serving.status_line import StatusLine

logger = logging.getLogger(__name__)


class SaleEvents:
    """Logs each fact of a sale once. Workers note them in their metrics, which outlive them."""

    def __init__(self) -> None:
        self._started: set[int] = set()
        self._sold_out: set[int] = set()

    def look(self, status: StatusLine) -> None:
        """Log what the last reading of the metrics tells for the first time."""
        figures = status.figures
        sale, sold_out = int(figures["sale"]), int(figures["sold_out"])
        if sale and sale not in self._started:
            self._started.add(sale)
            items = int(figures["sold"] + figures["held"] + figures["available"])
            logger.info("sale.started", extra={"fields": {"sale_id": sale, "items": items}})
        if sold_out and sold_out not in self._sold_out:
            self._sold_out.add(sold_out)
            logger.info("sale.sold_out", extra={"fields": {"sale_id": sold_out}})
