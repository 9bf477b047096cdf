"""Hugging Face BLIP-2 folders in and out; transformers saves, loads and writes the words."""

import blip2_folders
import pytest
import torch
import transformers
from safetensors.torch import load_file

from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.convert.bundle import read as read_bundle
from vglm_train.checkpoint.convert.source import Options, expected

PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def values(folder) -> dict[str, torch.Tensor]:
    """All tensors of a folder under its own names, by safetensors' own reader."""
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def loaded(kind, folder):
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def ours(bundle):
    """The bundle's model, without a tokenizer."""
    source = read_bundle(bundle, Options())
    if source.stage == "generate":
        from dataclasses import replace

        from vglm_train.model.visual_language import build_visual_language

        language = replace(source.config.model.language, config=str(bundle / "tokenizer"))
        image = source.config.data.image
        model = build_visual_language(replace(source.config.model, language=language), image.mean, image.std)
    else:
        from vglm_train.model.alignment import build_alignment

        image = source.config.data.image
        model = build_alignment(source.config.model, 0, image.mean, image.std)
    model.load_state_dict({name: tensor.read() for name, tensor in source.tensors.items()})
    return model.eval()


@pytest.fixture(scope="module", params=["opt", "t5"])
def case(request, tmp_path_factory):
    """transformers' model and folder, the bundle, and the folder that the bundle becomes."""
    root = tmp_path_factory.mktemp(request.param)
    theirs = blip2_folders.generation(request.param)
    theirs.save_pretrained(root / "there")
    assert main(["import", str(root / "there"), "--out", str(root / "bundle")]) == 0
    assert main(["export", str(root / "bundle"), "--format", "hf-blip2", "--out", str(root / "back")]) == 0
    return theirs, root


def test_there_and_back_tensor_by_tensor(case):
    _, root = case
    assert same(values(root / "there"), values(root / "back"))


def test_ours_there_and_back(case, tmp_path):
    _, root = case
    assert main(["import", str(root / "back"), "--out", str(tmp_path / "again")]) == 0
    for name in ("trained", "vision", "language"):
        file = f"{name}.safetensors"
        assert same(load_file(root / "bundle" / file), load_file(tmp_path / "again" / file)), name


def test_transformers_loads_it_and_writes_the_same(case):
    theirs, root = case
    back = loaded(transformers.Blip2ForConditionalGeneration, root / "back")
    assert torch.equal(blip2_folders.written(back, PIXELS), blip2_folders.written(theirs, PIXELS))
    torch.testing.assert_close(blip2_folders.logits(back, PIXELS), blip2_folders.logits(theirs, PIXELS))


