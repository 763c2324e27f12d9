"""Which image the containers of a version run: found, or pulled, once for each version, so that a tag may move on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from scaleplug.abc import StartRequest
from scaleplug.backends.engine import Engine, NoImageError
from scaleplug.backends.recipe import image_name
from scaleplug.registry import Registration
from scaleplug.settings import Config

PULLED_SECONDS = 60.0
"""For so long an image that was pulled needs not be pulled again, where that is to be done always."""

_Version = tuple[Engine, str, str]


class Images:
    """What one controller knows of images."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._ids: dict[_Version, str] = {}
        self._pulled: dict[tuple[Engine, str], float] = {}
        self._looked: set[_Version] = set()
        self._fetching: set[str] = set()
        self._lock = threading.Lock()

    def name(self, engine: Engine, registration: Registration) -> str:
        """Return what to make a container from, after pulling it where that is asked for.

        That is the image's name, or its id where the name stands for another one by now. Raises NoImageError.
        """
        name = image_name(registration.settings.resources, self.config)
        version = (engine, registration.function, registration.version)
        chosen = self._ids.get(version) if registration.version else None
        found = engine.image(name)
        if chosen is None and self._must_pull(engine, name, found):
            with self._lock:
                self._fetching.add(registration.function)
            try:
                self._pull(engine, name, found)
            finally:
                with self._lock:
                    self._fetching.discard(registration.function)
            found = engine.image(name)
        if chosen is None and found is None:
            raise NoImageError(
                f"there is no image {name} on the Docker engine {engine.shown}, and SCALEPLUG_DOCKER_PULL=never: build "
                "it there, or let it be pulled"
            )
        with self._lock:
            self._looked.add(version)
            if chosen is None and found is not None:
                self._ids[version] = found
        return name if chosen in (None, found) else chosen

    def _must_pull(self, engine: Engine, name: str, found: str | None) -> bool:
        if self.config.docker_pull == "always":
            return time.monotonic() - self._pulled.get((engine, name), -PULLED_SECONDS) >= PULLED_SECONDS
        return found is None and self.config.docker_pull == "missing"

    def _pull(self, engine: Engine, name: str, found: str | None) -> None:
        try:
            engine.pull(name)
        except NoImageError as exc:
            if found is not None:
                return  # the registry is away: what is here will do
            raise NoImageError(
                f"there is no image {name} on the Docker engine {engine.shown}, and it can't be pulled: {exc}"
            ) from exc
        with self._lock:
            self._pulled[engine, name] = time.monotonic()

    def missing(self, engine: Engine, registration: Registration) -> bool:
        """Return whether nobody has looked for a version's image yet; who asks is about to."""
        version = (engine, registration.function, registration.version)
        with self._lock:
            new = version not in self._looked
            self._looked.add(version)
        return new

    def fetching(self, registration: Registration) -> bool:
        """Return whether the function's image is being pulled."""
        return registration.function in self._fetching

    def known(self, registration: Registration) -> bool:
        """Return whether it is known which image a version runs."""
        with self._lock:
            return any(each[1:] == (registration.function, registration.version) for each in self._ids)

    def note(self, engine: Engine, request: StartRequest, image: str) -> None:
        """Take note of the image that a container was found to run."""
        with self._lock:
            self._ids.setdefault((engine, request.function, request.version), image)

    def forget(self, engine: Engine, registration: Registration) -> None:
        """Look for a version's image again: it is gone."""
        with self._lock:
            self._ids.pop((engine, registration.function, registration.version), None)

    def forget_others(self, registrations: Iterable[Registration]) -> None:
        """Forget the images of all but these versions."""
        kept = {(registration.function, registration.version) for registration in registrations}
        with self._lock:
            self._ids = {version: image for version, image in self._ids.items() if version[1:] in kept}
            self._looked = {version for version in self._looked if version[1:] in kept}
