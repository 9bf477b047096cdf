"""Blocks whose weights come when they run: the same bits as of a whole model, and memory for few of them at a time."""

from dataclasses import asdict, replace

import made_encoders
import pytest
import tiny
import torch
from torch import nn
from tuning import families

from vglm_train.config.language import Decoding
from vglm_train.config.model import Vision
from vglm_train.config.tuning import Lora, Prefix
from vglm_train.distributed import Ranks
from vglm_train.model.frozen_blocks import FrozenBlocks
from vglm_train.model.language.linears import quantize_blocks
from vglm_train.model.tuning.lora import attach_lora
from vglm_train.model.tuning.prefix import attach_prefix
from vglm_train.model.vision import build_vision
from vglm_train.weights.encoders import read_shape


def moved(model: nn.Module, blocks) -> FrozenBlocks:
    frozen = FrozenBlocks(Ranks(), offload=True)
    frozen.add(model, blocks)
    return frozen


def held(frozen: FrozenBlocks) -> list[int]:
    """Numbers of the blocks that have memory."""
    return [n for n, block in enumerate(frozen.blocks) if block.row.untyped_storage().size()]


def adapted(family, folder, form=None):
    model = families.language(family, folder)
    if form is not None:
        quantize_blocks(model, form)
    attach_lora(model, Lora(rank=2, alpha=8, targets=("*",)), seed=0)
    attach_prefix(model, Prefix(length=3), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.1)
    return model


def found(model, batch) -> dict[str, torch.Tensor]:
    """The loss, and gradients of the embeddings and of all that trains."""
    model.zero_grad()
    embeds = model.embed(batch.input_ids).detach().requires_grad_()
    logits, targets = model.score(embeds, batch)
    loss = nn.functional.cross_entropy(logits.float(), targets)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "embeds": embeds.grad, **gradients}


def compare(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(two)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_losses_gradients_and_answers(family, recompute, tmp_path):
    """Adapters train inside the blocks and stay parameters of the model."""
    model, batch = adapted(family, tmp_path / family), families.prompts(family)
    model.recompute(recompute)
    prompt, decoding = families.without_answers(family, batch), Decoding(max_new=5)
    embeds = model.embed(prompt.input_ids)
    wanted, answers = found(model, batch), model.generate(embeds, prompt, decoding, end_id=1)
    assert any("lora_a" in name for name in wanted)
    before = model.state_dict()
    frozen = moved(model, model.blocks())
    assert len(frozen.blocks) == len(model.blocks())
    blocks = [p for block in model.blocks() for p in block.parameters()]
    assert all(parameter.requires_grad for parameter in blocks)
    for _ in range(2):
        compare(found(model, batch), wanted)
        assert held(frozen) == [0]  # where backward ended
        assert torch.equal(model.generate(embeds, prompt, decoding, end_id=1), answers)
    frozen.restore(keep=True)
    after = model.state_dict()
    compare(dict(after), dict(before))


@pytest.mark.parametrize("form", ["nf4", "int8", "int4"])
def test_codes_of_few_bits_move_too(form, tmp_path):
    model, batch = adapted("causal", tmp_path / "causal", form), families.prompts("causal")
    wanted = found(model, batch)
    frozen = moved(model, model.blocks())
    assert all(any("codes" in place.name for place in block.places) for block in frozen.blocks)
    assert not any(module._buffers.get("codes") is not None for module in model.modules())
    compare(found(model, batch), wanted)


@pytest.mark.parametrize("family", ["eva", "clip", "siglip"])
def test_image_encoders(family):
    torch.manual_seed(0)
    model = build_vision(replace(tiny.MODEL.vision, family=family, depth=4))
    pixels = torch.randn(2, 3, 16, 16)
    wanted = model(pixels)
    frozen = moved(model, model.encoder.blocks)
    assert torch.equal(model(pixels), wanted)
    assert held(frozen) == [3]


@pytest.mark.parametrize("kind", ["dinov3_vit", "swin"])
def test_image_encoders_of_transformers(kind, tmp_path):
    """Their blocks take more than tokens, or are stages."""
    folder = made_encoders.write(tmp_path, kind)
    shape = asdict(read_shape(folder))
    model = build_vision(Vision(family="auto", weights=str(folder), dtype="fp32", **shape))
    pixels = torch.randn(2, 3, shape["image_size"], shape["image_size"])
    model.train_last(1)
    wanted = model(pixels)
    frozen = moved(model, model.encoder.blocks)
    assert torch.equal(model(pixels), wanted)
    assert len(held(frozen)) == 1


def test_blocks_that_train_stay():
    torch.manual_seed(0)
    model = build_vision(replace(tiny.MODEL.vision, depth=3))
    trained = model.train_last(1)
    wanted = model(torch.ones(1, 3, 16, 16))
    frozen = moved(model, model.encoder.blocks)
    assert len(frozen.blocks) == 2
    assert len(list(trained[0].parameters())) == 12
    output = model(torch.ones(1, 3, 16, 16))
    output.sum().backward()
    assert torch.equal(output, wanted)


def test_memory_is_for_the_block_that_runs_and_the_next(tmp_path):
    model, seen = families.language("chatglm", tmp_path), []
    frozen = moved(model, model.blocks())
    for block in model.blocks():
        block.input_layernorm.register_forward_hook(lambda *_: seen.append(held(frozen)))
    found(model, families.prompts("chatglm"))
    assert seen == [[0, 1], [1, 2], [2]]


def test_what_stands_in_two_places_stays_whole():
    shared = nn.Linear(4, 4).requires_grad_(False)
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4).requires_grad_(False), shared) for _ in range(2))
    model = nn.Sequential(*blocks)
    wanted = model(torch.ones(1, 4))
    frozen = moved(model, blocks)
    assert [len(block.places) for block in frozen.blocks] == [2, 2]
    assert len(list(shared.parameters())) == 2
    assert torch.equal(model(torch.ones(1, 4)), wanted)
