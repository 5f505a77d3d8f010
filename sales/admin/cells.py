"""What stands in the cells of lists and pages."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db import models
from django.urls import reverse
from django.utils.html import format_html


def moment(name: str, ordering: str | None = None) -> Callable[[Any, models.Model], str | None]:
    """A column for a time; Django's own would leave out the seconds."""

    @admin.display(description=f"{name.replace('_', ' ')} (UTC)", ordering=ordering)
    def shown(self: Any, obj: models.Model) -> str | None:
        value: datetime | None = getattr(obj, name)
        if value is None:
            return None
        return value.replace(tzinfo=None).isoformat(" ", "milliseconds" if value.microsecond else "seconds")

    return shown


def mark(holds: bool) -> str:
    """A check mark for what holds, a cross for what is broken."""
    return "✓" if holds else "✗"


def link(model: str, pk: object, text: object) -> str:
    """A link to the page of an object."""
    return format_html('<a href="{}">{}</a>', reverse(f"admin:sales_{model}_change", args=[pk]), text)
