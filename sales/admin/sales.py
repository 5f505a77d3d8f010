"""Sales, with their counts and certificates, and the actions that pause and resume them."""

from collections.abc import Iterable
from datetime import MAXYEAR
from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from sales import operations
from sales.admin.careful import AnyAdmin, ReadOnlyAdmin
from sales.admin.cells import mark, moment
from sales.admin.certificates import lines_of
from sales.admin.rows import SaleFilter
from sales.models import Sale, SaleCertificate
from sales.parameters import whole_number

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    class ShownSale(Sale):
        """A sale with its annotations."""

        state: str
        counts: dict[str, int]
        certified: bool | None


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
        """The names of the conditions."""
        return [(name, name.capitalize()) for name in self.conditions]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The sales that meet the condition that is chosen, if one is."""
        if (value := self.value()) is None:
            return queryset
        return queryset.filter(self.conditions[value]) if value in self.conditions else queryset.none()


class SaleChangeList(ChangeList):
    """Counts the items of the sales of one page, in one query."""

    def get_results(self, request: HttpRequest) -> None:
        """Count for one page: behind an OFFSET, PostgreSQL would count those of all pages before it, too."""
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
        last = lookup == "starts_at__year" and whole_number(value) in (None, MAXYEAR)
        return super().lookup_allowed(lookup, value, request) and not last

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list that counts one page."""
        return SaleChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Sale | None:
        """The sale of a page, with its counts; ``None`` where there is none."""
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
        return "not written yet" if certificate is None else lines_of(certificate)

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
        self._report(request, "paused", operations.pause(queryset, user=cast("User", request.user)))

    @admin.action(description="Resume selected sales", permissions=["pause"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Sale]) -> None:
        """Grant holds again; workers know within a second."""
        self._report(request, "resumed", operations.resume(queryset, user=cast("User", request.user)))

    def _report(self, request: HttpRequest, done: str, sales: list[Sale]) -> None:
        if sales:
            noun = "sale was" if len(sales) == 1 else "sales were"
            self.message_user(request, f"{len(sales)} {noun} {done}.", messages.SUCCESS)
        else:
            self.message_user(request, f"No sale was {done}: all of them were already.", messages.WARNING)
