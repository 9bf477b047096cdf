"""The masks, row by row, as their docstrings teach them."""

import pytest
import torch

from vglm_train.model.qformer import masks

TEXT = torch.tensor([[True, True, False]])  # two words and a padding place
SEPARATE = ["11 000", "11 000", "00 110", "00 110", "00 110"]
FULL = ["11 110", "11 110", "11 110", "11 110", "11 110"]
CAUSAL = ["11 000", "11 000", "11 100", "11 110", "11 110"]
BOTH = [
    "11 000 000",
    "11 000 000",
    "00 110 000",
    "00 110 000",
    "00 110 000",
    "11 000 100",
    "11 000 110",
    "11 000 110",
]


def rows(mask: torch.Tensor) -> list[list[bool]]:
    assert mask.dtype == torch.bool
    return mask.tolist()


def spelled(lines: list[str]) -> list[list[bool]]:
    return [[mark == "1" for mark in line.replace(" ", "")] for line in lines]


@pytest.mark.parametrize(
    ("function", "lines"),
    [
        (masks.separate, SEPARATE),
        (masks.full, FULL),
        (masks.causal, CAUSAL),
        (masks.separate_and_causal, BOTH),
    ],
)
def test_each_row(function, lines):
    mask = function(TEXT, 2)
    assert mask.shape == (1, 1, len(lines), len(lines))
    assert rows(mask[0, 0]) == spelled(lines)


@pytest.mark.parametrize("function", [masks.separate, masks.full, masks.causal, masks.separate_and_causal])
def test_rows_of_a_batch_are_independent(function):
    text = torch.tensor([[True, True, True], [True, False, False]])
    both = function(text, 2)
    for row in range(2):
        assert torch.equal(both[row : row + 1], function(text[row : row + 1], 2))


def test_docstrings_show_what_the_functions_do():
    for function, lines in ((masks.separate, SEPARATE), (masks.full, FULL), (masks.causal, CAUSAL)):
        shown = [line.split(maxsplit=1)[1] for line in function.__doc__.splitlines() if " | " in line][1:]
        assert [line.replace(" ", "").replace("|", "") for line in shown] == [line.replace(" ", "") for line in lines]
