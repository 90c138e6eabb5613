"""Admin users and what they may do."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html

from accounts import sessions
from accounts.admins import change_admin_password

from .base import BaseAdmin
from .middleware import session_of
from .site import NewPasswordFields


class UserForm(forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs, not at run time
    class Meta:
        model = User
        fields = ("username", "is_active", "is_superuser", "user_permissions")

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        rights = ("is_active", "is_superuser")
        others = User.objects.filter(is_active=True, is_staff=True, is_superuser=True).exclude(pk=self.instance.pk)
        if not all(self.cleaned_data.get(right) for right in rights) and not others.exists():
            raise forms.ValidationError(
                f"{self.instance.username} is the last user who may do everything: give another one that right first."
            )
        return cleaned


class NewUserForm(NewPasswordFields, forms.ModelForm):  # type: ignore[type-arg]  # generic in the stubs, not at run time
    class Meta:
        model = User
        fields = ("username", "is_superuser")


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(BaseAdmin[User]):
    """The password is set on a page of its own, and never shown in any form."""

    form = UserForm
    list_display = ("username", "is_active", "is_superuser", "sessions_open")
    search_fields = ("username",)
    filter_horizontal = ("user_permissions",)
    readonly_fields = ("password_link",)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).filter(is_staff=True)

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if obj is None:
            return [(None, {"fields": ["username", "is_superuser", "password1", "password2"]})]
        return [(None, {"fields": ["username", "password_link", "is_active", "is_superuser", "user_permissions"]})]

    def get_form(self, request: HttpRequest, obj: User | None = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs["form"] = NewUserForm
        return super().get_form(request, obj, change, **kwargs)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        obj.is_staff = True
        super().save_model(request, obj, form, change)
        if not change:
            change_admin_password(obj, form.cleaned_data["password1"])
        elif not obj.is_active:
            sessions.end_all(obj)

    # Who may change users may become any of them, so that is for those who may do everything.

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return bool(request.user.is_superuser)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Not oneself: whoever removes users stays."""
        return bool(request.user.is_superuser) and (obj is None or obj.pk != request.user.pk)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.set_password)
        return [path("<int:pk>/password/", view, name="user_password"), *super().get_urls()]

    def set_password(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A new password for a user who cannot tell the old one."""
        user = get_object_or_404(self.get_queryset(request), pk=pk)
        if not self.has_change_permission(request, user):
            raise PermissionDenied
        form = NewPasswordFields(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            change_admin_password(user, form.cleaned_data["password1"], keep=session_of(request))
            self.log_change(request, user, "Password changed.")
            messages.success(request, f"The password of {user.username} was changed. Other sessions of it ended.")
            return HttpResponseRedirect(reverse("admin:auth_user_change", args=[user.pk]))
        context = {**self.admin_site.each_context(request), "title": f"Password of {user.username}", "form": form}
        return TemplateResponse(request, "admin/set_password.html", context)

    @admin.display(description="Password")
    def password_link(self, user: User) -> str:
        return format_html('<a href="{}">Set a new password</a>', reverse("admin:user_password", args=[user.pk]))

    @admin.display(description="Sessions")
    def sessions_open(self, user: User) -> int:
        return sessions.of_owner(user).count()
