"""How a command ends."""

import pytest
import torch

from vglm_train.command import run_command


def _full() -> int:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _broken() -> int:
    raise RuntimeError("a fault of the program")


def test_a_full_card_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(_full) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the GPU's memory is full: CUDA out of memory. Tried to allocate 2.00 GiB. End what")


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a fault"):
        run_command(_broken)
