from __future__ import annotations

from django.apps import AppConfig


class StoreConfig(AppConfig):
    name = "store"
    verbose_name = "Message store"

    def ready(self) -> None:
        from accounts import accounts, removal  # models can be imported only once the apps are ready

        from . import mailboxes
        from .removal import REMOVER

        accounts.on_create(mailboxes.set_up_account)
        removal.register(REMOVER)
