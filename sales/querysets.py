"""Named reads of sales."""

from datetime import datetime
from typing import Generic, Self, TypeVar

from django.apps import apps
from django.db import models
from django.db.models import Case, CharField, Count, F, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Coalesce, JSONObject, Now

S = TypeVar("S", bound=models.Model)


class SaleQuerySet(models.QuerySet[S], Generic[S]):
    """Sales by time, and with their counts."""

    def at(self, moment: datetime) -> Self:
        """The sale whose half-open interval holds this moment, if there is one."""
        return self.filter(starts_at__lte=moment, ends_at__gt=moment)

    def with_counts(self) -> Self:
        """Annotate ``counts``: items that are ``sold`` and ``held``, in one query.

        One correlated subquery packs both, so that the items of each sale are read once; and only those of
        the sales that come back, so filter for a page first: an OFFSET counts all that it skips.
        """
        item = apps.get_model("sales", "SaleItem")  # whose module needs this one
        sold = Count("pk", filter=Q(state=item.State.SOLD))
        held = Count("pk", filter=Q(state=item.State.HELD, held_until__gt=Now()))
        units = item.objects.filter(sale=OuterRef("pk")).order_by()
        counts = units.values("sale").annotate(n=JSONObject(sold=sold, held=held)).values("n")
        none = Value({"sold": 0, "held": 0}, models.JSONField())
        return self.annotate(counts=Coalesce(Subquery(counts), none))

    def with_certified(self) -> Self:
        """Annotate ``certified``: whether the certificate holds; ``None`` where there is none."""
        return self.annotate(certified=F("certificate__holds"))

    def with_state(self) -> Self:
        """Annotate ``state`` by the database's clock: upcoming, on sale, paused or ended."""
        return self.annotate(
            state=Case(
                When(ends_at__lte=Now(), then=Value("ended")),
                When(starts_at__gt=Now(), then=Value("upcoming")),
                When(paused=True, then=Value("paused")),
                default=Value("on sale"),
                output_field=CharField(),
            )
        )