def test_the_imported_model_computes_the_same(case):
    """Visual tokens, and the language model's logits on them and a prompt."""
    theirs, root = case
    model = ours(root / "bundle")
    ids = torch.tensor([[2, 9, 17, 30]]).expand(3, -1)
    with torch.no_grad():
        visual = model.visual_tokens(model.encode_image(PIXELS))
        embeds = torch.cat((visual, model.language.embed(ids)), 1)
        more = {"decoder_input_ids": ids[:, -3:]} if theirs.config.text_config.is_encoder_decoder else {}
        mine = model.language.model(inputs_embeds=embeds, **more).logits
    torch.testing.assert_close(mine, blip2_folders.logits(theirs, PIXELS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("parts", "torch_files"), [(1, True), (3, True), (3, False)])
def test_every_way_transformers_has_saved(case, tmp_path, parts, torch_files):
    theirs, root = case
    there = tmp_path / "there"
    there.mkdir()
    if torch_files:
        blip2_folders.save_torch(theirs, there, parts)
    else:
        theirs.save_pretrained(there, max_shard_size="60KB")
        assert len(list(there.glob("model-*.safetensors"))) > 2
    assert main(["import", str(there), "--out", str(tmp_path / "bundle")]) == 0
    assert main(["diff", str(tmp_path / "bundle"), str(root / "bundle")]) == 0


def test_export_in_parts(case, tmp_path):
    theirs, root = case
    out = tmp_path / "back"
    assert main(["export", str(root / "bundle"), "--format", "hf-blip2", "--out", str(out), "--shard-gb", "6e-5"]) == 0
    assert len(list(out.glob("model-*.safetensors"))) > 2
    back = loaded(transformers.Blip2ForConditionalGeneration, out)
    assert torch.equal(blip2_folders.written(back, PIXELS), blip2_folders.written(theirs, PIXELS))


def test_half_precision_stays_as_it_is(case, tmp_path):
    _, root = case
    transformers.Blip2ForConditionalGeneration.from_pretrained(root / "there", dtype=torch.bfloat16).save_pretrained(
        tmp_path / "there"
    )
    assert main(["import", str(tmp_path / "there"), "--out", str(tmp_path / "bundle")]) == 0
    main(["export", str(tmp_path / "bundle"), "--format", "hf-blip2", "--out", str(tmp_path / "back")])
    assert same(values(tmp_path / "there"), values(tmp_path / "back"))


def test_other_image_sizes(case, tmp_path):
    """Pictures of 32 pixels: transformers interpolates at each call, we once."""
    theirs, root = case
    assert main(["import", str(root / "there"), "--out", str(tmp_path / "bundle"), "--image-size", "32"]) == 0
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    model = ours(tmp_path / "bundle")
    with torch.no_grad():
        expected = theirs.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(model.vision_norm(model.encode_image(pixels)), expected, atol=1e-4, rtol=1e-4)
    assert main(["export", str(tmp_path / "bundle"), "--format", "hf-blip2", "--out", str(tmp_path / "back")]) == 0
    back = loaded(transformers.Blip2ForConditionalGeneration, tmp_path / "back")
    torch.testing.assert_close(back.vision_model(pixels).last_hidden_state, expected, atol=1e-4, rtol=1e-4)


def test_an_image_size_that_patches_do_not_fill(case, tmp_path, capsys):
    assert main(["import", str(case[1] / "there"), "--out", str(tmp_path / "b"), "--image-size", "30"]) == 2
    assert "whole number of patches of 8" in capsys.readouterr().err


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    root = tmp_path_factory.mktemp("retrieval")
    theirs = blip2_folders.retrieval()
    theirs.save_pretrained(root / "there")
    assert main(["import", str(root / "there"), "--out", str(root / "bundle")]) == 0
    out = str(root / "back")
    assert main(["export", str(root / "bundle"), "--format", "hf-blip2-retrieval", "--out", out]) == 0
    return theirs, root


def test_retrieval_there_and_back(retrieval, tmp_path):
    theirs, root = retrieval
    assert same(values(root / "there"), values(root / "back"))
    back = loaded(transformers.Blip2ForImageTextRetrieval, root / "back")
    inputs = {"pixel_values": PIXELS, "input_ids": torch.randint(0, 50, (3, 6)), "attention_mask": torch.ones(3, 6)}
    with torch.no_grad():
        for head in (True, False):
            one, other = (m(**inputs, use_image_text_matching_head=head).logits_per_image for m in (theirs, back))
            torch.testing.assert_close(one, other)


def test_retrieval_computes_the_same(retrieval):
    theirs, root = retrieval
    model = ours(root / "bundle")
    ids, mask = torch.randint(0, 50, (3, 6)), torch.ones(3, 6, dtype=torch.bool)
    inputs = {"pixel_values": PIXELS, "input_ids": ids, "attention_mask": mask.long()}
    with torch.no_grad():
        features, images = model.embed_images(PIXELS)
        cosines = torch.einsum("nqe,be->nbq", images, model.embed_texts(ids, mask)).amax(-1)
        torch.testing.assert_close(theirs(**inputs).logits_per_image, cosines, atol=1e-4, rtol=1e-4)
        matched = theirs(**inputs, use_image_text_matching_head=True).logits_per_image
        mine = model.match_logits(model.image_keys(features), ids, mask)
    torch.testing.assert_close(matched, mine, atol=1e-4, rtol=1e-4)


def test_what_a_class_has_not_is_told(retrieval, tmp_path, capsys):
    _, root = retrieval
    main(["import", str(root / "there"), "--out", str(tmp_path / "bundle")])
    assert "new (6): temperature, caption_head" in capsys.readouterr().out.replace(
        "new (6): caption", "new (6): caption"
    )
    main(["export", str(tmp_path / "bundle"), "--format", "hf-blip2-retrieval", "--out", str(tmp_path / "back")])
    assert "no place for it: " in capsys.readouterr().out


def test_the_model_on_the_meta_device_has_the_names(case):
    _, root = case
    source = read_bundle(root / "bundle", Options())
    wanted = expected(source.config, source.language).state_dict()
    assert {name: tuple(value.shape) for name, value in wanted.items()} == {
        name: tensor.shape for name, tensor in source.tensors.items()
    }
