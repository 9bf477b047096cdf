"""Encoder-decoder models of transformers behind the contract, against transformers itself."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers
from precision import like
from torch import Tensor

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Decoding, Language
from vglm_train.errors import UserError
from vglm_train.model.language.base import target_rows
from vglm_train.model.language.hf.seq2seq import Seq2SeqLanguage

END = 1
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
      "decoder_start_token_id": 0, "dropout_rate": 0.3}  # fmt: skip
BART = {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 40,
        "scale_embedding": True}  # fmt: skip
FAMILIES = {
    "t5": transformers.T5Config(**T5),
    "flan-t5": transformers.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": transformers.MT5Config(**T5, feed_forward_proj="gated-gelu"),
    "bart": transformers.BartConfig(**BART),
}


def write_config(folder, family: str) -> None:
    content = FAMILIES[family].to_dict()
    if family == "flan-t5":
        content |= {"tie_word_embeddings": False}  # as published; transformers' class does not write it
    FAMILIES[family].save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(content))


def language(tmp_path, family: str, dtype: str = "fp32") -> Seq2SeqLanguage:
    write_config(tmp_path, family)
    torch.manual_seed(0)
    model = Seq2SeqLanguage(Language(family="seq2seq", config=str(tmp_path), tokenizer="t", dtype=dtype))
    for parameter in model.parameters():  # far enough from zero that ties are rare
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.15)
    return model


def batch() -> PromptBatch:
    """Three prompts of 4, 9 and 6 places, answers of 5, 2 and no ids."""
    draw = torch.Generator().manual_seed(1)
    ids, labels = (torch.randint(2, 64, (3, n), generator=draw) for n in (9, 5))
    mask = torch.arange(9) < torch.tensor([4, 9, 6])[:, None]
    labels[1, 2:] = IGNORED
    labels[2] = IGNORED
    return PromptBatch(
        pixels=torch.zeros(3, 3, 2, 2), valid=torch.ones(3, dtype=torch.bool), input_ids=ids, attention_mask=mask,
        visual_mask=torch.zeros_like(mask), labels=labels,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_transformers(tmp_path, family):
    model, whole = language(tmp_path, family), batch()
    embeds = model.embed(whole.input_ids).requires_grad_()
    logits, targets = model.score(embeds, whole)
    rows = []
    for row, labels in enumerate(whole.labels[:2]):
        length = int(whole.attention_mask[row].sum())
        said = labels[labels != IGNORED][None]
        rows.append(model.model(inputs_embeds=embeds[row : row + 1, :length], labels=said).logits[0])
    expected = torch.cat(rows)
    torch.testing.assert_close(logits, expected, **like(expected))
    assert targets.tolist() == [*whole.labels[0].tolist(), *whole.labels[1, :2].tolist()]
    assert target_rows(whole.labels, IGNORED).tolist() == [0] * 5 + [1] * 2
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((logits * noise).sum(), embeds)
    (wanted,) = torch.autograd.grad((expected * noise).sum(), embeds)
    torch.testing.assert_close(found, wanted, **like(wanted))
    model.recompute(True)
    (again,) = torch.autograd.grad((model.score(embeds, whole)[0] * noise).sum(), embeds)
    assert torch.equal(again, found)


def test_compiled_blocks_score_the_same_and_answer_uncompiled(tmp_path, monkeypatch):
    # traced and differentiated as on a GPU; C++ instead of Triton would take minutes to build
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model, whole = language(tmp_path, "flan-t5"), batch()
    embeds, decoding = model.embed(whole.input_ids).requires_grad_(), Decoding(max_new=4)
    names, answers = list(model.state_dict()), model.generate(embeds, whole, decoding, END)
    logits, _ = model.score(embeds, whole)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (grad,) = torch.autograd.grad((logits * noise).sum(), embeds)
    model.compile_blocks()
    for recompute in (False, True):
        model.recompute(recompute)
        again, _ = model.score(embeds, whole)
        (grad_again,) = torch.autograd.grad((again * noise).sum(), embeds)
        torch.testing.assert_close(again, logits, **like(logits))
        torch.testing.assert_close(grad_again, grad, **like(grad))
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled > 0
    assert list(model.state_dict()) == names
    assert torch.equal(model.generate(embeds, whole, decoding, END), answers)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


@pytest.mark.parametrize("family", ["t5", "flan-t5", "bart"])
@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new=6),
        Decoding(max_new=6, beams=3, length_penalty=-1.0),
        Decoding(max_new=6, sample=True, top_p=0.9, seed=5),
        Decoding(max_new=6, repetition_penalty=3.0),
    ],
    ids=["greedy", "beam", "sample", "penalty"],
)
def test_an_answer_is_what_it_is_alone(tmp_path, family, decoding):
    model, whole = language(tmp_path, family), batch()
    embeds = model.embed(whole.input_ids)
    answers = model.generate(embeds, whole, decoding, END)
    for row, answer in enumerate(answers):
        length = int(whole.attention_mask[row].sum())
        one = replace(whole, attention_mask=whole.attention_mask[row : row + 1, :length])
        (alone,) = model.generate(embeds[row : row + 1, :length], one, decoding, END)
        assert answer[: len(alone)].tolist() == alone.tolist()
        assert (answer[len(alone) :] == model.pad_id).all()


def test_greedy_is_the_argmax_of_score_without_the_start_token(tmp_path):
    model, whole = language(tmp_path, "flan-t5"), batch()
    embeds = model.embed(whole.input_ids)
    steps: list[Tensor] = []
    answer = model.generate(embeds, whole, Decoding(max_new=5), 99, on_token=steps.append)
    assert torch.equal(torch.stack(steps, 1), answer)
    logits, _ = model.score(embeds, replace(whole, labels=answer))
    assert torch.equal(logits.argmax(-1).view(3, 5), answer)


def test_flan_t5_has_a_head_of_its_own_and_does_not_scale(tmp_path):
    tied, own = language(tmp_path, "t5"), language(tmp_path, "flan-t5")
    assert tied.model.lm_head.weight is tied.embeddings.weight
    assert own.model.lm_head.weight is not own.embeddings.weight
    assert (tied.model.config.scale_decoder_outputs, own.model.config.scale_decoder_outputs) == (True, False)
    assert own.model.encoder.embed_tokens.weight is own.embeddings.weight


@pytest.mark.parametrize(("said", "approximate"), [(None, "tanh"), ("gelu", "none")])
def test_the_activation_is_that_of_config_json(tmp_path, said, approximate):
    """BLIP-2's Flan-T5 has dense_act_fn "gelu", the exact one, where Google's has the approximation."""
    write_config(tmp_path, "flan-t5")
    content = json.loads((tmp_path / "config.json").read_text())
    del content["dense_act_fn"]
    (tmp_path / "config.json").write_text(json.dumps(content | ({"dense_act_fn": said} if said else {})))
    model = Seq2SeqLanguage(Language(family="seq2seq", config=str(tmp_path), tokenizer="t", dtype="fp32"))
    x = torch.linspace(-3, 3, 50)
    found = model.blocks()[0].layer[-1].DenseReluDense.act(x)
    torch.testing.assert_close(found, torch.nn.functional.gelu(x, approximate=approximate), atol=1e-6, rtol=1e-6)


def test_fp16_keeps_what_overflows_in_fp32(tmp_path):
    model = language(tmp_path, "flan-t5", "fp16")
    kept = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert kept
    assert all(".wo." in name for name in kept)
    assert {p.dtype for p in language(tmp_path, "flan-t5", "bf16").parameters()} == {torch.bfloat16}
    embeds = model.embed(batch().input_ids).requires_grad_()
    model.score(embeds, batch())[0].sum().backward()
    assert embeds.grad.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_the_encoders_then_the_decoders(tmp_path, family):
    model = language(tmp_path, family)
    shape = {"bart": (2, 1)}.get(family, (2, 3))
    inside = [any(block is module for module in model.model.get_encoder().modules()) for block in model.blocks()]
    assert inside == [True] * shape[0] + [False] * shape[1]


def test_a_decoder_only_model_is_refused(tmp_path):
    transformers.LlamaConfig().save_pretrained(tmp_path)
    with torch.device("meta"), pytest.raises(UserError, match=r"llama.*family"):
        Seq2SeqLanguage(Language(family="seq2seq", config=str(tmp_path), tokenizer="none"))
