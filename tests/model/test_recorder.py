"""Frozen passes as CUDA graphs: when one is recorded, when it is not used, and the same numbers on a GPU."""

import copy
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import tiny_language
import torch
from torch import Tensor, nn

from vglm_train.config.model import Vision
from vglm_train.model import recorder as module
from vglm_train.model.recorder import MOST, Recorder
from vglm_train.model.vision import base, build_vision
from vglm_train.model.vision.base import VisionEncoder

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
SMALL = Vision(image_size=32, patch=8, width=64, depth=3, heads=2, mlp_width=128)


class Replayed:
    """Takes a recording's place where there is no GPU: counts how often it is used."""

    uses = 0

    def __init__(self, run: Any, inputs: Sequence[Tensor], where: Any) -> None:
        self.run, self.where = run, where

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        type(self).uses += 1
        output: Tensor = self.run(*inputs)
        return output


class Full(Replayed):
    def __init__(self, run: Any, inputs: Sequence[Tensor], where: Any) -> None:
        raise torch.OutOfMemoryError


class Here:
    def __init__(self, device: torch.device) -> None:
        self.here = True

    def is_here(self) -> bool:
        return self.here


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    Replayed.uses = 0
    monkeypatch.setattr(module, "records", lambda inputs: True)
    monkeypatch.setattr(module, "Recording", Replayed)
    monkeypatch.setattr(module, "_Where", Here)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU()).requires_grad_(False)


@pytest.mark.usefixtures("stand_ins")
def test_a_shape_is_recorded_when_it_occurs_again() -> None:
    recorder, owner = Recorder(), linear()
    for uses in (0, 0, 1, 2):
        assert torch.equal(recorder(owner, [owner], torch.ones(2, 4)), owner(torch.ones(2, 4)))
        assert Replayed.uses == uses
    recorder(owner, [owner], torch.ones(1, 4))
    recorder(owner, [owner], torch.ones(2, 4, dtype=torch.float32))
    assert (Replayed.uses, len(recorder)) == (3, 1)


@pytest.mark.usefixtures("stand_ins")
def test_no_more_shapes_than_a_few() -> None:
    recorder, owner = Recorder(), linear()
    for rows in range(1, MOST + 3):
        for _ in range(3):
            recorder(owner, [owner], torch.ones(rows, 4))
    assert len(recorder) == Replayed.uses == MOST


@pytest.mark.usefixtures("stand_ins")
def test_a_dtype_and_an_autocast_of_its_own() -> None:
    recorder, owner = Recorder(), linear()
    for _ in range(2):
        recorder(owner, [owner], torch.ones(2, 4))
        with torch.autocast("cpu", torch.bfloat16):
            assert recorder(owner, [owner], torch.ones(2, 4)).dtype == torch.bfloat16
    assert len(recorder) == 2


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("change", ["moved", "in place", "replaced", "another module"])
def test_other_weights_are_recorded_again(change: str) -> None:
    recorder, owner = Recorder(), linear()
    for _ in range(3):
        recorder(owner, [owner], torch.ones(2, 4))
    kept = owner[0].weight  # so that its memory is not given to what comes
    if change == "moved":
        kept.data = kept.data.clone()
    elif change == "in place":
        owner.load_state_dict({name: value + 1 for name, value in owner.state_dict().items()})
    elif change == "replaced":
        owner[0].weight = nn.Parameter(kept + 1, requires_grad=False)
    else:
        owner[1] = nn.Linear(4, 4).requires_grad_(False)
    recorder(owner, [owner], torch.ones(2, 4))
    assert (Replayed.uses, len(recorder)) == (1, 0)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("reason", ["a hook", "a hook before", "a gradient", "off"])
def test_what_is_not_recorded(reason: str) -> None:
    recorder, owner = Recorder(), linear()
    for _ in range(3):
        recorder(owner, [owner], torch.ones(2, 4))
    if reason == "a hook":
        owner[0].register_forward_hook(lambda *_: None)
    elif reason == "a hook before":
        owner[0].register_forward_pre_hook(lambda *_: None)
    elif reason == "a gradient":
        owner[0].bias.requires_grad_()
    else:
        recorder.on = False
    assert recorder(owner, [owner], torch.ones(2, 4)).requires_grad is (reason == "a gradient")
    assert Replayed.uses == 1


@pytest.mark.usefixtures("stand_ins")
def test_weights_that_train_elsewhere_are_read_in_place() -> None:
    """As in the evaluations of a run: nothing has a gradient there, and steps between them change the weights."""
    recorder, owner = Recorder(), linear().requires_grad_()
    with torch.no_grad():
        for uses in (0, 0, 1, 2):
            recorder(owner, [owner], torch.ones(2, 4))
            owner[0].weight.add_(1)
            assert Replayed.uses == uses


@pytest.mark.usefixtures("stand_ins")
def test_on_another_stream_nothing_is_recorded() -> None:
    recorder, owner = Recorder(), linear()
    for _ in range(2):
        recorder(owner, [owner], torch.ones(2, 4))
    recorder._where.here = False
    for _ in range(3):
        recorder(owner, [owner], torch.ones(2, 4))
        recorder(owner, [owner], torch.ones(3, 4))
    assert (Replayed.uses, len(recorder)) == (0, 1)


def test_a_full_card_runs_without(monkeypatch: pytest.MonkeyPatch, stand_ins: None) -> None:
    recorder, owner = Recorder(), linear()
    for _ in range(2):
        recorder(owner, [owner], torch.ones(1, 4))
    monkeypatch.setattr(module, "Recording", Full)
    for _ in range(3):
        assert torch.equal(recorder(owner, [owner], torch.ones(2, 4)), owner(torch.ones(2, 4)))
    assert not recorder.on
    assert len(recorder) == 0


