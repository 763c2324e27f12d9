from gallery_site.celery import celery

__all__ = ["celery"]
