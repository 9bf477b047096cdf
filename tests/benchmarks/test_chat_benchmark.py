"""The measurement of answering runs at toy size."""

import re

import pytest

from benchmarks import chat


@pytest.mark.parametrize("name", ["fp16", "int8", "int4-bf16"])
def test_every_line_is_measured(name, capsys):
    assert chat.main(["--tiny", "--cpu", "--check", "--steps", "2", "--single", name]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^ *\d+ conversations: .* tokens/s", printed, re.MULTILINE)) == len(chat.ROWS)
    assert "2048 tokens: first" in printed
    errors = [float(error) for line in re.findall(r"errors (.*) at 1,", printed) for error in line.split()]
    assert len(errors) == (0 if name == "fp16" else 4 * 7)
    assert max(errors, default=0) < 0.02


def test_a_form_that_fails_is_told(capfd, monkeypatch):
    monkeypatch.setattr(chat.sys, "executable", "false")
    assert chat.main(["--tiny", "--cpu", "--only", "fp16"]) == 1
    assert "fp16: failed" in capfd.readouterr().out
