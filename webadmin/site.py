"""Django's admin as a part of ours: our login, our sessions, our rules for passwords."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from accounts import sessions
from accounts.admins import change_admin_password, check_admin_password
from accounts.passwords import PasswordRejected, prepare_new
from web.login import delete_cookie, login_page

from .interface import INTERFACE
from .middleware import session_of


class NewPasswordFields(forms.Form):
    """A password twice, with the rules of all passwords here (RFC 8265)."""

    password1 = forms.CharField(
        label="New password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="At least 8 characters. Bots try passwords all day, and reused ones are known from leaks: "
        "use 12 or more random characters.",
    )
    password2 = forms.CharField(
        label="New password, again", strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "new-password"})
    )

    def clean_password1(self) -> str:
        password: str = self.cleaned_data["password1"]
        try:
            prepare_new(password)
        except PasswordRejected as exc:
            raise forms.ValidationError(str(exc)) from exc
        return password

    def clean_password2(self) -> str:
        again: str = self.cleaned_data["password2"]
        if "password1" in self.cleaned_data and again != self.cleaned_data["password1"]:
            raise forms.ValidationError("The passwords are not the same.")
        return again


class OwnPasswordForm(NewPasswordFields):
    """The old one is asked for: a browser that was left open must not be enough."""

    field_order = ["old_password"]
    old_password = forms.CharField(
        label="Old password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "autofocus": True}),
    )

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._user = user

    def clean_old_password(self) -> str:
        old: str = self.cleaned_data["old_password"]
        if not check_admin_password(self._user, old):
            raise forms.ValidationError("This is not your password.")
        return old


class AdminSite(admin.AdminSite):
    site_header = site_title = "Mox admin"
    index_title = "Administration"
    site_url = None
    enable_nav_sidebar = True

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Where Django's admin sends those who are not logged in; they are to come back to where they wanted to go."""
        if self.has_permission(request):
            return HttpResponseRedirect(reverse("admin:index", current_app=self.name))
        return login_page(request, INTERFACE, status=HTTPStatus.FORBIDDEN)

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """The login stands in the place of the page, without a redirect: the address stays."""
        inner = super().admin_view(view, cacheable)

        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not self.has_permission(request):
                return login_page(request, INTERFACE, status=HTTPStatus.FORBIDDEN)
            answer: HttpResponse = inner(request, *args, **kwargs)
            return answer

        return guarded

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:  # type: ignore[override]  # the stubs want a template's answer
        session = session_of(request)
        if request.method == "POST" and session is not None:
            sessions.end(session)
        response = HttpResponseRedirect(reverse("admin:index", current_app=self.name))
        delete_cookie(request, response, INTERFACE.session_cookie)
        return response

    def password_change(  # type: ignore[override]  # as above
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        user = User.objects.get(username=request.user.get_username())
        form = OwnPasswordForm(user, request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            change_admin_password(user, form.cleaned_data["password1"], keep=session_of(request))
            messages.success(request, "The password was changed. Your other sessions ended.")
            return HttpResponseRedirect(reverse("admin:index", current_app=self.name))
        context = {
            **self.each_context(request),
            "title": "Change password",
            "form": form,
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/set_password.html", context)
