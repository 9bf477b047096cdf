"""What a card reaches at best: the rates that floors are counted with."""

import time
from collections.abc import Callable
from typing import Any

import torch


def product_rate(device: torch.device) -> float:
    """Floating point operations a second of large bf16 products on random data, kept up for about a second.

    A step lasts long enough to reach the card's power limit; a shorter burst would run at clocks it cannot hold.
    """
    n, times = (8192, 600) if device.type == "cuda" else (512, 3)
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
    for _ in range(times // 4):
        a @ b
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
        a @ b
    wait(device)
    return times * 2 * n**3 / (time.perf_counter() - start)


def copy_rate(device: torch.device, tiny: bool) -> float:
    """Bytes a second, read and written, of a large copy."""
    source = torch.randn(1 << (16 if tiny else 28), device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / timed(lambda: target.copy_(source), device)


def timed(call: Callable[[], Any], device: torch.device, times: int = 10) -> float:
    """Median seconds."""
    found = []
    for _ in range(times):
        wait(device)
        begin = time.perf_counter()
        call()
        wait(device)
        found.append(time.perf_counter() - begin)
    return sorted(found)[times // 2]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
