"""Wiring: environment, settings, Celery, ASGI and the supervision of processes; holds no behaviour of mail."""
