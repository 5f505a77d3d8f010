"""A versioned model with a column of every type that is used with the bulk save."""

from django.db import models

from batching.contrib.django import VersionedModel


class Sample(VersionedModel):
    """One nullable column of each type."""

    integer = models.IntegerField(null=True)
    big = models.BigIntegerField(null=True)
    small = models.PositiveSmallIntegerField(null=True)
    real = models.FloatField(null=True)
    exact = models.DecimalField(max_digits=12, decimal_places=3, null=True)
    flag = models.BooleanField(null=True)
    short = models.CharField(max_length=20, null=True)  # noqa: DJ001
    long = models.TextField(null=True)  # noqa: DJ001
    moment = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    span = models.DurationField(null=True)
    uuid = models.UUIDField(null=True)
    document = models.JSONField(null=True)
    raw = models.BinaryField(null=True)
    parent = models.ForeignKey("self", models.CASCADE, null=True)
    renamed = models.IntegerField(null=True, db_column="an odd name")

    def __str__(self) -> str:
        return f"Sample {self.pk}"


class Coded(VersionedModel):
    """A versioned model whose primary key is a UUID."""

    code = models.UUIDField(primary_key=True)
    name = models.CharField(max_length=20)

    def __str__(self) -> str:
        return self.name
