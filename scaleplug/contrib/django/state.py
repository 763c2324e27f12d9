"""What the admin shows of functions: as they are in Redis now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaleplug.cli.frame import STATES
from scaleplug.cli.place import Place
from scaleplug.cli.ps import Row, read_rows
from scaleplug.client import RedisCaller
from scaleplug.errors import ConfigurationError
from scaleplug.here import caller_for
from scaleplug.settings import AUTOSCALER, process_config


@dataclass(frozen=True, slots=True)
class State:
    """The Redis of this process, as an administrator sees it."""

    caller: RedisCaller
    place: Place

    @classmethod
    def open(cls) -> State:
        """Return it; raises ConfigurationError where no Redis is configured."""
        config = process_config()
        caller = caller_for(config)
        if not isinstance(caller, RedisCaller) or config.redis_url is None:
            raise ConfigurationError("functions run in a test twin here, which has no state to show")
        place = Place("", config.redis_url, config.secret, config.namespace, caller.store, private=False)
        return cls(caller, place)

    def rows(self) -> list[dict[str, Any]]:
        """Return every function, by name."""
        return [self._told(row) for row in read_rows(self.place, self.caller.keyring)]

    def row(self, function: str) -> dict[str, Any] | None:
        """Return one function with its last decisions."""
        found = next((row for row in self.rows() if row["function"] == function), None)
        return None if found is None else found | {"decisions": self.caller.store.decisions(function, 10)}

    def _told(self, row: Row) -> dict[str, Any]:
        values, last = row.to_dict(), next(iter(self.caller.store.decisions(row.function, 1)), {})
        settings = values.pop("settings")
        return {
            **{name: values[name] for name in ("function", "shown", "pending", "running", "finished", "failed")},
            "overridden": values["overridden"],
            "settings": None if settings is None else {name: settings[name] for name in AUTOSCALER},
            "containers": {state: values[state] for state in STATES if values.get(state)},
            "desired": last.get("desired"),
            "reason": str(last.get("reason", "")).partition(" -> start ")[0],
        }
