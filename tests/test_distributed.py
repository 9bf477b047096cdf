"""A process that fails between collectives ends, and says why, while another waits for it in one."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vglm_train import distributed
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError, explain_dead_processes

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60  # from the start of Python on; a collective gives up after 30 minutes


def rank(backend: str) -> None:
    """Rank 1 makes a mistake while rank 0 waits for it, both as `run` would."""
    ranks = distributed.start(backend)
    ranks.all_sum(torch.ones(1, device=ranks.device)).item()
    try:
        with explain_dead_processes():
            if ranks.rank == 1:
                time.sleep(1)
                raise UserError("rank 1 found no file: bring it back.")
            ranks.all_sum(torch.ones(1, device=ranks.device)).item()
    finally:
        distributed.stop()


def launch(backend: str) -> list[subprocess.Popen]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    shared |= {"MASTER_ADDR": "127.0.0.1"} | ({"DS_ACCELERATOR": "cpu"} if backend == "gloo" else {})
    command = [sys.executable, str(Path(__file__)), backend]
    return [
        subprocess.Popen(
            command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True
        )
        for r in range(2)
    ]


def test_gloo_ends_both() -> None:
    waiting, failed = launch("gloo")
    for process, words in (
        (failed, "rank 1 found no file"),
        (waiting, "LostProcess: another process of this run ended"),
    ):
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert words in errors


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs: NCCL was not tested here")
def test_nccl_ends_the_one_that_failed() -> None:
    """The other waits until its launcher ends it."""
    waiting, failed = launch("nccl")
    try:
        _, errors = failed.communicate(timeout=SECONDS)
        assert failed.returncode == 1
        assert "rank 1 found no file" in errors
    finally:
        waiting.kill()


def test_alone_nothing_is_exchanged() -> None:
    ranks = distributed.Ranks()
    with ranks.together():
        pass
    with pytest.raises(ValueError, match="own"), ranks.together():
        raise ValueError("own")


if __name__ == "__main__":
    rank(sys.argv[1])


def test_rows_of_an_fp16_encoder_are_fetched_under_autocast():
    parts = list(torch.arange(12.0).half().view(3, 2, 2))
    ranks = Ranks()
    with torch.autocast("cpu", torch.bfloat16):
        found = ranks.exchange(parts, ranks.request(torch.tensor([5, 0, 3])))
    assert found.dtype == torch.float16
    assert found.tolist() == [[10, 11], [0, 1], [6, 7]]
