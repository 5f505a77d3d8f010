"""Items and checkouts, which come by the million: their lists keep to the primary keys."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.paginator import Paginator
from django.db.models import BooleanField, F, Func, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.functional import cached_property

from sales.admin.careful import AnyAdmin, ReadOnlyAdmin
from sales.admin.cells import link, moment
from sales.codes import MAX_ITEMS, MAX_SALE_ID, parse_code, place_of
from sales.models import Checkout, Sale, SaleItem
from sales.parameters import whole_number
from sales.querysets import CheckoutQuerySet

if TYPE_CHECKING:  # generic for the type checker alone
    AnyPaginator = Paginator[Any]
else:
    AnyPaginator = Paginator

MAX_COUNT = 10_000
"""Rows of a list that are counted and paged through; whoever looks for others filters or searches."""

NEWEST_SALES = 20
"""Sales that are offered as a filter."""

MAX_WORDS = 3
"""Words of a search that can make sense together: a user, an item and a code."""


class AtLeast(int):
    """A count that went no further."""

    def __str__(self) -> str:
        return f"more than {int(self):,}"


class CappedPaginator(AnyPaginator):
    """Counts no more than `MAX_COUNT` rows, and pages through no more: the last page costs what that does."""

    @cached_property
    def count(self) -> int:
        """The rows, or `AtLeast` as many as are paged through."""
        rows = cast("QuerySet[Any]", self.object_list)
        count = rows.order_by()[: MAX_COUNT + 1].count()
        return AtLeast(MAX_COUNT) if count > MAX_COUNT else count


class KeyOrderedChangeList(ChangeList):
    """Always in the order of the primary key, whatever ``?o=`` says: any other sorts the whole table."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """The newest sale first, and in each the highest item."""
        return ["-sale_id", "-pk"]


class StateFilter(admin.SimpleListFilter):
    """Filters by a state of the model; one that it does not have finds nothing."""

    title = "state"
    parameter_name = "state__exact"

    def lookups(self, request: HttpRequest, model_admin: AnyAdmin) -> Iterable[tuple[str, str]]:
        """The states of the model, with their labels."""
        return cast("list[tuple[str, str]]", model_admin.model.State.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows in the state that is chosen, if one is."""
        if (value := self.value()) is None:
            return queryset
        if value not in dict(self.lookup_choices):
            return queryset.none()
        return queryset.filter(**{"outcome" if queryset.model is Checkout else "state": value})


class SaleFilter(admin.SimpleListFilter):
    """Filters by sale, with which the primary keys begin. Offers the newest ones; links lead to any."""

    title = "sale"
    parameter_name = "sale__id__exact"

    def lookups(self, request: HttpRequest, model_admin: AnyAdmin) -> Iterable[tuple[str, str]]:
        """The newest sales, and the one that is chosen."""
        newest = Sale.objects.order_by("-starts_at").values_list("pk", "starts_at")[:NEWEST_SALES]
        choices = {str(pk): f"{pk} · {starts_at:%Y-%m-%d %H:%M}" for pk, starts_at in newest}
        if (value := self.value()) is not None:  # where there are no choices, Django does not filter
            choices.setdefault(value, value)
        return choices.items()

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows of the sale that is chosen, if one is."""
        if (value := self.value()) is None:
            return queryset
        sale_id = whole_number(value)
        if sale_id is None or sale_id > MAX_SALE_ID:
            return queryset.none()
        return queryset.filter(sale_id=sale_id)


class RowAdmin(ReadOnlyAdmin):
    """What the lists of items and of checkouts have in common."""

    list_filter = (StateFilter, SaleFilter)
    lookups = ("state__exact", "sale__id__exact")
    search_fields = ("code", "user_id", "item_id")  # shows the box; see `get_search_results`
    search_help_text = (
        "A checkout code, a user id or an item id. user:5 or item:7 look for one of them only; "
        "together they must both match. Choose a sale first to search it alone."
    )
    ordering = ("-sale_id", "-pk")
    sortable_by = ()
    actions = None
    paginator = CappedPaginator

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list that keeps its order."""
        return KeyOrderedChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find the rows that match every word; a word that makes no sense matches none."""
        # Django's form makes an empty search of one with NUL in it, and that would list everything.
        words = (search_term or request.GET.get(SEARCH_VAR, "")).split()
        for word in words:
            condition = self.condition(word)
            if condition is None or len(words) > MAX_WORDS:
                return queryset.none(), False
            queryset = queryset.filter(condition)
        return queryset, False

    def condition(self, word: str) -> Q | None:
        """What a word of the search asks for; ``None`` where it makes no sense."""
        kind, _, value = word.lower().rpartition(":")
        if (code := parse_code(value)) is not None:
            return self.has_code(code) if kind in ("", "code") else None
        if (n := whole_number(value)) is None:
            return None
        match kind:
            case "":
                return Q(user_id=n) | Q(item_id=n)
            case "user":
                return Q(user_id=n)
            case "item":
                return self.has_item(n)
            case _:
                return None

    def has_code(self, code: UUID) -> Q | None:
        """The row of a code, by its primary key; ``None`` for a UUID that is none of ours."""
        raise NotImplementedError

    def has_item(self, item_id: int) -> Q | None:
        """The rows of an item number, in any sale."""
        return Q(item_id=item_id)

    def key_of(self, object_id: str) -> dict[str, Any] | None:
        """The primary key that a URL names; ``None`` where there is no such row."""
        raise NotImplementedError

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The row of a page, by its whole primary key: there is no index on a part of it."""
        key = self.key_of(object_id)
        return None if key is None else self.get_queryset(request).filter(**key).first()

    @admin.display(description="sale")
    def sale_link(self, row: SaleItem | Checkout) -> str:
        """The number of the sale: a join for its name would cost more than it tells."""
        return link("sale", row.sale_id, row.sale_id)


