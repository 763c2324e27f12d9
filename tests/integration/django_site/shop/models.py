from django.db import models


class Order(models.Model):
    """Something to look up."""

    label = models.CharField(max_length=50)
