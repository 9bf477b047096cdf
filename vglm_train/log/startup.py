"""Seconds from the start of this process to the end of its first step, by what they were spent on."""

import os
import time

PARTS = (
    "imports",  # Python, libraries, the configuration
    "processes",  # the process group and the GPU
    "inputs",  # manifests, tokenizers, fingerprints of data and weights, validation data
    "model",  # building it
    "weights",  # reading them
    "features",  # storing pictures' features, where the run does
    "engine",  # DeepSpeed and the optimizer
    "checkpoint",  # reading it, where the run continues
    "outputs",  # the run folder, W&B
    "first_batch",  # waiting for the loader
    "first_step",
)


class Startup:
    """Each part ends where `reached` names it; time goes to the part that is reached next."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter() - _age()

    def reached(self, part: str) -> None:
        """What has passed since the last call belongs to `part`, one of PARTS."""
        assert part in PARTS
        now = time.perf_counter()
        self.parts[part] = now - self._last
        self._last = now

    def first_step(self, waited: float) -> None:
        """The end of the first step, which began by waiting so many seconds for its batch."""
        self._last += waited
        self.parts["first_batch"] = waited
        self.reached("first_step")

    def row(self) -> dict[str, float]:
        """For metrics.jsonl."""
        total = {"perf/start_seconds": sum(self.parts.values())}
        return total | {f"perf/start_{part}": seconds for part, seconds in self.parts.items()}

    def line(self) -> str:
        """For the console; what took less than a tenth of a second is left out."""
        named = [f"{part.replace('_', ' ')} {seconds:.1f}" for part, seconds in self.parts.items() if seconds >= 0.1]
        return f"first step after {sum(self.parts.values()):.1f} s: {', '.join(named)}"


def _age() -> float:
    """Seconds since this process began: Linux tells it, in hundredths. Elsewhere 0."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # field 22; the name before it may hold blanks
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return 0.0
