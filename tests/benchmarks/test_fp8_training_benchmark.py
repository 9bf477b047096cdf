"""The training that compares eight bits with sixteen runs, at toy shapes and in bf16 both times."""

import pytest

from benchmarks.fp8_training import apart, main


@pytest.mark.slow
def test_the_same_precision_twice_differs_by_nothing(tmp_path, capsys):
    main(["--tiny", "--steps", "20", "--batch", "8", "--seeds", "2", "--work", str(tmp_path)])
    out = capsys.readouterr().out
    assert "differs by 0.0000 on average" in out
    assert "seeds is 0.0000" not in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("bf16", "fp8"))] == [
        "bf16-0",
        "bf16-1",
        "fp8-0",
    ]
    assert not list(tmp_path.iterdir())


def test_a_spread_is_taken_row_by_row():
    difference, spread = apart([1.1, 2.3], [1.0, 2.0], [[1.0, 2.0], [1.4, 1.0], [1.2, 1.5]])
    assert difference == pytest.approx(0.2)
    assert spread == pytest.approx((0.2 + 0.5) / 2)
