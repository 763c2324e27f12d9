"""A model without a table: the admin shows functions by it, and permissions belong to it."""

from __future__ import annotations

from django.db import models


class Pool(models.Model):  # type: ignore[misc]  # Django has no types
    """A pool of containers; ``scaleplug.view_pool`` lets a user see them all, ``scaleplug.change_pool`` change them."""

    name = models.CharField(max_length=255, primary_key=True)

    class Meta:
        """It lives in Redis."""

        managed = False
        default_permissions = ("view", "change")
        verbose_name = "autoscaled function"

    def __str__(self) -> str:
        return str(self.name)
