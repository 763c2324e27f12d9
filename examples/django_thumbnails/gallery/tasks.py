"""What runs in containers."""

import io
from pathlib import Path

from django.core.files.base import ContentFile
from django.core.management import call_command
from PIL import Image, ImageOps

import scaleplug
from gallery.models import Picture
from gallery_site.celery import celery

SIZE = (480, 480)

app = scaleplug.App("gallery", celery=celery)


@app.function(max_containers=8, timeout=60)
def make_thumbnail(picture_id: int) -> tuple[int, int]:
    """Make a picture's thumbnail and return its size."""
    picture = Picture.objects.get(pk=picture_id)
    with picture.original.open("rb") as file, Image.open(file) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail(SIZE, Image.Resampling.LANCZOS)
    made = io.BytesIO()
    small.save(made, "JPEG", quality=85, optimize=True)
    picture.thumbnail.save(f"{Path(picture.original.name).stem}.jpg", ContentFile(made.getvalue()), save=False)
    picture.save(update_fields=["thumbnail"])
    return small.size


@app.local_entrypoint()
def serve(port: int = 8000) -> None:
    """Serve the gallery, with all it needs around it."""
    call_command("migrate", verbosity=0)
    call_command("runserver", f"127.0.0.1:{port}", use_reloader=False)
