"""A step waits for the GPU once, for the norm of its gradients at its end. Runs where there is a GPU, or says why not.

The host is ahead of the device otherwise, which is why the device has always something to do.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("step_on_gpu.py")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: waits were not looked for")


@pytest.mark.parametrize("kind", ["align", "chatglm", "opt", "llama", "t5"])
def test_a_step_launches_without_waiting(kind: str) -> None:
    path = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), kind],
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "one wait" in done.stdout