@admin.register(SaleItem)
class SaleItemAdmin(RowAdmin):
    """Items, the newest sale first."""

    list_display = (
        "item_id",
        "sale_link",
        "state",
        "user_id",
        "code_link",
        "until",
        "purchased",
        "version",
    )
    fields = list_display
    readonly_fields = fields

    until = moment("held_until")
    purchased = moment("purchased_at")

    @admin.display(description="code")
    def code_link(self, item: SaleItem) -> str | None:
        """The code, and with it the checkout."""
        return link("checkout", item.code, item.code) if item.code is not None else None

    def has_code(self, code: UUID) -> Q | None:
        """The item that a code speaks of, where it has just this code: there is no index on codes."""
        place = place_of(code)
        return Q(sale_id=place[0], pk=SaleItem.id_of(*place), code=code) if place is not None else None

    def has_item(self, item_id: int) -> Q | None:
        """The primary keys of an item number in every sale: there is no index on the number alone."""
        if item_id >= MAX_ITEMS:
            return None
        keys = Sale.objects.order_by().values_list("pk", F("pk") * MAX_ITEMS + item_id)
        key = Func("sale_id", "pk", template="(%(expressions)s)")
        is_one = {"template": "%(expressions)s", "arg_joiner": " IN ", "output_field": BooleanField()}
        return Q(Func(key, Subquery(keys), **is_one))

    def key_of(self, object_id: str) -> dict[str, Any] | None:
        """The id of an item has its sale in it."""
        number = whole_number(object_id)
        if number is None or number // MAX_ITEMS > MAX_SALE_ID:
            return None
        return {"sale_id": number // MAX_ITEMS, "pk": number}


@admin.register(Checkout)
class CheckoutAdmin(RowAdmin):
    """Checkouts, the newest sale first, and in each the highest item."""

    list_display = (
        "code",
        "sale_link",
        "item_link",
        "user_id",
        "outcome",
        "created",
        "expires",
        "purchased",
    )
    fields = list_display
    readonly_fields = fields

    created = moment("created_at")
    expires = moment("expires_at")
    purchased = moment("bought_at", "purchased at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The checkouts as their items tell them: a purchase writes the row of the item alone."""
        return cast("CheckoutQuerySet[Checkout]", super().get_queryset(request)).with_outcome()

    @admin.display(description="state")
    def outcome(self, checkout: Any) -> str:
        """What became of the hold, in words."""
        return Checkout.State(checkout.outcome).label

    def has_code(self, code: UUID) -> Q | None:
        """The row of a code, which has its sale in it."""
        key = self.key_of(str(code))
        return None if key is None else Q(**key)

    def key_of(self, object_id: str) -> dict[str, Any] | None:
        """A code has its sale in it."""
        if (code := parse_code(object_id)) is None or (place := place_of(code)) is None:
            return None
        return {"sale_id": place[0], "pk": code}

    @admin.display(description="item id")
    def item_link(self, checkout: Checkout) -> str:
        """The number of the item, and with it the item."""
        return link("saleitem", SaleItem.id_of(checkout.sale_id, checkout.item_id), checkout.item_id)
