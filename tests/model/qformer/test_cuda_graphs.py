"""The Q-Former's passes as CUDA graphs: the same losses, gradients and random draws as launched one by one."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_language
import torch
from torch import Tensor

from vglm_train.config.model import QFormer as Shape
from vglm_train.model.qformer import cuda_graphs
from vglm_train.model.qformer.cuda_graphs import PassGraphs, Recording, _Cast
from vglm_train.model.qformer.qformer import QFormer, grouped

ROWS, PLACES, TEXT, WIDTH, WORDS = 3, 5, 6, 24, 100
WIDTH_INSIDE = 32
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def build(dropout: float, device: str) -> QFormer:
    torch.manual_seed(0)
    shape = Shape(layers=4, width=WIDTH_INSIDE, heads=2, mlp_width=64, queries=4, dropout=dropout)
    return QFormer(shape, WIDTH, WORDS).to(device).train()


def made(device: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, ids and a mask."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(TEXT) < torch.tensor([[TEXT], [4], [1]])
    ids = torch.randint(0, WORDS, (ROWS, TEXT), generator=draw)
    return torch.randn(ROWS, PLACES, WIDTH, generator=draw).to(device), ids.to(device), mask.to(device)


def loss(qformer: QFormer, features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Both passes of stage one: all images once, then own ones for two sentences and others for one."""
    keys = qformer.image_keys(features)
    three = qformer.contrast_and_caption(keys, ids, ids.flip(1), mask)
    others = qformer.select(keys, torch.tensor([2, 0, 1], device=ids.device))
    queries, text = qformer.joint(grouped(keys, 2, others), ids.repeat(3, 1), mask.repeat(3, 1))
    return projected(*three, queries, text)


def projected(*outputs: Tensor) -> Tensor:
    """Means of products with fixed numbers: sums of squares of normed rows are the same whatever the weights."""
    draw = torch.Generator().manual_seed(5)
    return sum((x.float() * torch.randn(x.shape, generator=draw).to(x.device)).mean() for x in outputs)


