"""The command in a process of its own."""

import signal
import subprocess
import sys

import httpx
import pytest

from vglm_train.web.__main__ import main


def test_it_says_where_it_is_and_ends_with_a_signal(bundles, tmp_path):
    (tmp_path / "report.html").write_text("all of it")
    command = [sys.executable, "-m", "vglm_train.web", str(bundles["causal"]), "--port", "0", "--device", "cpu"]
    options = ["--medical", "--verdict", str(tmp_path)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("open http://127.0.0.1:")
            assert httpx.get(f"{line.split()[1]}/verdict/report.html", timeout=60).text == "all of it"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--host", "0.0.0.0"], "needs a token"), (["--verdict", "none.html"], "--verdict none.html"), ([], "bundle")],
)
def test_mistakes_are_told_in_a_line(options, words, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("VGLM_TOKEN", raising=False)
    assert main([str(tmp_path), *options]) == 2
    assert words in capsys.readouterr().err
