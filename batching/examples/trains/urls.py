"""The path of the example."""

from django.urls import path

from batching.examples.trains.views import book

urlpatterns = [path("book", book)]
