"""The upload of many pictures at once."""

from django import forms


class Pictures(forms.ClearableFileInput):
    """An input for several files."""

    allow_multiple_selected = True


class PicturesField(forms.ImageField):
    """Several pictures, each checked as an ImageField checks one."""

    widget = Pictures

    def clean(self, data, initial=None):
        files = (data if isinstance(data, list | tuple) else [data]) or [None]  # whoever sends none is told so
        return [super(PicturesField, self).clean(file, initial) for file in files]


class UploadForm(forms.Form):
    """The form on the first page."""

    pictures = PicturesField(widget=Pictures(attrs={"accept": "image/*", "class": "files"}))
