"""The Autoscaler tab in Flower: what functions have and had, why, and their settings.

``celery -A project flower`` loads it by itself where scaleplug is installed; see ``plug``. Flower stays as it is: the
tab is a few handlers more and a link in the navigation.
"""
