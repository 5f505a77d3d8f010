"""Django's own pages for users and groups, as careful as ours."""

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User

from sales.admin import CarefulActions

admin.site.unregister([User, Group])


@admin.register(User)
class CarefulUserAdmin(CarefulActions, UserAdmin):  # type: ignore[type-arg]
    """Those who may come in."""


@admin.register(Group)
class CarefulGroupAdmin(CarefulActions, GroupAdmin):
    """What they may do."""
