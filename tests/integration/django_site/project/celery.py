"""A Celery app as Django projects have it."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

celery = Celery("project")
celery.config_from_object("django.conf:settings", namespace="CELERY")
celery.autodiscover_tasks()
