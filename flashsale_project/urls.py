"""The paths of the project."""

from django.contrib import admin
from django.urls import include, path

admin.site.site_header = admin.site.site_title = "Flash sale"
admin.site.site_url = "/sale"

urlpatterns = [
    path("", include("sales.urls")),
    path("admin/", admin.site.urls),
]

handler404 = "sales.views.not_found"
handler500 = "sales.views.failed"
