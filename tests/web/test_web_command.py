"""Mistakes at the command line; `test_medical_line` runs the command in a process of its own."""

import pytest

from vglm_train.web.__main__ import main


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--host", "0.0.0.0"], "needs a token"), (["--verdict", "none.html"], "--verdict none.html"), ([], "bundle")],
)
def test_mistakes_are_told_in_a_line(options, words, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("VGLM_TOKEN", raising=False)
    assert main([str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err
