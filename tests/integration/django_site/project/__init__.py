from project.celery import celery

__all__ = ["celery"]
