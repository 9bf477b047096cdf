"""ChatGLM: masks and positions against SAT's, score, recompute, dtypes."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_chatglm import GMASK, SHAPE, SOP, chatglm, prompts

from vglm_train.batch import IGNORED
from vglm_train.config.language import Language
from vglm_train.model.language import build_language
from vglm_train.model.language.base import target_rows


@pytest.fixture
def batch():
    return prompts([5, 9, 2], [6, 3, 1], width=17)


def test_mask_and_positions_are_sat_s(model, batch):
    network = model.network
    network.bos_token_id, network.gmask_token_id, network.mask_token_id, network.pad_token_id = SOP, GMASK, 110, 3
    mask, positions = network.get_inputs(batch.input_ids)
    layout = model.layout(batch)
    real = batch.attention_mask
    both = (real[:, None, :] & real[:, :, None])[:, None]
    assert torch.equal(layout.visible[both], mask[both].bool())
    expanded = real[:, None].expand_as(positions)
    assert torch.equal(layout.positions[expanded], positions[expanded])
    assert layout.context.tolist() == [6, 10, 3]


def test_positions_as_protocol_writes_them(model):
    layout = model.layout(prompts([5], [3]))
    assert layout.positions[0].tolist() == [[0, 1, 2, 3, 4, 5, 5, 5, 5, 5], [0, 0, 0, 0, 0, 0, 1, 2, 3, 4]]


def test_only_the_first_sop_ends_the_context_and_an_image_never_does(model, batch):
    batch.input_ids[0, 8] = SOP
    batch.input_ids[1, 2] = SOP
    batch.visual_mask[1, 2] = True
    batch.input_ids[2, 10] = SOP  # padding
    assert model.layout(batch).context.tolist() == [6, 10, 3]


def test_logits_foretell_the_next_place_in_order(model, batch):
    logits, targets = model.score(model.embed(batch.input_ids), batch)
    assert torch.equal(targets, batch.labels[batch.labels != IGNORED])
    assert len(targets) == len(target_rows(batch.labels, IGNORED)) == 7 + 4 + 2
    row = prompts([9], [3])
    alone, _ = model.score(model.embed(row.input_ids), row)
    torch.testing.assert_close(logits[7:11], alone)


def test_no_target_at_all(model, batch):
    empty = replace(batch, labels=torch.full_like(batch.labels, IGNORED))
    logits, targets = model.score(model.embed(batch.input_ids), empty)
    assert logits.shape == (0, SHAPE["vocabulary"])
    assert targets.shape == (0,)


def test_an_answer_without_sop_is_refused(model, batch):
    """All of it would be context, where the logits of a place see the id they are to foretell."""
    batch.input_ids[1, 10] = 5
    with pytest.raises(ValueError, match=r"row 1 has an answer but no <sop> \(id 114\)"):
        model.score(model.embed(batch.input_ids), batch)
    batch.labels[1] = IGNORED
    model.score(model.embed(batch.input_ids), batch)


def test_what_stands_in_padding_changes_nothing(model, batch):
    embeds = model.embed(batch.input_ids)
    logits, _ = model.score(embeds, batch)
    other = embeds.masked_fill(~batch.attention_mask[..., None], 7.0)
    assert torch.equal(model.score(other, batch)[0], logits)


def test_context_is_seen_whole_and_the_answer_is_causal(model):
    row = prompts([5], [4])
    embeds = model.embed(row.input_ids).requires_grad_()
    logits, _ = model.score(embeds, row)
    for number, logit in enumerate(logits):  # the logit of [gMASK] comes first
        (gradient,) = torch.autograd.grad(logit.sum(), embeds, retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        assert seen.tolist() == [place <= 5 + number for place in range(11)]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_recompute_gives_the_same_gradient(dtype, batch):
    model = chatglm(dtype=dtype)
    gradients = []
    for on in (False, True):
        model.recompute(on)
        embeds = model.embed(batch.input_ids).detach().requires_grad_()
        logits, targets = model.score(embeds, batch)
        F.cross_entropy(logits.float(), targets).backward()
        gradients.append(embeds.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0


def test_recompute_keeps_less():
    model, batch = chatglm(), prompts([40] * 4, [20] * 4)

    def kept(on: bool) -> int:
        model.recompute(on)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model.score(model.embed(batch.input_ids).detach().requires_grad_(), batch)
        return sum(sizes)

    assert kept(True) < kept(False) / 4


def test_frozen_and_always_in_eval_mode(model):
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.train().training
    assert not any(module.training for module in model.modules())
    assert len(model.blocks()) == SHAPE["layers"]


def test_autocast_around_it_changes_nothing(model, batch):
    embeds = model.embed(batch.input_ids)
    logits, _ = model.score(embeds, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.score(embeds, batch)[0], logits)


def test_half_precision_gradients_do_not_underflow(batch):
    gradients = {}
    for dtype, small in (("fp32", 1.0), ("fp16", 1e-7)):
        model = chatglm(dtype=dtype)
        embeds = model.embed(batch.input_ids).detach().float().requires_grad_()
        logits, targets = model.score(embeds, batch)
        (F.cross_entropy(logits.float(), targets) * small).backward()
        gradients[dtype] = embeds.grad / small
    error = (gradients["fp16"] - gradients["fp32"]).norm() / gradients["fp32"].norm()
    assert error < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_frequencies_stay_fp32_whatever_happens(dtype):
    model = chatglm(dtype="bf16" if dtype == torch.bfloat16 else "fp16")
    assert {p.dtype for p in model.parameters()} == {dtype}
    exact = 10000.0 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)
    for change in (lambda m: m, lambda m: m.to(dtype), lambda m: m.half(), lambda m: m.to_empty(device="cpu")):
        frequencies = change(model).network.get_mixin("chatglm-attn").rotary_emb.inv_freq
        assert frequencies.dtype == torch.float32
        torch.testing.assert_close(frequencies.double(), exact, rtol=1e-6, atol=0)


def test_chatglm_6b_on_the_meta_device():
    with torch.device("meta"):
        model = build_language(Language(tokenizer="none"))
    count = sum(p.numel() for p in model.parameters())
    table = 130528 * 4096
    assert count == 6_707_929_088  # with a head of its own, as in the released files
    assert count - table == 6_173_286_400  # as published: word embeddings and head counted once
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.sop_id == 130004


def test_initial_loss_is_near_an_even_guess(batch):
    torch.manual_seed(0)
    model = build_language(Language(**SHAPE, dtype="fp32"))
    logits, targets = model.score(model.embed(batch.input_ids), batch)
    assert F.cross_entropy(logits, targets).item() == pytest.approx(math.log(SHAPE["vocabulary"]), abs=0.2)
