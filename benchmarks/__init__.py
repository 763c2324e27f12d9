"""What scaleplug costs and how fast it is, beside plain Celery in the same run: ``python -m benchmarks``.

One file per measurement; ``harness.py`` is what they share, ``surroundings.py`` starts ours, ``workers.py`` the peer.
Nothing is imported here: plain Celery's workers import this package too.
"""
