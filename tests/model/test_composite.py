"""The stage-one composite: pixels, heads, what trains, and building it anywhere."""

import os
from dataclasses import replace

import pytest
import tiny
import torch
from precision import like

from vglm_train.config.model import Model
from vglm_train.model.alignment import build_alignment

NORMAL = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def test_bytes_are_normalised_and_floats_are_taken_as_they_are():
    model = tiny.alignment()
    pixels = tiny.batch(0, 2).pixels
    normalised = (pixels.float() / 255 - 0.5) / 0.25
    assert torch.allclose(model.encode_image(pixels), model.encode_image(normalised), atol=1e-6)


def test_how_pixels_lie_in_memory_makes_no_difference(monkeypatch: pytest.MonkeyPatch):
    """The encoder gets planes, with the same values, whatever the loader's layout."""
    model, pixels, seen = tiny.alignment(), tiny.batch(0, 2).pixels, []
    monkeypatch.setattr(model.vision, "forward", seen.append)
    for given in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
        model.encode_image(given)
    assert seen[0].stride() == seen[1].stride() == pixels.stride()
    assert torch.equal(seen[0], seen[1])


def test_frozen_features_are_normed_before_they_are_read():
    model = tiny.alignment()
    features = model.encode_image(tiny.batch(0, 2).pixels)
    expected = model.qformer.image_keys(torch.nn.functional.layer_norm(features, (24,), eps=1e-5))
    assert torch.allclose(model.image_keys(features)[0][0].packed, expected[0][0].packed, atol=1e-6)


def test_embeddings_are_unit_vectors_in_fp32():
    model, batch = tiny.alignment(), tiny.batch(0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        _, images = model.embed_images(batch.pixels)
        texts = model.embed_texts(batch.text_ids, batch.text_mask)
    assert images.shape == (3, 4, 16)
    assert texts.shape == (3, 16)
    for embeds in (images, texts):
        assert embeds.dtype == torch.float32
        assert torch.allclose(embeds.norm(dim=-1), torch.ones(embeds.shape[:-1]), atol=1e-5)


def test_matching_is_the_mean_of_the_queries_logits():
    model, batch = tiny.alignment(), tiny.batch(0, 3)
    keys = model.image_keys(model.encode_image(batch.pixels))
    queries, _ = model.qformer.joint(keys, batch.text_ids, batch.text_mask)
    logits = model.match_logits(keys, batch.text_ids, batch.text_mask)
    assert torch.allclose(logits, model.matching_head(queries).mean(1), atol=1e-6)


def test_words_are_decoded_with_the_word_embeddings():
    model = tiny.alignment()
    caption = torch.randn(2, 8, 32)
    hidden = model.caption_head.norm(torch.nn.functional.gelu(model.caption_head.transform(caption)))
    expected = hidden @ model.qformer.embeddings.words.weight.T + model.caption_head.bias
    assert torch.allclose(model.caption_logits(caption), expected, atol=1e-5)  # 50 words: 8 does not divide them


def test_all_but_the_encoder_trains_in_fp32():
    model = tiny.alignment(model=replace(tiny.MODEL, vision=replace(tiny.MODEL.vision, dtype="bf16"))).train()
    trained = dict(model.trained_parameters())
    names = {name for name, _ in model.named_parameters()}
    assert {name for name in names if name.startswith("vision.")} == names - set(trained)
    assert "vision_norm.weight" in trained
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert all(parameter.ndim for parameter in trained.values()), "DeepSpeed refuses parameters of no axes"


def test_full_size_on_the_meta_device():
    with torch.device("meta"):
        model = build_alignment(Model(), 30523, *NORMAL)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in model.vision.parameters()) == 985_949_440  # EVA ViT-g, 39 blocks
    # BLIP-2 says 188M for the Q-Former; LAVIS's trained set has a second bias of its tied decoder
    assert sum(parameter.numel() for _, parameter in model.trained_parameters()) == 186_705_470


def test_vocabulary_of_the_configuration_wins():
    wide = replace(tiny.MODEL, qformer=replace(tiny.MODEL.qformer, vocabulary=64))
    assert build_alignment(wide, 50, *NORMAL).qformer.embeddings.words.weight.shape[0] == 64
    tokenizer = replace(tiny.MODEL, qformer=replace(tiny.MODEL.qformer, vocabulary=None))
    assert build_alignment(tokenizer, 50, *NORMAL).caption_head.bias.shape == (50,)


def test_recompute_reaches_the_qformer():
    model = tiny.alignment()
    model.recompute(True)
    assert model.qformer.recompute


@pytest.mark.skipif(
    os.environ.get("ATEN_CPU_CAPABILITY") == "default", reason="the code that torch.compile writes does not build then"
)
def test_compiled_blocks_keep_names_and_results():
    one_block = replace(tiny.MODEL, qformer=replace(tiny.MODEL.qformer, layers=1))  # each is compiled by itself
    model, batch = tiny.alignment(model=one_block), tiny.batch(0, 2)
    names, before = list(model.state_dict()), model.embed_texts(batch.text_ids, batch.text_mask)
    try:
        model.compile_blocks()
        after = model.embed_texts(batch.text_ids, batch.text_mask)
    except torch._inductor.exc.InductorError:  # no C++ compiler on this machine
        pytest.skip("torch.compile needs a C++ compiler")
    assert list(model.state_dict()) == names
    torch.testing.assert_close(after, before, **like(before, 2048))  # sums in another order, also on more threads
