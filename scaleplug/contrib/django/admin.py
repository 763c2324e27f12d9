"""The admin's page of functions: what they have now, and the settings of their autoscaler.

``view_pool`` is needed to see it, ``change_pool`` to change settings: the permissions that Django's own pages ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.views.decorators.http import require_http_methods, require_safe
from redis.exceptions import RedisError

from scaleplug.contrib.django.models import Pool
from scaleplug.contrib.django.state import State
from scaleplug.errors import Error, InvalidError, NotFoundError
from scaleplug.settings import AUTOSCALER


class SettingsForm(forms.Form):  # type: ignore[misc]  # Django has no types
    """The settings of one function's autoscaler; empty for no bound."""

    min_containers = forms.IntegerField(min_value=0, help_text="Containers kept while nothing is to do.")
    max_containers = forms.IntegerField(
        min_value=1, required=False, help_text="Never more containers than these; empty for no bound."
    )
    buffer_containers = forms.IntegerField(
        min_value=0, help_text="Containers beyond the need while inputs are under way."
    )
    scaledown_window = forms.FloatField(
        min_value=2, max_value=3600, help_text="The longest a container may idle, in seconds."
    )


@contextmanager
def _telling(request: HttpRequest) -> Iterator[None]:
    """Show what is wrong with Redis, or with the settings of this process, as a message."""
    try:
        yield
    except NotFoundError as exc:
        raise Http404(str(exc)) from None
    except (Error, RedisError, OSError) as exc:
        messages.error(request, f"The state of functions can't be read: {exc}")


@admin.register(Pool)
class PoolAdmin(admin.ModelAdmin):  # type: ignore[misc]
    """The pages; nothing here has a table."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002  # Django's interface
        """Functions are added by code."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """They go with a deployment."""
        return False

    def get_urls(self) -> list[Any]:
        """Return the list, its data, and a page for each function."""
        view = self.admin_site.admin_view  # it asks for a login, and for the CSRF token
        settings = require_http_methods(["GET", "POST"])(view(self.settings_view))
        return [
            path("", require_safe(view(self.list_view)), name="scaleplug_pool_changelist"),
            path("data/", require_safe(view(self.data_view)), name="scaleplug_pool_data"),
            path("<path:object_id>/change/", settings, name="scaleplug_pool_change"),
        ]

    def _check_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def list_view(self, request: HttpRequest) -> HttpResponse:
        """Show all functions; the page asks for new numbers by itself."""
        self._check_view(request)
        rows, leader = list[dict[str, Any]](), None
        with _telling(request):
            state = State.open()
            rows, leader = state.rows(), state.place.leader()
        context = self._context(request, "Autoscaled functions") | {"rows": rows, "leader": leader}
        return TemplateResponse(request, "admin/scaleplug/functions.html", context)

    def data_view(self, request: HttpRequest) -> HttpResponse:
        """Give the numbers of all functions as JSON."""
        self._check_view(request)
        try:
            state = State.open()
            return JsonResponse({"functions": state.rows(), "leader": state.place.leader()})
        except (Error, RedisError, OSError) as exc:
            return JsonResponse({"error": str(exc)}, status=503)

    def settings_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Show a function, and change its settings."""
        self._check_view(request)
        if request.method == "POST" and not self.has_change_permission(request):
            raise PermissionDenied
        name = unquote(object_id)  # the history's links are quoted, as all of the admin's
        context = self._context(request, name)
        with _telling(request):
            state = State.open()
            row = state.row(name)
            if row is None:
                raise Http404(f"there is no function {name}")
            form = SettingsForm(request.POST or None, initial=row["settings"])
            if not context["may_change"]:
                for field in form.fields.values():
                    field.disabled = True
            if request.method == "POST" and self._changed(request, state, row, form):
                return self._again(name)
            context |= {"row": row, "form": form, "title": row["shown"]}
        return TemplateResponse(request, "admin/scaleplug/function.html", context)

    def _changed(self, request: HttpRequest, state: State, row: Mapping[str, Any], form: SettingsForm) -> bool:
        """Do what was asked for; what doesn't fit is told at the form."""
        function = row["function"]
        if "_reset" in request.POST:
            state.caller.reset(function)
            self._tell(request, function, "reset to those of its code")
            return True
        if row["settings"] is None or not form.is_valid():
            return False
        changes = {name: form.cleaned_data[name] for name in AUTOSCALER if name in form.changed_data}
        try:
            state.caller.override(function, changes)
        except InvalidError as exc:
            form.add_error(None, str(exc))
            return False
        said = ", ".join(f"{name} to {'no bound' if value is None else value}" for name, value in changes.items())
        self._tell(request, function, f"set: {said}, until the next deployment" if said else "")
        return True

    def _tell(self, request: HttpRequest, function: str, what: str) -> None:
        if what:
            self.log_change(request, Pool(name=function), what)
            messages.success(request, f"Settings of {function} were {what}.")
        else:
            messages.info(request, f"Settings of {function} are as they were.")

    def _context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        request.current_app = self.admin_site.name  # links stay in the site that is visited
        return {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": Pool._meta,  # noqa: SLF001  # Django's own name for it
            "may_change": self.has_change_permission(request),
        }

    def _again(self, function: str) -> HttpResponse:
        page = reverse("admin:scaleplug_pool_change", args=(quote(function),), current_app=self.admin_site.name)
        return HttpResponseRedirect(page)
