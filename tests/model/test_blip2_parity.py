"""Stage two against transformers' BLIP-2: the same weights, pixels and ids give the same numbers and the same words."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.checkpoint.keymaps.hf_blip2 import HF_BLIP2, HF_BLIP2_RETRIEVAL, NOT_IN_RETRIEVAL, TO_HF_BLIP2_RETRIEVAL
from vglm_train.checkpoint.load.pretrained import load_strictly
from vglm_train.config.language import Decoding, Language
from vglm_train.config.model import Vision
from vglm_train.model.language import build_language
from vglm_train.model.qformer.qformer import QFormer
from vglm_train.model.vision import build_vision
from vglm_train.model.visual_language import VisualLanguageModel

IMAGE, LENGTH = 63, 4  # the id of an image's places; queries
SIZE = {"image_size": 16, "hidden_size": 24, "intermediate_size": 48}
VISION = {**SIZE, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "layer_norm_eps": 1e-6}
QFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
           "encoder_hidden_size": 24, "vocab_size": 50, "max_position_embeddings": 16}  # fmt: skip
OPT = transformers.OPTConfig(
    vocab_size=64, hidden_size=48, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
    word_embed_proj_dim=48,
)  # fmt: skip
T5 = transformers.T5Config(
    vocab_size=64, d_model=48, d_kv=12, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
    decoder_start_token_id=0, tie_word_embeddings=False,
)  # fmt: skip
FAMILIES = {"opt": OPT, "t5": T5}
TRAINED = ("vision_model.post_layernorm.", "query_tokens", "qformer.", "language_projection.")


@dataclass
class Case:
    theirs: Any
    ours: VisualLanguageModel
    batch: PromptBatch
    pixels: Tensor  # normalised
    seq2seq: bool


def randomised(model):
    """Weights large enough that every part matters; norms near one, the image features' variance among them."""
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        parameter.data.copy_(1 + 0.1 * noise if is_norm else 0.15 * noise)
    return model.eval()


def vision() -> Vision:
    return Vision(image_size=16, patch=8, width=24, depth=2, heads=2, mlp_width=48, dtype="fp32")


def build(family: str, folder: Path) -> Case:
    shape, seq2seq = FAMILIES[family], family == "t5"
    config = transformers.Blip2Config(
        vision_config=VISION, qformer_config=QFORMER, text_config=shape.to_dict(), num_query_tokens=LENGTH,
        image_token_index=IMAGE,
    )  # fmt: skip
    theirs = randomised(transformers.Blip2ForConditionalGeneration(config))
    config.text_config.save_pretrained(folder)
    language = Language(family="seq2seq" if seq2seq else "causal", config=str(folder), tokenizer="t", dtype="fp32")
    qformer = QFormer(tiny.MODEL.qformer, 24, None)
    ours = VisualLanguageModel(build_vision(vision()), qformer, build_language(language), (0.0,) * 3, (1.0,) * 3)
    load_strictly(ours, HF_BLIP2.apply(theirs.state_dict()), folder)
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    return Case(theirs, ours.eval(), prompts(pixels, seq2seq), pixels, seq2seq)


def prompts(pixels: Tensor, seq2seq: bool) -> PromptBatch:
    """Image, then texts of 6, 3 and 5 ids; the answer is a decoder-only text's part from its third id on."""
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(3, IMAGE, (3, LENGTH + 6), generator=draw)
    ids[:, :LENGTH] = IMAGE
    mask = torch.arange(LENGTH + 6) < LENGTH + torch.tensor([6, 3, 5])[:, None]
    labels = ids.masked_fill(~mask, IGNORED)
    labels[:, : LENGTH + 2] = IGNORED
    if seq2seq:
        labels = torch.randint(3, IMAGE, (3, 5), generator=draw)
        labels[0, 3:] = IGNORED
    return PromptBatch(
        pixels=pixels, valid=torch.ones(3, dtype=torch.bool), input_ids=ids.masked_fill(~mask, 1),
        attention_mask=mask, visual_mask=ids == IMAGE, labels=labels,
    )  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory) -> Case:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def test_names_go_there_and_back(case):
    there, here = case.theirs.state_dict(), case.ours.state_dict()
    assert same(HF_BLIP2.inverse().apply(HF_BLIP2.apply(there)), there)
    assert same(HF_BLIP2.apply(HF_BLIP2.inverse().apply(here)), here)


