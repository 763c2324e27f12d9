"""The first page, an upload's page, and how far it is."""

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render

import scaleplug
from gallery.forms import UploadForm
from gallery.models import Picture, Upload
from gallery.tasks import make_thumbnail


def index(request: HttpRequest) -> HttpResponse:
    """Show the uploads, and take a new one."""
    form = UploadForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            upload = Upload.objects.create()
            made = [
                Picture.objects.create(upload=upload, name=file.name, original=file)
                for file in form.cleaned_data["pictures"]
            ]
            # Containers see the pictures when they are committed, so only then they are told. The call's id is known
            # already, and is saved with them.
            upload.call = make_thumbnail.map_on_commit([picture.pk for picture in made]).object_id
            upload.save(update_fields=["call"])
        return redirect("upload", upload.pk)
    uploads = Upload.objects.prefetch_related("pictures")[:20]
    return render(request, "gallery/index.html", {"form": form, "uploads": uploads})


def show(request: HttpRequest, pk: int) -> HttpResponse:
    """Show an upload's pictures; the page asks for those that are not there yet."""
    upload = get_object_or_404(Upload, pk=pk)
    return render(request, "gallery/upload.html", {"upload": upload, "pictures": upload.pictures.all()})


def progress(request: HttpRequest, pk: int) -> JsonResponse:
    """Tell how far an upload is."""
    upload = get_object_or_404(Upload, pk=pk)
    pictures = [_told(upload, index, picture) for index, picture in enumerate(upload.pictures.all())]
    stats = make_thumbnail.get_current_stats()
    ended = sum(1 for picture in pictures if picture["thumbnail"] or picture["error"])
    return JsonResponse({"pictures": pictures, "ended": ended, "containers": stats.num_total_runners})


def _told(upload: Upload, index: int, picture: Picture) -> dict[str, object]:
    told = {"id": picture.pk, "thumbnail": picture.thumbnail.url if picture.thumbnail else "", "error": ""}
    if not picture.thumbnail:
        try:
            scaleplug.FunctionCall.from_id(upload.call).get(timeout=0, index=index)
        except TimeoutError:
            pass  # not yet
        except Exception as exc:  # what the function has raised
            told["error"] = f"{type(exc).__name__}: {exc}"
    return told
