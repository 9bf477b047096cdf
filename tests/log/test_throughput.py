"""Rates from a clock that the test holds."""

import pytest
import torch

from vglm_train.log.throughput import GIB, Throughput, peak_flops, peak_memory


def test_rates_between_rows():
    now = 100.0
    meter = Throughput(torch.device("cpu"), world=2, clock=lambda: now)
    meter.step(samples=8, waited=0.5)
    meter.step(samples=8, waited=0.5)
    now = 104.0
    row = meter.row(tokens=200)
    assert row["perf/samples_per_second"] == 4.0
    assert row["perf/tokens_per_second"] == 50.0
    assert row["perf/data_wait_fraction"] == 0.25
    assert row["perf/memory_gib"] == pytest.approx(peak_memory(torch.device("cpu")) / GIB, rel=0.1)
    assert 0.05 < row["perf/memory_gib"] < 100
    assert "perf/mfu" not in row, "a CPU has no peak in the table"
    meter.step(samples=8, waited=0.0)
    now = 105.0
    assert meter.row()["perf/samples_per_second"] == 8.0


def test_time_of_an_evaluation_is_not_counted():
    now = 0.0
    meter = Throughput(torch.device("cpu"), world=1, clock=lambda: now)
    now = 50.0
    meter.restart()
    meter.step(samples=10, waited=0.0)
    now = 51.0
    assert meter.row()["perf/samples_per_second"] == 10.0


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
