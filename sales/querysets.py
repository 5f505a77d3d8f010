"""Named reads of sales and of checkouts."""

from datetime import datetime
from typing import Generic, Self, TypeVar

from django.apps import apps
from django.db import models
from django.db.models import Case, CharField, Count, F, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Coalesce, Greatest, JSONObject, Now

from sales.codes import MAX_ITEMS

S = TypeVar("S", bound=models.Model)
C = TypeVar("C", bound=models.Model)


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


class CheckoutQuerySet(models.QuerySet[C], Generic[C]):
    """Checkouts, and what became of them."""

    def with_outcome(self) -> Self:
        """Annotate ``outcome`` (the state) and ``bought_at``, which are true before a row is marked, too."""
        item = apps.get_model("sales", "SaleItem")  # whose module needs this one
        sold = item.objects.filter(
            sale_id=OuterRef("sale_id"),
            pk=OuterRef("sale_id") * MAX_ITEMS + OuterRef("item_id"),
            code=OuterRef("code"),
            state=item.State.SOLD,
        ).order_by()
        is_bought = Q(state="held", sold_at__isnull=False)
        return self.annotate(
            sold_at=Subquery(sold.values("purchased_at")),
            outcome=Case(When(is_bought, then=Value("purchased")), default=F("state")),
            bought_at=Case(
                When(is_bought, then=Greatest("sold_at", "created_at")), default=F("purchased_at")
            ),
        )