def gradients(qformer: QFormer, batches: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses of micro-batches, and what their backward passes add up to in `.grad`."""
    device = batches[0][0].device.type
    losses = []
    for number, batch in enumerate(batches):
        torch.manual_seed(number)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss(qformer, *batch)
        value.backward()
        losses.append(value.detach())
    grads = {name: p.grad for name, p in qformer.named_parameters() if p.grad is not None}
    qformer.zero_grad()
    return losses, grads


def assert_same(qformer: QFormer, other: QFormer, batches: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    losses, grads = gradients(qformer, batches)
    losses_again, grads_again = gradients(other, batches)
    torch.testing.assert_close(losses, losses_again, rtol=1e-6, atol=0)
    assert grads.keys() == grads_again.keys()
    for name, grad in grads.items():
        # one by one, autocast shares a weight's bf16 copy between the passes and adds their gradients in bf16
        error = (grad - grads_again[name]).norm() / grads_again[name].norm().clamp(min=1e-6)
        assert error < 0.02, name


def test_weights_cast_together_have_the_gradients_of_weights_cast_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=draw).requires_grad_() for size in ((3, 4), (4,), (2,))]
    buffers = [torch.empty_like(w, dtype=torch.bfloat16) for w in weights]
    first, second, unused = _Cast.apply(buffers, *weights)
    x = torch.randn(5, 4, generator=draw).bfloat16()
    (x @ first.T).sum().backward(retain_graph=True)
    (x * second).float().square().sum().backward()
    found = [w.grad for w in weights]
    assert torch.equal(unused, weights[2].bfloat16())
    for w in weights:
        w.grad = None
    (x @ weights[0].bfloat16().T).sum().backward()
    (x * weights[1].bfloat16()).float().square().sum().backward()
    assert found[2] is None
    assert all(torch.equal(grad, w.grad) for grad, w in zip(found[:2], weights))


@gpu
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_same_losses_and_gradients(dropout: float) -> None:
    plain, graphed = build(dropout, "cuda"), build(dropout, "cuda")
    graphed.graphs = PassGraphs(graphed.blocks)
    for seed in range(4):  # recorded in the second, replayed in the others
        assert_same(graphed, plain, [made("cuda", seed)])
    assert len(graphed.graphs) == 2


@gpu
def test_micro_batches_add_up_and_updates_are_seen() -> None:
    plain, graphed = build(0.1, "cuda"), build(0.1, "cuda")
    graphed.graphs = PassGraphs(graphed.blocks)
    batches = [made("cuda", seed) for seed in range(4)]
    assert_same(graphed, plain, batches)
    with torch.no_grad():
        for model in (plain, graphed):
            for parameter in model.parameters():
                parameter.mul_(1.1)
    assert_same(graphed, plain, batches)


@gpu
def test_without_dropout_each_shape_is_recorded_once_and_evaluation_not_at_all() -> None:
    qformer = build(0.0, "cuda")
    qformer.graphs = PassGraphs(qformer.blocks)
    for _ in range(4):
        gradients(qformer, [made("cuda", 0)])
    assert len(qformer.graphs) == 2
    with torch.no_grad():
        loss(qformer.eval(), *made("cuda", 0))
    assert len(qformer.graphs) == 2


@gpu
def test_passes_over_the_same_images_read_one_buffer() -> None:
    plain, graphed = build(0.1, "cuda"), build(0.1, "cuda")
    graphed.graphs = PassGraphs(graphed.blocks)
    for seed in range(4):
        assert_same(graphed, plain, [made("cuda", seed)])
    first, second = graphed.graphs._recorded.values()
    shared = [each.data_ptr() for each in first.inputs if each.shape == (ROWS, PLACES, 2 * WIDTH_INSIDE)]
    assert len(shared) == 2  # one for each block with cross-attention
    assert set(shared) < {each.data_ptr() for each in second.inputs}
    assert second.own.count(False) == len(shared)


def test_a_buffer_holds_a_tensor_only_as_it_was() -> None:
    x, buffer = torch.zeros(2), torch.zeros(2)
    held = cuda_graphs._Held(x, buffer)
    assert held.holds(x)
    assert not held.holds(x.clone())
    x += 1
    assert not held.holds(x)


class Eager(Recording):
    """A recording without graphs: its backward computes again from what the buffers hold then."""

    def __init__(self, run: Any, inputs: Any, buffers: Any, parameters: Any) -> None:
        self.own = [buffer is None for buffer in buffers]
        pairs = zip(inputs, buffers)
        self.inputs = [(x.clone() if b is None else b).detach().requires_grad_(x.requires_grad) for x, b in pairs]
        self.parameters = [p.detach().requires_grad_(p.requires_grad) for p in parameters]
        self._needed = [x for x in (*self.inputs, *self.parameters) if x.requires_grad]
        self.output = run(self.inputs, self.parameters).detach()
        self.grad, self.run = torch.empty_like(self.output), run
        self.forward = SimpleNamespace(replay=lambda: self.output.copy_(self.computed().detach()))
        self.backward = SimpleNamespace(replay=self.fill)

    def computed(self) -> Tensor:
        with torch.enable_grad():
            return self.run(self.inputs, self.parameters)

    def fill(self) -> None:
        left = iter(self._gradients(self.computed(), self.grad))
        self.gradients = tuple(next(left) if x.requires_grad else None for x in (*self.inputs, *self.parameters))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> tuple[QFormer, QFormer]:
    """A Q-Former whose passes are recorded after two steps, without a GPU, and one without."""
    monkeypatch.setattr(cuda_graphs, "Recording", Eager)
    plain, graphed = build(0.0, "cpu"), build(0.0, "cpu")
    graphed.graphs = PassGraphs(graphed.blocks)
    for seed in range(3):
        assert_exact(graphed, plain, lambda model, seed=seed: loss(model, *made("cpu", seed)))
    assert len(graphed.graphs) == 2
    return plain, graphed


def assert_exact(graphed: QFormer, plain: QFormer, run: Callable[[QFormer], Tensor]) -> None:
    """Loss and gradients of `run`, which may end with a backward of its own, are those without recording."""
    values = []
    for model in (graphed, plain):
        model.zero_grad()
        value = run(model)
        value.backward()
        values.append(value.detach())
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-6)
    for (name, one), two in zip(plain.named_parameters(), graphed.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-7, msg=name)


def shared(model: QFormer) -> list[int]:
    """Of each recording, buffers that another one fills."""
    assert model.graphs is not None
    return [each.own.count(False) for each in model.graphs._recorded.values()]


def test_a_later_pass_reads_the_keys_where_an_earlier_one_has_them(eager: tuple[QFormer, QFormer]) -> None:
    assert shared(eager[1]) == [0, 2]  # one for each block with cross-attention


def test_other_images_between_the_passes_change_nothing_of_that(eager: tuple[QFormer, QFormer]) -> None:
    """As on several cards, where negatives come from others."""
    plain, graphed = eager

    def run(model: QFormer) -> Tensor:
        features, ids, mask = made("cpu", 9)
        keys = model.image_keys(features)
        three = model.contrast_and_caption(keys, ids, ids.flip(1), mask)
        others = model.image_keys(features.flip(0), beside=True)
        return projected(*three, *model.joint(grouped(keys, 2, others), ids.repeat(3, 1), mask.repeat(3, 1)))

    assert_exact(graphed, plain, run)
    assert len(graphed.graphs) == 2  # by the recordings there are


def test_keys_that_were_overwritten_are_copied_again(eager: tuple[QFormer, QFormer]) -> None:
    """A, then A on other images, then B on those of the first: B must not read what the second A left."""
    plain, graphed = eager

    def run(model: QFormer) -> Tensor:
        features, ids, mask = made("cpu", 9)
        keys = model.image_keys(features)
        others = model.select(keys, torch.tensor([2, 0, 1]))
        total = torch.zeros(())
        for each in (keys, others):
            value = projected(*model.contrast_and_caption(each, ids, ids.flip(1), mask))
            value.backward(retain_graph=True)
            total = total + value.detach()
        return total + projected(*model.joint(grouped(keys, 2, others), ids.repeat(3, 1), mask.repeat(3, 1)))

    for _ in range(3):  # the pass on its own buffers is another recording
        assert_exact(graphed, plain, run)


def test_a_pass_that_ran_again_before_its_backward_is_refused(eager: tuple[QFormer, QFormer]) -> None:
    """Also one that reads the keys of a pass that did."""
    _, graphed = eager
    features, ids, mask = made("cpu", 9)
    keys = graphed.image_keys(features)
    graphed.contrast_and_caption(keys, ids, ids.flip(1), mask)
    others = graphed.select(keys, torch.tensor([2, 0, 1]))
    value = projected(*graphed.joint(grouped(keys, 2, others), ids.repeat(3, 1), mask.repeat(3, 1)))
    graphed.contrast_and_caption(graphed.image_keys(features + 1), ids, ids.flip(1), mask)
    with pytest.raises(RuntimeError, match="ran again before its backward, or one whose keys it reads"):
        value.backward()


def test_a_copy_of_a_model_has_no_recordings(eager: tuple[QFormer, QFormer]) -> None:
    copy = pickle.loads(pickle.dumps(eager[1]))
    assert len(copy.graphs) == 0
    assert copy.graphs._parameters[0] is next(copy.blocks.parameters())


class Unrecorded:
    """Takes a recording's place where there is no GPU."""

    full = False
    inputs = ()

    def __init__(self, *_: Any) -> None:
        if self.full:
            raise torch.OutOfMemoryError


def passes(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> tuple[PassGraphs, list[bool]]:
    """Run batches of so many images; whether each was replayed."""
    monkeypatch.setattr(cuda_graphs, "Recording", Unrecorded)
    monkeypatch.setattr(cuda_graphs, "apply", lambda function, recording, hidden, *_: hidden)
    qformer = build(0.0, "cpu")
    qformer.graphs, replayed = PassGraphs(qformer.blocks), []
    for n in rows:
        given = torch.randn(n, 4, 32)
        keys = qformer.image_keys(torch.randn(n, PLACES, WIDTH))
        replayed.append(qformer.graphs(given, 4, keys, None) is given)
    return qformer.graphs, replayed


def test_shapes_that_come_again_are_recorded_and_only_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, replayed = passes([3, 2, 3, 2, 3, 1], monkeypatch)
    assert replayed == [False, False, True, True, True, False]
    assert len(graphs) == 2
    graphs, replayed = passes([n for n in range(1, 8) for _ in range(2)], monkeypatch)
    assert len(graphs) == sum(replayed) == cuda_graphs.MOST


def test_a_full_card_runs_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unrecorded, "full", True)
    graphs, replayed = passes([3, 3, 3, 2, 2], monkeypatch)
    assert not any(replayed)
    assert len(graphs) == 0


@gpu
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_image_tokens_of_a_q_former_that_trains(reads: bool, dropout: float) -> None:
    """As in stages generate and finetune: queries alone, or with a question; every other batch is of another size."""
    base = tiny_language.CHATGLM
    shape = replace(base.qformer, reads_question=reads, dropout=dropout, spread=0.3)
    plain, graphed = (tiny_language.build(replace(base, qformer=shape)).cuda().train() for _ in range(2))
    graphed.graph_passes()
    draw = torch.Generator().manual_seed(0)
    for number in range(8):
        rows = 2 + number % 2
        features = torch.randn(rows, plain.vision.num_patches, plain.vision.width, generator=draw).cuda()
        ids = torch.randint(1, 9, (rows, 4), generator=draw).cuda()
        question = (ids, torch.arange(4, device="cuda") < torch.tensor([[4], [2], [3]], device="cuda")[:rows])
        values, grads = [], []
        for model in (plain, graphed):
            torch.manual_seed(number)
            with torch.autocast("cuda", torch.bfloat16):
                tokens = model.visual_tokens(features, *(question if reads else ()))
            tokens.float().square().sum().backward()
            values.append(tokens.detach())
            grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            model.zero_grad()
        torch.testing.assert_close(values[1], values[0], rtol=1e-6, atol=0)
        assert grads[0].keys() == grads[1].keys()
        for name, grad in grads[0].items():
            assert (grads[1][name] - grad).norm() <= 0.02 * grad.norm(), name  # added in bf16, see assert_same
    assert len(graphed.qformer.graphs) == 2
