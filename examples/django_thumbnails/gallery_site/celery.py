"""The project's Celery app, as Celery's own pages for Django show it."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gallery_site.settings")

celery = Celery("gallery_site")
celery.config_from_object("django.conf:settings", namespace="CELERY")
celery.autodiscover_tasks()
