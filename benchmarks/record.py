"""Where a benchmark leaves what it measured for `vglm benchmark`: a line of JSON for each row.

The environment names the file. Where it names none, nothing is written, and the benchmark's table is all there is.
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

FILE = "VGLM_BENCHMARK_ROWS"


def record(
    name: str,
    method: str,
    *,
    samples_per_s: float | None = None,
    ms: float | None = None,
    spread: float | None = None,
    peak_gib: float | None = None,
    floor_ms: float | None = None,
    values: Mapping[str, float] | None = None,
) -> None:
    """Append one row; a number that is not finite counts as not measured.

    method: how it was measured, in words. ms: of one step. spread: between the fastest and the slowest tenth, as a
    fraction of ms. floor_ms: what the step's arithmetic or reading takes at the measured rate. values: what else was
    measured, by name with its unit.
    """
    path = os.environ.get(FILE)
    if not path:
        return
    numbers = {"samples_per_s": samples_per_s, "ms": ms, "spread": spread, "peak_gib": peak_gib, "floor_ms": floor_ms}
    row: dict[str, Any] = {"name": name, **{key: _finite(value) for key, value in numbers.items()}}
    row["ratio"] = _finite(ms / floor_ms) if ms and floor_ms else None
    row |= {"method": method, "values": {key: _finite(value) for key, value in (values or {}).items()}}
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _finite(value: float | None) -> float | None:
    """Four digits that count: the noise of a measurement is larger."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
