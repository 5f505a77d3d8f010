"""The admin: everything can be looked at, sales can be paused and resumed, nothing else changes.

Rows belong to the service, which writes them a batch at a time (`sales.storage`). Items and checkouts
come by the million, so their lists keep to the primary keys, which sort by sale and then by item.
`Allowance` has a composite primary key, which Django's admin does not know.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import MAXYEAR, datetime
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db import models, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join

from sales.codes import MAX_ITEMS, MAX_SALE_ID, first_code, parse_code, place_of
from sales.models import Checkout, Sale, SaleCertificate, SaleItem

if TYPE_CHECKING:  # generic for the type checker alone
    AnyAdmin = admin.ModelAdmin[Any]
    AnyPaginator = Paginator[Any]

    class ShownSale(Sale):
        """A sale with its annotations."""

        state: str
        counts: dict[str, int]
        certified: bool | None

else:
    AnyAdmin, AnyPaginator = admin.ModelAdmin, Paginator

logger = logging.getLogger(__name__)

MAX_COUNT = 10_000
"""Rows of a list that are counted and paged through; whoever looks for others filters or searches."""

NEWEST_SALES = 20
"""Sales that are offered as a filter."""

MAX_DIGITS = 19
"""Digits of the largest 64-bit number."""

MAX_WORDS = 3
"""Words of a search that can make sense together: a user, an item and a code."""


def moment(name: str, ordering: str | None = None) -> Callable[[Any, models.Model], str | None]:
    """A column for a time; Django's own would leave out the seconds."""

    @admin.display(description=f"{name.replace('_', ' ')} (UTC)", ordering=ordering)
    def shown(self: Any, obj: models.Model) -> str | None:
        value: datetime | None = getattr(obj, name)
        if value is None:
            return None
        return value.replace(tzinfo=None).isoformat(" ", "milliseconds" if value.microsecond else "seconds")

    return shown


def number(text: str) -> int | None:
    """Read a whole number as the API would; ``None`` for what is none, or longer than any of ours."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def mark(holds: bool) -> str:
    """A check mark for what holds, a cross for what is broken."""
    return "✓" if holds else "✗"


class CarefulActions(AnyAdmin):
    """Refuses an action on rows that cannot be meant; Django would take them to the database, and fail."""

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Called by Django; what else it passes depends on its version."""
        key = cast("models.Field[Any, Any]", self.model._meta.pk)
        try:
            for value in request.POST.getlist(ACTION_CHECKBOX_NAME):
                key.clean(value, None)
        except ValidationError:
            name = self.model._meta.verbose_name
            self.message_user(request, f"Nothing was done: that is no {name}.", messages.ERROR)
            return None
        return super().response_action(request, queryset, *args, **kwargs)


