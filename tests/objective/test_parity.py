"""Losses, gradients and features against what LAVIS's own code computed (../shared/fixtures).

1e-4: both sides are fp32, and differ only in the order of their sums.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from precision import rounding
from safetensors.torch import load_file
from torch import Tensor

from vglm_train.batch import PairBatch
from vglm_train.checkpoint.keymaps.lavis import LAVIS_STAGE1
from vglm_train.checkpoint.load.pretrained import load_strictly
from vglm_train.config.model import Model, QFormer, Vision
from vglm_train.config.run import Contrastive, Objective
from vglm_train.distributed import Ranks
from vglm_train.model.alignment import build_alignment
from vglm_train.objective.alignment import AlignmentObjective
from vglm_train.objective.base import LossOutput
from vglm_train.objective.captioning import caption_inputs
from vglm_train.objective.contrastive import similarities

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@dataclass
class Case:
    expected: dict
    tensors: dict[str, Tensor]
    objective: AlignmentObjective
    batch: PairBatch

    def losses(self) -> dict[str, Tensor]:
        units, output = self.objective.units(self.batch), self.objective(self.batch)
        assert isinstance(output, LossOutput)
        return {name: output.sums[name] / units[name] for name in output.sums}

    def gradients(self) -> dict[str, Tensor]:
        """Under LAVIS's names."""
        sum(self.losses().values()).backward()
        ours = {name: parameter.grad for name, parameter in self.objective.model.trained_parameters()}
        frozen = {f"vision.{name}": value for name, value in self.objective.model.vision.state_dict().items()}
        ours |= {name: torch.zeros_like(value) for name, value in frozen.items()}
        return LAVIS_STAGE1.inverse().apply(ours)


def load(folder: Path, gather: str = "lavis") -> Case:
    expected = json.loads((folder / "expected.json").read_text())
    shape, tensors = expected["config"], load_file(folder / "batch.safetensors")
    config = Model(
        vision=Vision(
            image_size=shape["img"],
            patch=shape["patch"],
            width=shape["width"],
            depth=shape["depth"],
            heads=shape["heads"],
            mlp_width=int(shape["width"] * shape["mlp"]),
            dtype="fp32",
        ),
        qformer=QFormer(
            layers=shape["q_layers"],
            width=shape["q_hidden"],
            heads=shape["q_heads"],
            mlp_width=shape["q_inter"],
            queries=shape["nq"],
            dropout=0.0,
        ),
        contrastive_width=shape["embed"],
    )
    model = build_alignment(config, shape["vocab"], (0.0,) * 3, (1.0,) * 3)
    load_strictly(model, LAVIS_STAGE1.apply(load_file(folder / "weights.safetensors")), folder)
    # the reference's gather carried no gradient, so ITC's reaches each pair's own features only
    objective = Objective(itc=Contrastive(gather=gather))
    rows = expected["batch"]
    batch = PairBatch(
        pixels=tensors["image"],
        text_ids=tensors["input_ids"],
        text_mask=tensors["attention_mask"].bool(),
        image_ids=torch.arange(rows),
        valid=torch.ones(rows, dtype=torch.bool),
    )
    return Case(
        expected,
        tensors,
        AlignmentObjective(model, objective, Ranks(), 0, dec_id=expected["dec_id"]).train(),
        batch,
    )


@pytest.fixture(params=["a", "b4"])
def case(request, shared) -> Case:
    return load(shared / "fixtures" / f"blip2_stage1_{request.param}")


@pytest.fixture
def case_a(shared) -> Case:
    return load(shared / "fixtures" / "blip2_stage1_a")


def test_itc_and_itg(case):
    losses = case.losses()
    assert losses["itc"].item() == pytest.approx(case.expected["losses"]["loss_itc"], rel=1e-4)
    assert losses["itg"].item() == pytest.approx(case.expected["losses"]["loss_lm"], rel=1e-4)


def test_itm_and_the_total(case_a):
    losses = case_a.losses()
    assert losses["itm"].item() == pytest.approx(case_a.expected["losses"]["loss_itm"], rel=1e-4)
    assert sum(losses.values()).item() == pytest.approx(case_a.expected["losses"]["loss"], rel=1e-4)


def test_every_gradient_norm(case_a):
    gradients = case_a.gradients()
    whole = torch.stack([p.grad.norm() for _, p in case_a.objective.model.trained_parameters()]).norm()
    assert whole.item() == pytest.approx(case_a.expected["grad_norm"], rel=1e-4)
    near = {"temp": rounding(temperature_terms(case_a))}  # 0.03 is what is left of terms of 10.7 in all
    assert near["temp"] < 1e-3 * case_a.expected["grad_norms"]["temp"], "a gradient 1 % off would not be seen"
    for name, norm in case_a.expected["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=near.get(name)), name


def temperature_terms(case: Case) -> Tensor:
    """What adds up to the temperature's gradient [b,B]: each pair's, by giving each pair a temperature of its own."""
    model, rows = case.objective.model, len(case.batch.valid)
    model.temperature = torch.nn.Parameter(model.temperature.detach().expand(rows, rows).clone())
    model.zero_grad()
    sum(case.losses().values()).backward()
    return model.temperature.grad


def test_exact_gather_has_the_same_losses_but_more_gradient(case_a, shared):
    exact = load(shared / "fixtures" / "blip2_stage1_a", gather="exact")
    assert exact.losses()["itc"].item() == pytest.approx(case_a.losses()["itc"].item())
    norm = case_a.expected["grad_norms"]["vision_proj.weight"]
    assert exact.gradients()["vision_proj.weight"].norm().item() != pytest.approx(norm, rel=0.1)


def test_features_and_logits(case):
    model, batch, expected = case.objective.model, case.batch, case.tensors
    features = model.encode_image(batch.pixels)
    normed = model.vision_norm(features)
    keys = model.image_keys(features)
    queries, cache = model.qformer.queries(keys)
    image, text = model.image_embeds(queries), model.embed_texts(batch.text_ids, batch.text_mask)
    caption = model.qformer.caption(cache, caption_inputs(batch.text_ids, case.expected["dec_id"]), batch.text_mask)
    found = {
        "image_embeds": normed,
        "query_output": queries,
        "image_feats": image,
        "text_feat": text,
        "sim_i2t": similarities(image, text, image, text)[0],
        "itm_logits_matched": model.match_logits(keys, batch.text_ids, batch.text_mask),
        "itg_logits": model.caption_logits(caption),
    }
    for name, tensor in found.items():
        assert torch.allclose(tensor, expected[f"expected.{name}"], **CLOSE), name