@pytest.mark.usefixtures("stand_ins")
def test_a_copy_of_a_model_records_its_own() -> None:
    vision = build_vision(SMALL)
    for _ in range(2):
        vision(torch.ones(1, 3, 32, 32))
    assert len(vision.recorder) == 1
    assert len(copy.deepcopy(vision).recorder) == 0


@pytest.mark.usefixtures("stand_ins")
def test_an_encoder_records_small_batches_of_what_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    vision = build_vision(replace(SMALL, dtype="fp32"))
    monkeypatch.setattr(base, "LAUNCHED_SLOWER", 2 * vision.num_patches * vision.width**2)
    for rows in (2, 3):
        for _ in range(2):
            vision(torch.ones(rows, 3, 32, 32))
    assert len(vision.recorder) == 1
    vision.train_last(1)
    assert vision(torch.ones(2, 3, 32, 32)).requires_grad
    assert Replayed.uses == 0


@pytest.mark.usefixtures("stand_ins")
def test_the_way_to_the_language_model_is_recorded_where_nothing_of_it_trains() -> None:
    model = tiny_language.build(tiny_language.CHATGLM).requires_grad_(False).train()
    features = torch.randn(2, model.vision.num_patches, model.vision.width)
    wanted = model.visual_tokens(features)
    for _ in range(3):
        assert torch.equal(model.visual_tokens(features), wanted)
    assert (Replayed.uses, len(model.recorder)) == (2, 1)
    model.projection.requires_grad_()
    assert model.visual_tokens(features).requires_grad
    model.requires_grad_(False).qformer.requires_grad_().train()
    with torch.no_grad():
        model.visual_tokens(features)  # its dropout draws
    assert Replayed.uses == 2
    model.eval().record_nothing()
    assert not model.recorder.on
    assert not model.vision.recorder.on


@gpu
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32", "fp8"])
@pytest.mark.parametrize("family", ["eva", "clip", "siglip"])
def test_an_encoder_gives_the_same_bits(family: str, dtype: str) -> None:
    if dtype == "fp8" and (family != "eva" or torch.cuda.get_device_capability()[0] != 9):
        pytest.skip("fp8 is for EVA on Hopper")
    torch.manual_seed(0)
    vision = build_vision(replace(SMALL, family=family, dtype=dtype)).cuda()
    pictures = torch.randn(8, 2, 3, 32, 32, device="cuda")
    found = [vision(x) for x in pictures]
    assert len(vision.recorder) == 1
    vision.recorder.on = False
    assert all(torch.equal(x, vision(y)) for x, y in zip(found, pictures))


@gpu
def test_other_weights_are_seen_on_a_gpu() -> None:
    vision, other = (build_vision(replace(SMALL, dtype="fp16")).cuda() for _ in range(2))
    pictures = torch.randn(2, 3, 32, 32, device="cuda")
    for _ in range(3):
        vision(pictures)
    vision.load_state_dict(other.state_dict())
    other.recorder.on = False
    for _ in range(4):
        assert torch.equal(vision(pictures), other(pictures))
    vision.cpu().cuda()
    for _ in range(4):
        assert torch.equal(vision(pictures), other(pictures))


@gpu
def test_random_draws_go_on_as_without() -> None:
    vision = build_vision(replace(SMALL, dtype="fp16")).cuda()
    pictures, draws = torch.randn(2, 3, 32, 32, device="cuda"), []
    for on in (True, False):
        vision.recorder.on = on
        torch.manual_seed(0)
        for _ in range(4):
            vision(pictures)
        draws.append(torch.rand(4, device="cuda"))
    assert torch.equal(*draws)


@gpu
def test_threads_do_not_mix_their_pictures() -> None:
    vision = build_vision(replace(SMALL, dtype="fp16")).cuda()
    pictures, found = torch.randn(4, 2, 3, 32, 32, device="cuda"), {}
    wanted = [vision(x) for x in pictures]

    def work(number: int) -> None:
        found[number] = [vision(pictures[number]) for _ in range(50)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(x, wanted[number]) for number, outputs in found.items() for x in outputs)


@gpu
@pytest.mark.parametrize("reads", [False, True])
def test_frozen_image_tokens_are_the_same_bits(reads: bool) -> None:
    qformer = replace(tiny_language.CHATGLM.qformer, reads_question=reads, spread=0.3)
    model = tiny_language.build(replace(tiny_language.CHATGLM, qformer=qformer)).requires_grad_(False).cuda().train()
    features = torch.randn(5, 2, model.vision.num_patches, model.vision.width, device="cuda")
    ids = torch.randint(1, 9, (5, 2, 4), device="cuda")
    mask = torch.tensor([[True] * 4, [True, True, False, False]], device="cuda")

    def tokens() -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            questions = [(x, mask) if reads else () for x in ids]
            return [model.visual_tokens(x, *question) for x, question in zip(features, questions)]

    found = tokens()
    assert len(model.recorder) == 1
    model.record_nothing()
    assert all(torch.equal(x, y) for x, y in zip(found, tokens()))


@gpu
def test_a_full_card_trains_on() -> None:
    """Memory that is refused while recording leaves the device and its random numbers usable."""
    vision: VisionEncoder = build_vision(replace(SMALL, dtype="fp16")).cuda()
    pictures, plain = torch.randn(2, 3, 32, 32, device="cuda"), vision.encoder.forward
    wanted = vision(pictures)

    def hungry(pixels: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**44, dtype=torch.uint8, device="cuda")
        return plain(pixels)

    vision.encoder.forward = hungry  # type: ignore[method-assign]
    for _ in range(3):
        assert torch.equal(vision(pictures), wanted)
    assert not vision.recorder.on
    assert torch.nn.functional.dropout(torch.ones(1000, device="cuda")).sum() > 0
