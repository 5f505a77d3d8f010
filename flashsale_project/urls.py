"""The paths of the project."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path

admin.site.site_header = admin.site.site_title = "Flash sale"
admin.site.site_url = "/sale"

urlpatterns = [
    path("", include("sales.urls")),
    path("admin/", admin.site.urls),
]

if settings.FLASHSALE_TRAIN_EXAMPLE:
    # First: paths are tried in turn, and those of the admin are many.
    urlpatterns.insert(0, path("", include("batching.examples.trains.urls")))

handler400 = "flashsale_project.access.strangers.bad_request"
handler404 = "sales.views.not_found"
handler500 = "sales.views.failed"