class ReadOnlyAdmin(CarefulActions):
    """Shows the rows of a model to whoever may view or change them."""

    lookups: tuple[str, ...] = ()  # what a URL may filter by; all else could scan the table, or fail in SQL
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count every choice of every filter

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Nobody saves: that would write back old values of columns that the service has changed since."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Nobody deletes."""
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only what the filters and links of the pages use."""
        return lookup in self.lookups


# --- sales


class TimeFilter(admin.SimpleListFilter):
    """Filters sales by where they are in time, by the database's clock."""

    title = "time"
    parameter_name = "time"
    conditions = {
        "upcoming": Q(starts_at__gt=Now()),
        "current": Q(starts_at__lte=Now(), ends_at__gt=Now()),
        "ended": Q(ends_at__lte=Now()),
    }

    def lookups(self, request: HttpRequest, model_admin: AnyAdmin) -> Iterable[tuple[str, str]]:
        """Called by Django."""
        return [(name, name.capitalize()) for name in self.conditions]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Called by Django."""
        if (value := self.value()) is None:
            return queryset
        return queryset.filter(self.conditions[value]) if value in self.conditions else queryset.none()


class SaleChangeList(ChangeList):
    """Counts the items of the sales of one page, in one query."""

    def get_results(self, request: HttpRequest) -> None:
        """Called by Django. Behind an OFFSET, PostgreSQL would count those of all pages before it, too."""
        super().get_results(request)
        page = [sale.pk for sale in self.result_list]
        sales = Sale.objects.with_state().with_counts().with_certified().filter(pk__in=page)
        self.result_list = sales.order_by(*self.queryset.query.order_by)


@admin.register(Sale)
class SaleAdmin(ReadOnlyAdmin):
    """Sales with their counts. Whoever may change sales may pause and resume them, and nothing else."""

    list_display = (
        "id",
        "starts",
        "ends",
        "items",
        "sold",
        "held",
        "available",
        "state",
        "is_paused",
        "certified",
    )
    list_filter = (TimeFilter, "paused")
    lookups = ("time", "paused__exact", *(f"starts_at__{part}" for part in ("year", "month", "day")))
    date_hierarchy = "starts_at"
    list_per_page = list_max_show_all = 20  # each sale has its items counted
    sortable_by = ("starts",)
    actions = ("pause", "resume")
    fields = (*list_display[:-1], "user_limit", "checkout_ttl", "items_and_checkouts", "proof")
    readonly_fields = fields

    starts = moment("starts_at", "starts_at")
    ends = moment("ends_at")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Not the last year of all, either: Django fails to compute its end."""
        last = lookup == "starts_at__year" and number(value) in (None, MAXYEAR)
        return super().lookup_allowed(lookup, value, request) and not last

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Called by Django."""
        return SaleChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Sale | None:
        """Called by Django for the page of a sale."""
        sale = super().get_object(request, object_id, from_field)
        return None if sale is None else Sale.objects.with_state().with_counts().get(pk=sale.pk)

    @admin.display
    def state(self, sale: "ShownSale") -> str:
        """Where the sale is in time, and whether it sells."""
        return sale.state

    @admin.display
    def sold(self, sale: "ShownSale") -> int:
        """Items that were bought."""
        return sale.counts["sold"]

    @admin.display
    def held(self, sale: "ShownSale") -> int:
        """Items that somebody holds now."""
        return sale.counts["held"]

    @admin.display
    def available(self, sale: "ShownSale") -> int:
        """Items that can be had."""
        return sale.items - self.sold(sale) - self.held(sale)

    @admin.display(description="paused")
    def is_paused(self, sale: Sale) -> str:
        """In words: Django's icon for "no" is a red cross, as if something were wrong."""
        return "yes" if sale.paused else "no"

    @admin.display
    def certified(self, sale: "ShownSale") -> str:
        """Whether its certificate says that every invariant holds; a dash where there is none yet."""
        return "–" if sale.certified is None else mark(sale.certified)  # noqa: RUF001

    @admin.display(description="certificate")
    def proof(self, sale: Sale) -> str:
        """What a worker wrote when the sale was over."""
        certificate = SaleCertificate.objects.filter(sale=sale).first()
        if certificate is None:
            return "not written yet"
        said = certificate.document
        return format_html(
            "{} {}<br>{} items: {} sold to {} users, {} held, {} available<br>issued {} UTC by version {}{}",
            mark(certificate.holds),
            "every invariant holds" if certificate.holds else "BROKEN",
            *(f"{said[name]:,}" for name in ("items", "sold", "users", "held", "available")),
            f"{certificate.issued_at:%Y-%m-%d %H:%M:%S}",
            certificate.version,
            format_html_join(
                "",
                "<br>{} {}{}{}",
                (
                    (
                        mark(finding["holds"]),
                        finding["invariant"],
                        format_html_join("", "<br>&emsp;{}", ((text,) for text in finding["examples"])),
                        format_html("<br>&emsp;and {} more", f"{more:,}")
                        if (more := finding["broken"] - len(finding["examples"]))
                        else "",
                    )
                    for finding in said["invariants"]
                ),
            ),
        )

    @admin.display(description="see also")
    def items_and_checkouts(self, sale: Sale) -> str:
        """Links to the lists of what belongs to this sale."""
        return format_html(
            '<a href="{}">items</a>, <a href="{}">checkouts</a>',
            *(
                reverse(f"admin:sales_{name}_changelist", query={SaleFilter.parameter_name: sale.pk})
                for name in ("saleitem", "checkout")
            ),
        )

    def has_pause_permission(self, request: HttpRequest) -> bool:
        """Asked by Django for the actions, which are a change of the sale."""
        return request.user.has_perm("sales.change_sale")

    @admin.action(description="Pause selected sales", permissions=["pause"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Sale]) -> None:
        """Stop granting holds; workers know within a second."""
        self._set_paused(request, queryset, True)

    @admin.action(description="Resume selected sales", permissions=["pause"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Sale]) -> None:
        """Grant holds again; workers know within a second."""
        self._set_paused(request, queryset, False)

    def _set_paused(self, request: HttpRequest, queryset: QuerySet[Sale], paused: bool) -> None:
        done = "paused" if paused else "resumed"
        with transaction.atomic():
            # Locked, so that two who do it at once do not both report it.
            sales = list(
                Sale.objects.select_for_update(no_key=True)
                .filter(pk__in=queryset.order_by().values("pk"), paused=not paused)
                .order_by("pk")
            )
            Sale.objects.filter(pk__in=[sale.pk for sale in sales]).update(paused=paused)
            LogEntry.objects.log_actions(cast("int", request.user.pk), sales, CHANGE, f"{done.capitalize()}.")
        for sale in sales:
            fields = {"sale_id": sale.pk, "user": request.user.get_username()}
            logger.info(f"sale.{done}", extra={"fields": fields})
        if sales:
            noun = "sale was" if len(sales) == 1 else "sales were"
            self.message_user(request, f"{len(sales)} {noun} {done}.", messages.SUCCESS)
        else:
            self.message_user(request, f"No sale was {done}: all of them were already.", messages.WARNING)


# --- items and checkouts


class AtLeast(int):
    """A count that went no further."""

    def __str__(self) -> str:
        return f"more than {int(self):,}"


