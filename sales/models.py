"""The tables of a sale, with constraints that make a wrong row impossible.

Rows are written by `sales.storage`, a batch at a time. In the admin they are for reading.

In the database the primary keys are ``(sale_id, id)`` and ``(sale_id, code)``, so that all of a sale can live
in one place of many. An id, or a code, has its sale in it and is the key for Django; but there is no index on
it alone, so whoever looks for one must name the sale, too.
"""

from typing import ClassVar

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, RangeOperators
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import F, Func, Q

from batching.contrib.django import VersionedModel
from sales.codes import MAX_ITEMS, MAX_SALE_ID
from sales.querysets import CheckoutQuerySet, SaleQuerySet


class Sale(models.Model):
    """Sells ``items`` numbered items within the half-open interval from ``starts_at`` to ``ends_at``."""

    starts_at = models.DateTimeField(unique=True)
    ends_at = models.DateTimeField()
    items = models.PositiveIntegerField()
    user_limit = models.PositiveIntegerField(help_text="How many items one user may hold and buy together.")
    checkout_ttl = models.PositiveIntegerField("checkout TTL", help_text="How long a hold lasts, in seconds.")
    paused = models.BooleanField(
        default=False, help_text="A paused sale grants no holds; holds can be bought."
    )
    # Set with its certificate. What workers ask for again and again are the few sales that are not closed,
    # and those stand in an index of their own, however many sales there ever were.
    closed = models.BooleanField(default=False, db_default=False, editable=False)

    objects = SaleQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-starts_at"]
        indexes: ClassVar = [
            models.Index(fields=["starts_at"], condition=Q(closed=False), name="sale_not_closed"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id__gte=1, id__lte=MAX_SALE_ID), name="sale_id_fits_codes"),
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="sale_ends_after_start"),
            models.CheckConstraint(condition=Q(items__gte=1, items__lte=MAX_ITEMS), name="sale_has_items"),
            models.CheckConstraint(condition=Q(user_limit__gte=1), name="sale_user_limit_positive"),
            models.CheckConstraint(condition=Q(checkout_ttl__gte=1), name="sale_checkout_ttl_positive"),
            ExclusionConstraint(
                name="sales_do_not_overlap",
                expressions=[
                    (
                        Func("starts_at", "ends_at", function="tstzrange", output_field=DateTimeRangeField()),
                        RangeOperators.OVERLAPS,
                    )
                ],
            ),
        ]

    def __str__(self) -> str:
        return f"Sale {self.pk} ({self.starts_at:%Y-%m-%d %H:%M:%S})"


class SaleItem(VersionedModel):
    """One unit for sale. ``version`` grows by one with every change, whoever makes it."""

    class State(models.TextChoices):
        """Where the unit is between the shelf and its buyer."""

        AVAILABLE = "available"
        HELD = "held"
        SOLD = "sold"

    id = models.BigIntegerField(primary_key=True)
    user_id = models.BigIntegerField(null=True)
    held_until = models.DateTimeField(null=True)
    purchased_at = models.DateTimeField(null=True)
    sale = models.ForeignKey(Sale, models.PROTECT, related_name="units", db_index=False)
    item_id = models.PositiveIntegerField()
    code = models.UUIDField(null=True)
    state = models.CharField(max_length=9, choices=State, default=State.AVAILABLE)

    class Meta:
        ordering: ClassVar = ["-sale_id", "-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(id=F("sale") * MAX_ITEMS + F("item_id"), item_id__lt=MAX_ITEMS),
                name="item_has_its_own_id",
            ),
            models.CheckConstraint(
                condition=Q(
                    state="available",
                    user_id__isnull=True,
                    code__isnull=True,
                    held_until__isnull=True,
                    purchased_at__isnull=True,
                )
                | Q(
                    state="held",
                    user_id__isnull=False,
                    user_id__gte=0,
                    code__isnull=False,
                    held_until__isnull=False,
                    purchased_at__isnull=True,
                )
                | Q(
                    state="sold",
                    user_id__isnull=False,
                    user_id__gte=0,
                    code__isnull=False,
                    held_until__isnull=False,
                    purchased_at__isnull=False,
                    held_until__gt=F("purchased_at"),
                ),
                name="item_columns_fit_state",
            ),
        ]

    def __str__(self) -> str:
        return f"Item {self.item_id} of sale {self.sale_id}"

    @staticmethod
    def id_of(sale_id: int, item_id: int) -> int:
        """The primary key of an item: known without asking, and in the order of sale and item."""
        return sale_id * MAX_ITEMS + item_id


