"""For Django: ``scaleplug.contrib.django`` in INSTALLED_APPS, and settings beside Celery's (``CELERY_...``)."""
