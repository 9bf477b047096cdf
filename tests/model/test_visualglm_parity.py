"""VisualGLM's own code on SAT 0.4.12 computed the reference; its checkpoint folder is read as it stands."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.checkpoint.load.chatglm import load_visualglm, sat_visualglm
from vglm_train.checkpoint.load.language import load_language
from vglm_train.config.language import Decoding, Language
from vglm_train.config.model import QFormer as QFormerConfig
from vglm_train.config.model import Vision
from vglm_train.model.language import build_language
from vglm_train.model.qformer.qformer import QFormer
from vglm_train.model.vision import build_vision
from vglm_train.model.visual_language import VisualLanguageModel

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "fixtures" / "visualglm_sat_a"


@pytest.fixture(scope="module")
def shape(folder) -> dict:
    return json.loads((folder / "model_config.json").read_text())


@pytest.fixture(scope="module")
def expected(folder) -> dict:
    return json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def tensors(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "batch.safetensors")


def language_config(shape, folder) -> Language:
    return Language(
        weights=str(folder),
        dtype="fp32",
        layers=shape["num_layers"],
        width=shape["hidden_size"],
        heads=shape["num_attention_heads"],
        mlp_width=shape["inner_hidden_size"],
        vocabulary=shape["vocab_size"],
        positions=shape["max_sequence_length"],
    )


@pytest.fixture(scope="module")
def model(shape, folder) -> VisualLanguageModel:
    eva, q = shape["eva_args"], shape["qformer_args"]
    vision = Vision(
        image_size=eva["image_size"][0],
        patch=eva["patch_size"],
        width=eva["hidden_size"],
        depth=eva["num_layers"],
        heads=eva["num_attention_heads"],
        mlp_width=eva["inner_hidden_size"],
        dtype="fp32",
    )
    qformer = QFormerConfig(
        layers=q["num_layers"],
        width=q["hidden_size"],
        heads=q["num_attention_heads"],
        mlp_width=q["inner_hidden_size"],
        queries=q["vocab_size"],
        dropout=0.0,
    )
    model = VisualLanguageModel(
        build_vision(vision),
        QFormer(qformer, vision.width, None),
        build_language(language_config(shape, folder)),
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
    )
    load_visualglm(model, folder)
    return model


@pytest.fixture(scope="module")
def batch(tensors, expected, model) -> PromptBatch:
    ids, start = tensors["input_ids"], expected["pre_image"]
    visual = torch.zeros_like(ids, dtype=torch.bool)
    visual[:, start : start + model.image_length] = True
    labels = tensors["labels"]
    real = torch.ones_like(visual)
    padded = (labels == IGNORED) & (torch.arange(ids.shape[1]) >= expected["context_length"])
    real[padded] = False
    return PromptBatch(
        pixels=tensors["image"],
        valid=torch.ones(len(ids), dtype=torch.bool),
        input_ids=ids,
        attention_mask=real,
        visual_mask=visual,
        labels=labels,
    )


def test_image_side(model, tensors):
    features = model.encode_image(tensors["image"])
    torch.testing.assert_close(model.vision_norm(features), tensors["expected.vit"], **CLOSE)
    queries, _ = model.qformer.queries(model.image_keys(features))
    torch.testing.assert_close(queries, tensors["expected.qformer"], **CLOSE)
    torch.testing.assert_close(model.visual_tokens(features), tensors["expected.image_tokens"], **CLOSE)


def all_logits(model, embeds, batch):
    """Logits of every place but the last, by asking for a target everywhere."""
    labels = batch.input_ids.clone()
    labels[:, 0] = IGNORED
    logits, _ = model.language.score(embeds, replace(batch, labels=labels))
    return logits.view(len(labels), -1, logits.shape[-1])


def test_logits_with_an_image(model, tensors, batch):
    embeds = model.fuse(model.visual_tokens(model.encode_image(batch.pixels)), batch)
    mine, theirs = all_logits(model, embeds, batch), tensors["expected.logits"][:, :-1]
    real = batch.attention_mask[:, :-1]
    torch.testing.assert_close(mine[real], theirs[real], **CLOSE)


def test_logits_of_text_alone(model, tensors, batch):
    mine = all_logits(model, model.language.embed(batch.input_ids), batch)
    real = batch.attention_mask[:, :-1]
    torch.testing.assert_close(mine[real], tensors["expected.text_only_logits"][:, :-1][real], **CLOSE)


def test_positions_are_the_reference_s(model, tensors, batch):
    positions = model.language.layout(batch).positions
    real = batch.attention_mask[:, None].expand_as(positions)
    assert torch.equal(positions[real], tensors["position_ids"][real])


def test_loss_and_gradients_reach_every_part(model, batch, expected):
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    features = model.vision.encoder(batch.pixels)  # the encoder is frozen in use; its gradient is compared all the same
    logits, targets = model.language.score(model.fuse(model.visual_tokens(features), batch), batch)
    loss = F.cross_entropy(logits, targets)
    model.zero_grad()
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    names = list(expected["grad_norms"])
    gradients = sat_visualglm(model).inverse().apply({name: p.grad for name, p in model.named_parameters()})
    found = {name: float(gradients[name].norm()) for name in names}
    assert found == pytest.approx(expected["grad_norms"], rel=1e-4)


def prompt_of(batch, length) -> PromptBatch:
    """The first `length` places of row 0."""
    cut = {name: getattr(batch, name)[:1, :length] for name in ("input_ids", "attention_mask", "visual_mask")}
    return replace(batch, pixels=batch.pixels[:1], valid=batch.valid[:1], labels=batch.labels[:1, :0], **cut)


def test_greedy_cached_and_uncached(model, tensors, batch, expected):
    prompt = prompt_of(batch, expected["context_length"] + 1)  # <sop> included
    new = len(expected["greedy"])
    answer = model.generate(prompt, Decoding(max_new=new), end_id=model.language.sop_id + 1)
    assert answer.tolist() == [expected["greedy"]]
    embeds = model.fuse(model.visual_tokens(model.encode_image(prompt.pixels)), prompt)
    uncached = []
    for _ in range(new):  # the whole sequence again for each id
        uncached.append(next_id(model, embeds, prompt))
        newest = torch.tensor([[uncached[-1]]])
        embeds = torch.cat((embeds, model.language.embed(newest)), 1)
        ids = torch.cat((prompt.input_ids, newest), 1)
        prompt = replace(
            prompt,
            input_ids=ids,
            attention_mask=torch.ones_like(ids, dtype=torch.bool),
            visual_mask=F.pad(prompt.visual_mask, (0, 1)),
        )
    assert uncached == expected["greedy"]


def next_id(model, embeds, prompt) -> int:
    """From a full pass: a place is appended, and what is foretold for it is read."""
    ids = F.pad(prompt.input_ids, (0, 1))
    longer = replace(
        prompt,
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        visual_mask=F.pad(prompt.visual_mask, (0, 1)),
        labels=torch.full_like(ids, IGNORED).index_fill(1, torch.tensor([ids.shape[1] - 1]), 0),
    )
    logits, _ = model.language.score(F.pad(embeds, (0, 0, 0, 1)), longer)
    return int(logits.argmax(-1))


def test_language_part_alone(model, shape, folder):
    config = language_config(shape, folder)
    with torch.device("meta"):
        language = build_language(config)
    load_language(language, config)
    for name, value in model.language.state_dict().items():
        assert torch.equal(language.state_dict()[name], value), name
    assert not any(p.requires_grad for p in language.parameters())


def test_table_is_a_bijection(model, folder):
    theirs = torch.load(folder / "1" / "mp_rank_00_model_states.pt", weights_only=True)["module"]
    for fused in ("thirds", "heads"):
        table = sat_visualglm(model, fused)
        back = table.inverse().apply(table.apply(theirs))
        assert set(back) == set(theirs)
        assert all(torch.equal(back[key], theirs[key]) for key in theirs)
