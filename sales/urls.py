"""The paths of the HTTP API."""

from django.urls import path

from sales import views
from sales.views import api

urlpatterns = [
    path("checkout", api(post=views.post_checkout)),
    path("purchase", api(post=views.post_purchase)),
    path("checkouts/<str:code>", api(get=views.get_checkout, delete=views.delete_checkout)),
    path("sale", api(get=views.get_sale)),
    path("sales/<str:sale_id>", api(get=views.get_sale)),
    path("sales/<str:sale_id>/certificate", api(get=views.get_certificate)),
    path("healthz", api(get=views.get_healthz)),
    path("readyz", api(get=views.get_readyz)),
    path("metrics", api(get=views.get_metrics)),
]
