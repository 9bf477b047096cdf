"""Rates from a clock that the test holds."""

import pytest
import torch

from vglm_train.log.throughput import GIB, Throughput, peak_flops, peak_memory


def test_rates_between_rows():
    now = 60.0
    meter = Throughput(torch.device("cpu"), world=2, clock=lambda: now)
    meter.step(samples=8, started=100.0)  # what is built and read before the first step is not its time
    meter.step(samples=8, started=102.0)
    now = 104.0
    row = meter.row(waited=2.0, tokens=200)  # by both ranks together
    assert row["perf/samples_per_second"] == 4.0
    assert row["perf/tokens_per_second"] == 50.0
    assert row["perf/data_wait_fraction"] == 0.25
    assert row["perf/memory_gib"] == pytest.approx(peak_memory(torch.device("cpu")) / GIB, rel=0.1)
    assert 0.05 < row["perf/memory_gib"] < 100
    assert "perf/mfu" not in row, "a CPU has no peak in the table"
    meter.step(samples=8, started=104.5)
    now = 105.0
    row = meter.row(waited=0.0)
    assert row["perf/samples_per_second"] == 8.0
    assert "perf/tokens_per_second" not in row, "no loss predicts text"


def test_time_of_an_evaluation_is_not_counted():
    now = 10.0
    meter = Throughput(torch.device("cpu"), world=1, clock=lambda: now)
    meter.step(samples=10, started=9.0)
    meter.row(waited=0.0)
    now = 50.0
    meter.restart()
    meter.step(samples=10, started=50.5)
    now = 51.0
    assert meter.row(waited=0.0)["perf/samples_per_second"] == 10.0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA GH200 480GB", None),
        ("GeForce GTX 1080 Ti", None),
    ],
)
def test_peaks_by_device_name(name, peak):
    assert peak_flops(name) == peak
