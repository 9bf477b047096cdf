"""Counted arithmetic against torch's own counter."""

from dataclasses import replace

import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vglm_train.config.model import Model
from vglm_train.model.flops import flops_per_pair, qformer_flops, vision_flops


@pytest.mark.parametrize("family", ["eva", "clip", "siglip"])
def test_encoder(family):
    config = replace(tiny.MODEL, vision=replace(tiny.MODEL.vision, family=family))
    pixels = tiny.batch(0, 3).pixels
    model = tiny.alignment(model=config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.encode_image(pixels)
    assert counter.get_total_flops() == 3 * vision_flops(config.vision)


def test_one_pair_through_every_pass():
    model, batch = tiny.alignment(), tiny.batch(0, 1)
    ids, mask = batch.text_ids, batch.text_mask
    features = model.encode_image(batch.pixels)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        keys = model.image_keys(features)
        queries, cache = model.qformer.queries(keys)
        model.image_embeds(queries)
        model.embed_texts(ids, mask)
        for _ in range(3):
            model.match_logits(keys, ids, mask)
        model.caption_logits(model.qformer.caption(cache, ids, mask))
    expected = qformer_flops(tiny.MODEL, tiny.VOCABULARY)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)  # 50 words are decoded as 56


def test_full_size_is_of_the_known_order():
    assert flops_per_pair(Model(), 30523) == pytest.approx(0.70e12, rel=0.01)
    assert vision_flops(Model().vision) == pytest.approx(0.52e12, rel=0.01)


def test_an_absent_vocabulary_is_the_tokenizers():
    config = replace(tiny.MODEL, qformer=replace(tiny.MODEL.qformer, vocabulary=None))
    assert flops_per_pair(config, tiny.VOCABULARY) == flops_per_pair(tiny.MODEL, 1)
    assert torch.tensor(flops_per_pair(config, 500)) > flops_per_pair(config, 50)


def test_a_contrastive_batch_adds_a_forward_pass_and_its_similarities():
    model, batch = tiny.alignment(), tiny.batch(0, 1)
    ids, mask = batch.text_ids, batch.text_mask
    features = model.encode_image(batch.pixels)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        keys = model.image_keys(features)
        queries, cache = model.qformer.queries(keys)
        model.image_embeds(queries)
        model.embed_texts(ids, mask)
        model.qformer.caption(cache, ids, mask)
    without, small, large = (flops_per_pair(tiny.MODEL, 50, contrast=n) for n in (None, 8, 16))
    similarities = 3 * 2 * tiny.MODEL.qformer.queries * tiny.MODEL.contrastive_width
    assert large - small == 8 * similarities
    assert small - without - 8 * similarities == pytest.approx(counter.get_total_flops(), rel=0.001)