class Checkout(models.Model):
    """One granted hold, and what became of it.

    A purchase writes the row of its item alone. So the checkout of a sold item with its code is purchased,
    though its own row says ``held`` until it is marked: go by `CheckoutQuerySet.with_outcome`.
    """

    class State(models.TextChoices):
        """What became of the hold."""

        HELD = "held"
        PURCHASED = "purchased"
        EXPIRED = "expired"
        RELEASED = "released"

    code = models.UUIDField(primary_key=True)
    # No foreign key constraint: it costs a look-up and a row lock on the sale for every hold granted,
    # and a hold is only ever inserted with the change of an item that has one.
    sale = models.ForeignKey(Sale, models.DO_NOTHING, db_constraint=False, db_index=False)
    item_id = models.PositiveIntegerField()
    user_id = models.BigIntegerField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    purchased_at = models.DateTimeField(null=True)
    state = models.CharField(max_length=9, choices=State)

    objects = CheckoutQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-sale_id", "-code"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(user_id__gte=0), name="checkout_user_not_negative"),
            models.CheckConstraint(
                condition=Q(
                    state="purchased",
                    purchased_at__isnull=False,
                    purchased_at__gte=F("created_at"),
                    purchased_at__lt=F("expires_at"),
                )
                | Q(state__in=["held", "expired", "released"], purchased_at__isnull=True),
                name="checkout_purchased_before_expiry",
            ),
        ]

    def __str__(self) -> str:
        return str(self.code)


class Allowance(models.Model):
    """How many items of a sale a user holds and has bought.

    The limit of the sale stands beside it, so that the database itself refuses one item too many.
    """

    pk = models.CompositePrimaryKey("sale_id", "user_id")
    sale = models.ForeignKey(Sale, models.DO_NOTHING, db_constraint=False, db_index=False)
    user_id = models.BigIntegerField()
    taken = models.PositiveIntegerField()
    user_limit = models.PositiveIntegerField()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(user_id__gte=0), name="allowance_user_not_negative"),
            models.CheckConstraint(condition=Q(taken__lte=F("user_limit")), name="allowance_within_limit"),
        ]

    def __str__(self) -> str:
        return f"{self.taken} for user {self.user_id} in sale {self.sale_id}"


class IdempotencyKey(models.Model):
    """The checkout that a request with an ``Idempotency-Key`` was granted, for when it is repeated."""

    pk = models.CompositePrimaryKey("sale_id", "user_id", "key")
    sale = models.ForeignKey(Sale, models.DO_NOTHING, db_constraint=False, db_index=False)
    user_id = models.BigIntegerField()
    key = models.CharField(max_length=64)
    item_id = models.PositiveIntegerField(null=True)  # as it was asked for; NULL: any
    code = models.UUIDField()

    def __str__(self) -> str:
        return f"{self.key} of user {self.user_id} in sale {self.sale_id}"


class Change(models.Model):
    """The items that one batch has changed, in the transaction ``xid`` (PostgreSQL's, with its epoch).

    How workers learn what others did, and what became of a batch of their own whose answer was lost: that is
    known by its ``batch``, a random number. Gone once a later sale is closed, too.
    """

    pk = models.CompositePrimaryKey("sale_id", "xid", "batch")
    sale = models.ForeignKey(Sale, models.DO_NOTHING, db_constraint=False, db_index=False)
    xid = models.BigIntegerField()
    batch = models.BigIntegerField()
    item_ids = ArrayField(models.IntegerField())

    def __str__(self) -> str:
        return f"{len(self.item_ids)} items of sale {self.sale_id}"


class SaleCertificate(models.Model):
    """What the rows of a sale proved when nothing of it could change any more. Written once.

    The document is that of `sales.certificate.Certificate`; the columns repeat what lists show.
    """

    sale = models.OneToOneField(Sale, models.PROTECT, primary_key=True, related_name="certificate")
    issued_at = models.DateTimeField()
    version = models.CharField(max_length=50)
    holds = models.BooleanField()
    document = models.JSONField(encoder=DjangoJSONEncoder)

    def __str__(self) -> str:
        return f"Certificate of sale {self.sale_id}"
