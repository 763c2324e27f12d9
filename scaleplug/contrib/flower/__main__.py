"""The ``celery`` command with the Autoscaler tab, whether or not Celery finds it by itself."""

from __future__ import annotations

import sys

from celery.bin.celery import main

import scaleplug.contrib.flower.plug  # noqa: F401  # it puts itself before Flower's command

if __name__ == "__main__":
    sys.argv[0] = "celery"
    sys.exit(main())
