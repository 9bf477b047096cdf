"""Scoring asks a tensor nothing, for whose answer the host would wait while a GPU has still to compute the pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import test_causal
import test_seq2seq
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

from vglm_train.batch import PromptBatch, target_places
from vglm_train.model.language.hf import seq2seq
from vglm_train.model.language.hf.attention import whole_rows

IDS = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
LIKE_BART = {"mbart": "MBart", "pegasus": "Pegasus", "marian": "Marian", "plbart": "PLBart"}
MADE = {name: getattr(transformers, f"{kind}Config")(**test_seq2seq.BART, **IDS) for name, kind in LIKE_BART.items()}
MADE["umt5"] = transformers.UMT5Config(**test_seq2seq.T5)


class Questions(TorchDispatchMode):
    """Counts values that were brought to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", [*test_seq2seq.FAMILIES, *MADE])
def test_an_encoder_decoder_is_asked_nothing(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shape in MADE.items():
        monkeypatch.setitem(test_seq2seq.FAMILIES, name, shape)
    whole = test_seq2seq.batch()  # its last row has no answer
    unpadded = replace(whole, attention_mask=torch.ones_like(whole.attention_mask))
    model = test_seq2seq.language(tmp_path, family)
    for batch in (whole, unpadded):
        assert questions(model.score, model.embed(batch.input_ids), batch, apart=True) == 0
    found = model.score(model.embed(whole.input_ids), whole)[0]
    monkeypatch.setattr(seq2seq, "READY", set())
    assert torch.equal(model.score(model.embed(whole.input_ids), whole)[0], found)


@pytest.mark.parametrize("family", test_causal.FAMILIES)
def test_a_decoder_is_asked_nothing(tmp_path: Path, family: str) -> None:
    model, batch = test_causal.language(tmp_path, family), test_causal.batch()
    assert questions(model.score, model.embed(batch.input_ids), batch, apart=False) == 0


def test_a_question_is_seen() -> None:
    with Questions() as seen:
        bool(torch.ones(3).all())
    assert seen.count == 1


def test_another_thread_looks_as_before() -> None:
    """One that decodes, with padding on the left, while this one scores."""
    mask, found = torch.tensor([[False, True]]), []
    with whole_rows():
        thread = Thread(target=lambda: found.append(bool(masking_utils.fast_all(mask))))
        thread.start()
        thread.join()
        assert masking_utils.fast_all(mask)
    assert found == [False]
    assert not masking_utils.fast_all(mask)


def questions(score: Callable[..., Any], embeds: torch.Tensor, batch: PromptBatch, apart: bool) -> int:
    batch = replace(batch, targets=target_places(batch.labels, apart))
    with Questions() as seen:
        score(embeds.requires_grad_(), batch)
    return seen.count