class CappedPaginator(AnyPaginator):
    """Counts no more than `MAX_COUNT` rows, and pages through no more: the last page costs what that does."""

    @cached_property
    def count(self) -> int:
        """Called by Django."""
        rows = cast("QuerySet[Any]", self.object_list)
        count = rows.order_by()[: MAX_COUNT + 1].count()
        return AtLeast(MAX_COUNT) if count > MAX_COUNT else count


class KeyOrderedChangeList(ChangeList):
    """Always in the order of the primary key, whatever ``?o=`` says: any other sorts the whole table."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Called by Django."""
        return ["-pk"]


class StateFilter(admin.SimpleListFilter):
    """Filters by a state of the model; one that it does not have finds nothing."""

    title = "state"
    parameter_name = "state__exact"

    def lookups(self, request: HttpRequest, model_admin: AnyAdmin) -> Iterable[tuple[str, str]]:
        """Called by Django."""
        return cast("list[tuple[str, str]]", model_admin.model.State.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Called by Django."""
        if (value := self.value()) is None:
            return queryset
        return queryset.filter(state=value) if value in dict(self.lookup_choices) else queryset.none()


class SaleFilter(admin.SimpleListFilter):
    """Filters by sale, as a range of primary keys. Offers the newest ones; links lead to any."""

    title = "sale"
    parameter_name = "sale__id__exact"

    def lookups(self, request: HttpRequest, model_admin: AnyAdmin) -> Iterable[tuple[str, str]]:
        """Called by Django."""
        newest = Sale.objects.order_by("-starts_at").values_list("pk", "starts_at")[:NEWEST_SALES]
        choices = {str(pk): f"{pk} · {starts_at:%Y-%m-%d %H:%M}" for pk, starts_at in newest}
        if (value := self.value()) is not None:  # where there are no choices, Django does not filter
            choices.setdefault(value, value)
        return choices.items()

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Called by Django."""
        if (value := self.value()) is None:
            return queryset
        sale_id = number(value)
        if sale_id is None or sale_id > MAX_SALE_ID:
            return queryset.none()
        return queryset.filter(pk__range=keys_of(queryset.model, sale_id))


def keys_of(model: type[models.Model], sale_id: int) -> tuple[Any, Any]:
    """The first and the last primary key that items or checkouts of a sale can have."""
    if model is SaleItem:
        return SaleItem.id_of(sale_id, 0), SaleItem.id_of(sale_id, MAX_ITEMS - 1)
    first = first_code(sale_id)
    return first, UUID(int=first.int | first_code(1).int - 1)


class RowAdmin(ReadOnlyAdmin):
    """What the lists of items and of checkouts have in common."""

    list_filter = (StateFilter, SaleFilter)
    lookups = ("state__exact", "sale__id__exact")
    search_fields = ("code", "user_id", "item_id")  # shows the box; see `get_search_results`
    search_help_text = (
        "A checkout code, a user id or an item id. user:5 or item:7 look for one of them only; "
        "together they must both match. Choose a sale first to search it alone."
    )
    ordering = ("-pk",)
    sortable_by = ()
    actions = None
    paginator = CappedPaginator

    purchased = moment("purchased_at")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Called by Django."""
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
        if (n := number(value)) is None:
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
        """The row of a code, by its primary key."""
        return Q(pk=code)

    def has_item(self, item_id: int) -> Q | None:
        """The rows of an item number, in any sale."""
        return Q(item_id=item_id)

    @admin.display(description="sale")
    def sale_link(self, row: SaleItem | Checkout) -> str:
        """The number of the sale: a join for its name would cost more than it tells."""
        return link("sale", row.sale_id, row.sale_id)


def link(model: str, pk: object, text: object) -> str:
    """A link to the page of an object."""
    return format_html('<a href="{}">{}</a>', reverse(f"admin:sales_{model}_change", args=[pk]), text)


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

    @admin.display(description="code")
    def code_link(self, item: SaleItem) -> str | None:
        """The code, and with it the checkout."""
        return link("checkout", item.code, item.code) if item.code is not None else None

    def has_code(self, code: UUID) -> Q | None:
        """The item that a code speaks of, where it has just this code: there is no index on codes."""
        place = place_of(code)
        return Q(pk=SaleItem.id_of(*place), code=code) if place is not None else None

    def has_item(self, item_id: int) -> Q | None:
        """The primary keys of an item number in every sale: there is no index on the number alone."""
        if item_id >= MAX_ITEMS:
            return None
        return Q(pk__in=Sale.objects.order_by().values_list(F("pk") * MAX_ITEMS + item_id))


@admin.register(Checkout)
class CheckoutAdmin(RowAdmin):
    """Checkouts, the newest sale first, and in each the highest item."""

    list_display = (
        "code",
        "sale_link",
        "item_link",
        "user_id",
        "state",
        "created",
        "expires",
        "purchased",
    )
    fields = list_display
    readonly_fields = fields

    created = moment("created_at")
    expires = moment("expires_at")

    @admin.display(description="item id")
    def item_link(self, checkout: Checkout) -> str:
        """The number of the item, and with it the item."""
        return link("saleitem", SaleItem.id_of(checkout.sale_id, checkout.item_id), checkout.item_id)
