"""Speed of a run between two log steps: samples, tokens, waiting for data, memory, share of the hardware's peak."""

import sys
import time
from collections.abc import Callable, Mapping

import torch

GIB = 2**30

# Dense 16-bit peak in FLOP/s by a part of the device name; the first that occurs wins. NVIDIA's data sheets:
# tensor-core rates without sparsity, bf16, and fp16 for V100 and T4, which have no bf16.
PEAK_FLOPS = (
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("H20", 148e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A40", 150e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("RTX 6000 Ada", 364e12),
    ("A6000", 155e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


def peak_flops(device_name: str) -> float | None:
    """Dense 16-bit peak of one GPU in FLOP/s, or None when the name is not in the table."""
    words = f" {device_name.replace('-', ' ')} "
    return next((peak for part, peak in PEAK_FLOPS if f" {part} " in words), None)


class Throughput:
    """Counts what happens between two rows. Rank 0's clock is enough, since steps are collective."""

    def __init__(
        self,
        device: torch.device,
        world: int,
        flops_per_sample: float | None = None,
        flops_per_token: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`flops_per_sample`: forward and backward of one sample; None leaves `perf/mfu` out.

        `flops_per_token`: kind of token -> further operations for each, padding included.
        """
        self.device, self.world, self.clock = device, world, clock
        peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self._peak = peak * world if peak else None
        self._per_sample, self._per_token = flops_per_sample, dict(flops_per_token or {})
        self._start: float | None = None  # None: the next step begins it, not what is built or read before
        self._samples = 0

    def restart(self) -> None:
        """Start counting anew. Call it after an evaluation or a save, whose time is not training's."""
        self._start, self._samples = self.clock(), 0

    def step(self, samples: int, started: float) -> None:
        """One step: `samples` of all ranks, `started` by the clock."""
        self._start = started if self._start is None else self._start
        self._samples += samples

    def row(
        self, waited: float, tokens: float | None = None, padded_tokens: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """`perf/...` since the last row.

        All are sums over the ranks. waited: seconds that they waited for data; tokens: targets of the loss that
        predicts text, None if there is no such loss; padded_tokens: kind -> tokens computed, padding included.
        Call it after the step's one host copy, so that the clock covers the device's work. MFU counts 16-bit peak.
        """
        assert self._start is not None, "a step comes before a row"
        seconds = max(self.clock() - self._start, 1e-9)
        rate = self._samples / seconds
        row = {
            "perf/samples_per_second": rate,
            "perf/data_wait_fraction": min(1.0, waited / self.world / seconds),
            "perf/memory_gib": peak_memory(self.device) / GIB,
        }
        if tokens is not None:
            row["perf/tokens_per_second"] = tokens / seconds
        if self._peak is not None and self._per_sample is not None:
            more = sum(self._per_token.get(kind, 0.0) * count for kind, count in (padded_tokens or {}).items())
            row["perf/mfu"] = (rate * self._per_sample + more / seconds) / self._peak
        self.restart()
        return row


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by torch on a GPU, recorded passes included, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    import resource  # not on Windows, where other parts of this module are of use

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux, in bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
