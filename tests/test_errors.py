"""Output whose reader stops early."""

import subprocess
import sys

PRINTS = """from vglm_train.errors import ignore_broken_pipe
with ignore_broken_pipe():
    for _ in range(100_000): print('a line')
"""


def test_a_reader_that_stops_is_no_error() -> None:
    command = [sys.executable, "-c", PRINTS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"a line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
