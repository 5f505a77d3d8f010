"""What is not done: actions on rows that cannot be meant, and changes of rows that belong to the service."""

from typing import TYPE_CHECKING, Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

if TYPE_CHECKING:  # generic for the type checker alone
    AnyAdmin = admin.ModelAdmin[Any]
else:
    AnyAdmin = admin.ModelAdmin


class CarefulActions(AnyAdmin):
    """Refuses an action on rows that cannot be meant; Django would take them to the database, and fail."""

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        """Run an action, or say that its rows cannot be meant; what else is passed depends on Django."""
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
