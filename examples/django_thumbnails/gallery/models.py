"""Uploads and their pictures."""

from django.db import models


class Upload(models.Model):
    """Pictures that came together; ``call`` is the id of the scaleplug call that makes their thumbnails."""

    made_at = models.DateTimeField(auto_now_add=True)
    call = models.CharField(max_length=64)

    class Meta:
        ordering = ("-made_at",)


class Picture(models.Model):
    """A picture, and its thumbnail when that is there."""

    upload = models.ForeignKey(Upload, models.CASCADE, related_name="pictures")
    name = models.CharField(max_length=255)
    original = models.ImageField(upload_to="originals/%Y/%m", width_field="width", height_field="height")
    width = models.PositiveIntegerField(default=0)
    height = models.PositiveIntegerField(default=0)
    thumbnail = models.ImageField(upload_to="thumbnails/%Y/%m", blank=True)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return self.name
