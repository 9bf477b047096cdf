"""Every configuration for fine-tuning is built as it stands and takes a step, at a toy size."""

import pytest

from benchmarks.recipes import main


@pytest.mark.parametrize("name", ["xray_vqa_chatglm_ptuning", "xray_report_flan_t5"])
def test_a_toy_size_on_the_cpu(name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is measured by a process of its own, which `main` starts."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert main(["--tiny", "--steps", "1", "--only", name]) == 0
    lines = capfd.readouterr().out.splitlines()
    header, row = [line.split() for line in lines if "GiB" in line or line.startswith(name)]
    assert header[:4] == ["trained", "rows", "tokens", "GiB"]
    assert row[0] == name
    assert int(row[1].replace(",", "")) > 0
    assert float(row[-1]) > 0
