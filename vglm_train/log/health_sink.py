"""How a run is doing, said on the console and in log.txt."""

import logging
from collections.abc import Iterable

from vglm_train.log.health import Health
from vglm_train.log.health_words import line
from vglm_train.log.jsonl import Row
from vglm_train.log.run_info import RunInfo
from vglm_train.log.sink import Sink
from vglm_train.log.tongues import Tongue

logger = logging.getLogger("vglm_train")

CHECK_EVERY = 0.002  # of all steps


class HealthSink(Sink):
    """One line when something has changed, not at every row."""

    def __init__(self, info: RunInfo, past: Iterable[tuple[int, Row]] = (), language: Tongue = "en") -> None:
        """`past`: rows logged before a resume."""
        self.language = language
        self.health, self.info, self._next = Health(info), info, 0.0
        self._told: tuple[str, ...] = ()
        self._seen: tuple[str, ...] = ()
        for step, row in past:
            self.health.add(step, row)

    def write(self, step: int, row: Row) -> None:
        """Take a row. What two checks have found is said, so that a value at its limit does not repeat itself."""
        self.health.add(step, row)
        if step < self._next or not any(name.startswith("train/") for name in row):
            return
        self._next = step + CHECK_EVERY * self.info.total_steps
        notes = self.health.notes()
        codes = tuple(note.code for note in notes)
        if codes != self._told and codes == self._seen:
            self._told = codes
            logger.info("health: %s", line(notes, self.language))
        self._seen = codes