def test_logits_loss_and_gradients(case):
    theirs, ours, batch = case.theirs, case.ours, case.batch
    for model in (theirs, ours):
        model.zero_grad()
    out = theirs(
        pixel_values=case.pixels, input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(),
        labels=batch.labels,
    )  # fmt: skip
    out.loss.backward()
    logits, targets = ours.score(batch)
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    row, place = (batch.labels != IGNORED).nonzero(as_tuple=True)
    expected = out.logits[row, place] if case.seq2seq else out.logits[row, place - 1]
    assert logits.std() > 0.3
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, out.loss, atol=1e-4, rtol=0)
    gradients = {name: p.grad for name, p in theirs.named_parameters() if name.startswith(TRAINED)}
    wanted, found = HF_BLIP2.apply(gradients), {name: p.grad for name, p in ours.trained_parameters()}
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        assert (gradient - found[name]).norm() < 1e-4 * max(1.0, float(gradient.norm())), name
    assert min(float(gradient.norm()) for gradient in wanted.values()) > 0


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new=8),
        Decoding(max_new=8, beams=3),
        Decoding(max_new=8, beams=5, length_penalty=-1.0),
        Decoding(max_new=8, beams=2, length_penalty=2.0),
    ],
    ids=["greedy", "beams", "short", "long"],
)
@pytest.mark.parametrize("end", [None, 0, 1])
def test_the_same_words(case, decoding, end):
    """`end`: the row whose second word is made the end token, so that rows end at different lengths."""
    batch, ours = case.batch, case.ours
    end_id = 99
    if end is not None:
        end_id = int(ours.generate(batch, Decoding(max_new=2), 99)[end, 1])
    lengths = batch.attention_mask.sum(1)
    left = torch.stack([row.roll(int(row.shape[0] - n)) for row, n in zip(batch.input_ids, lengths, strict=True)])
    mask = torch.stack([row.roll(int(row.shape[0] - n)) for row, n in zip(batch.attention_mask, lengths, strict=True)])
    if case.seq2seq:
        left, mask = batch.input_ids, batch.attention_mask
    written = case.theirs.generate(
        pixel_values=case.pixels, input_ids=left, attention_mask=mask.long(), max_new_tokens=decoding.max_new,
        num_beams=decoding.beams, length_penalty=decoding.length_penalty, do_sample=False, eos_token_id=end_id,
        pad_token_id=ours.language.pad_id,
    )  # fmt: skip
    written = written[:, 1 if case.seq2seq else left.shape[1] :]
    answers = ours.generate(batch, decoding, end_id)
    assert end is not None or len({tuple(answer) for answer in answers.tolist()}) > 1
    for answer, wanted in zip(answers.tolist(), written.tolist(), strict=True):
        assert upto(answer, end_id) == upto(wanted, end_id)


def test_retrieval(tmp_path):
    """`Blip2ForImageTextRetrieval`: cosines of every query, and the matching head."""
    config = transformers.Blip2Config(
        vision_config=VISION, qformer_config={**QFORMER, "use_qformer_text_input": True}, text_config=OPT.to_dict(),
        num_query_tokens=LENGTH, image_text_hidden_size=16,
    )  # fmt: skip
    config.image_token_index = None
    theirs = randomised(transformers.Blip2ForImageTextRetrieval(config))
    ours = tiny.alignment(model=replace(tiny.MODEL, vision=vision()))
    there = theirs.state_dict()
    weights = HF_BLIP2_RETRIEVAL.apply(there)
    absent = {name for name in ours.state_dict() if name.startswith(tuple(n.rstrip("*") for n in NOT_IN_RETRIEVAL))}
    load_strictly(ours, weights, tmp_path, optional=absent)
    assert same(TO_HF_BLIP2_RETRIEVAL.apply(ours.state_dict()), there)
    assert absent | weights.keys() == ours.state_dict().keys()
    batch = tiny.batch(0, 3)
    pixels = torch.randn(3, 3, 16, 16)
    inputs = {"pixel_values": pixels, "input_ids": batch.text_ids, "attention_mask": batch.text_mask.long()}
    ours.eval()
    with torch.no_grad():
        features, images = ours.embed_images(pixels)
        cosines = torch.einsum("nqe,be->nbq", images, ours.embed_texts(batch.text_ids, batch.text_mask)).amax(-1)
        matched = ours.match_logits(ours.image_keys(features), batch.text_ids, batch.text_mask)
        torch.testing.assert_close(theirs(**inputs).logits_per_image, cosines, atol=1e-4, rtol=1e-4)
        expected = theirs(**inputs, use_image_text_matching_head=True).logits_per_image
    torch.testing.assert_close(expected, matched, atol=1e-4, rtol=1e-4)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def upto(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids
